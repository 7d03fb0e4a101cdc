"""`ring-rl bench data`: reading, writing, and making batches of a dataset.

Rates are per CPU-second, user and system, of all threads and processes that worked.
"""

import dataclasses
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ring_rl.bench import datasets
from ring_rl.bench.config import check_counts
from ring_rl.bench.records import Record, Say, make_record
from ring_rl.bench.timing import Times
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.data.rlds import open_rlds, read_rlds, write_rlds
from ring_rl.data.tokens import TokenConfig

_BATCHES = 8
# What each of several processes writes. It takes seconds, beside which their start
# counts little, and so few runs.
_WRITTEN_BYTES = 256 << 20
_LARGE_RUNS = 2


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read and how it is batched.

    Attributes:
      source: an RLDS dataset's folder or a D4RL file; None is a synthetic one.
      processes: that write, where more than one does.
      trajectories: largest number of episodes in a chain.
      rows: B, of a batch.
      runs: timed repetitions of each, after one that is not timed.
    """

    source: Path | None = None
    processes: int = 2
    trajectories: int = 4
    rows: int = 16
    runs: int = 5

    def __post_init__(self):
        """Checks the ranges."""
        check_counts(self, ("processes", "trajectories", "rows", "runs"), least=1)


class _Work(NamedTuple):
    """One thing that is timed.

    Attributes:
      name: what a record calls it.
      run: does all of it; returns nothing that is kept.
      amount: how many steps, or tokens, that is.
      unit: `steps` or `tokens`.
      notes: more for the record.
      most_runs: no more than these, whatever is asked for; 0 is no limit.
    """

    name: str
    run: Callable[[], Any]
    amount: int
    unit: str
    notes: dict[str, Any]
    most_runs: int = 0


def measure(config: DataConfig, say: Say) -> Iterator[Record]:
    """A record for each kind of work, and one for the memory of reading.

    Raises:
      ValueError: the source is not a dataset.
    """
    with tempfile.TemporaryDirectory(prefix="ring_rl-bench-") as folder:
        say("prepare the dataset")
        dataset = datasets.prepare(config.source, Path(folder))
        for work in _works(config, dataset, Path(folder)):
            yield _timed(work, config.runs, say)
        say("read in a process of its own")
        memory = read_apart(dataset)
        yield make_record("data", implementation="read, memory", **memory)


def _works(config: DataConfig, dataset: Path, folder: Path) -> Iterator[_Work]:
    """Prepared one after the other: each may lay files down that the next needs."""
    store = read_rlds(dataset)
    steps = int(store.lengths.sum())
    counts = {"episodes": len(store)}

    def read(directory: Path) -> Callable[[], Any]:
        def run() -> None:
            for _ in open_rlds(directory)[1]:
                pass

        return run

    yield _Work("read array_record", read(dataset), steps, "steps", counts)
    tfrecord = datasets.as_tfrecord(dataset, folder / "tfrecord")
    yield _Work("read tfrecord", read(tfrecord), steps, "steps", counts)
    yield _Work("read to a store", lambda: read_rlds(dataset), steps, "steps", counts)

    each = store.observations.nbytes + store.actions.nbytes
    each += sum(values.nbytes for values in store.extras.values())
    times = max(1, math.ceil(_WRITTEN_BYTES * config.processes / each))

    def write(times: int, processes: int) -> Callable[[], Any]:
        def run() -> None:
            write_rlds(
                (store.episode(i) for _ in range(times) for i in range(len(store))),
                store.spaces,
                folder / "written",
                name="written",
                source="memory",
                overwrite=True,
                processes=processes,
            )

        return run

    yield _Work("write", write(1, 1), steps, "steps", counts | {"processes": 1})
    for processes in dict.fromkeys((1, config.processes)):
        notes = {"processes": processes, "episodes": times * len(store)}
        run = write(times, processes)
        amount = times * steps
        yield _Work("write more", run, amount, "steps", notes, _LARGE_RUNS)
    for layout in ("interleaved", "fused"):
        loader = ChainLoader(
            store,
            LoaderConfig(rows=config.rows),
            ChainConfig(trajectories=config.trajectories),
            TokenConfig(layout=layout),
            seed=0,
        )
        tokens = sum(
            int((loader.batch(step).tokens.segments >= 0).sum())
            for step in range(_BATCHES)
        )

        def batches(loader: ChainLoader = loader) -> None:
            for step in range(_BATCHES):
                loader.batch(step)

        notes = {"rows": config.rows, "trajectories": config.trajectories}
        yield _Work(f"chains, {layout}", batches, tokens, "tokens", notes)


def _timed(work: _Work, runs: int, say: Say) -> Record:
    times = Times([], [])
    runs = min(runs, work.most_runs or runs)
    for run in range(runs + 1):
        say(f"{work.name}, run {run} of {runs}")
        cpu, wall = _cpu_seconds(), time.perf_counter()
        work.run()
        if run:  # the first one loads what it needs
            times.wall.append(time.perf_counter() - wall)
            times.cpu.append(_cpu_seconds() - cpu)
    found = times.summary()
    return make_record(
        "data",
        implementation=work.name,
        runs=runs,
        **work.notes,
        **{work.unit: work.amount},
        **found,
    ) | {
        "unit": work.unit,
        "per_cpu_second": work.amount / found["cpu_seconds"],
        "per_second": work.amount / found["wall_seconds"],
    }


def _cpu_seconds() -> float:
    """User and system time of this process, and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# Run by itself, so that nothing else's memory is counted.
_READ = """
import json, sys
from pathlib import Path
from ring_rl.bench.machine import memory_bytes
from ring_rl.data.rlds import read_rlds

before = memory_bytes("VmRSS")
store = read_rlds(Path(sys.argv[1]))
found = {
    "added_bytes": memory_bytes("VmHWM") - before,
    "imported_bytes": before,
    "array_bytes": store.observations.nbytes + store.actions.nbytes
    + store.rewards.nbytes + store.discounts.nbytes
    + sum(values.nbytes for values in store.extras.values()),
    "tensorflow_imported": "tensorflow" in sys.modules,
}
print(json.dumps(found))
"""


def read_apart(dataset: Path) -> dict[str, Any]:
    """What reading a dataset adds to a new process at its peak, in bytes.

    Nothing where the system does not say (there is no /proc).
    """
    if not Path("/proc/self/status").exists():
        return {}
    words = [sys.executable, "-c", _READ, str(dataset)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
