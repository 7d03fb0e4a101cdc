"""`ring-rl bench store`: a dataset larger than the memory that working with it takes.

A D4RL file of random numbers is imported, its arrays are mapped, and batches are drawn
from it. Memory is anonymous: what the process itself holds, without mapped pages of
files, which the system takes back when it needs them.
"""

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ring_rl.bench.config import check_counts
from ring_rl.bench.machine import memory_bytes
from ring_rl.bench.records import Record, Say, make_record
from ring_rl.data.chains import ChainConfig
from ring_rl.data.importing import import_dataset
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.data.store import open_store
from ring_rl.data.tokens import TokenConfig

# In the shapes of D4RL's HalfCheetah.
_OBSERVATION, _ACTION = 17, 6
_BLOCK_STEPS = 1 << 18  # random numbers that are written again and again
_SAMPLE_SECONDS = 0.005


@dataclasses.dataclass(frozen=True)
class StoreConfig:
    """How large a dataset, and how much is drawn from it.

    Attributes:
      steps: of the dataset.
      episode_steps: of each of its episodes.
      batches: that are drawn.
      rows: B, of a batch.
      trajectories: largest number of episodes in a chain.
      folder: where the files are made, and removed again; None is the system's for
        temporary files. They take 300 bytes a step.
    """

    steps: int = 20_000_000
    episode_steps: int = 1000
    batches: int = 20
    rows: int = 16
    trajectories: int = 4
    folder: Path | None = None

    def __post_init__(self):
        """Checks the ranges."""
        counts = ("steps", "episode_steps", "batches", "rows", "trajectories")
        check_counts(self, counts, least=1)
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(f"{self.folder}: expected a folder, found none")


def measure(config: StoreConfig, say: Say) -> Iterator[Record]:
    """A record for each stage: import, open, sample, look at every episode.

    Raises:
      ValueError: there is no /proc, which says how much memory is anonymous.
    """
    if memory_bytes("RssAnon") is None:
        raise ValueError("bench: expected /proc to read memory from, found none")
    with tempfile.TemporaryDirectory(
        prefix="ring_rl-bench-", dir=config.folder
    ) as folder:
        file, dataset = Path(folder) / "source.hdf5", Path(folder) / "dataset"
        say(f"write {config.steps} steps to import")
        write_d4rl(file, config.steps, config.episode_steps)

        def stage(name: str, run: Callable[[], Any]) -> tuple[Any, Record]:
            say(name)
            result, record = _measured(name, run)
            return result, record | {"steps": config.steps}

        _, record = stage("import", lambda: import_dataset(file, "d4rl", dataset))
        file.unlink()
        yield record
        store, record = stage("open", lambda: open_store(dataset))
        kept = [path for path in dataset.rglob("*.npy")]
        yield record | {"array_bytes": sum(path.stat().st_size for path in kept)}
        loader = ChainLoader(
            store,
            LoaderConfig(rows=config.rows),
            ChainConfig(trajectories=config.trajectories),
            TokenConfig(),
            seed=0,
        )
        _, record = stage(
            "sample", lambda: [_none(loader.batch(i)) for i in range(config.batches)]
        )
        yield record | {"batches": config.batches, "rows": config.rows}
        order = np.random.default_rng(0).permutation(len(store))
        _, record = stage(
            "every episode, shuffled",
            lambda: sum(float(store.episode(int(i)).rewards.sum()) for i in order),
        )
        yield record


def _none(value: Any) -> None:
    """Nothing: a list of these keeps no batch."""
    del value


def write_d4rl(path: Path, steps: int, episode_steps: int) -> None:
    """A D4RL file of random numbers whose episodes are all of one length."""
    random = np.random.default_rng(0)
    block = min(_BLOCK_STEPS, steps)
    columns = {
        "observations": random.standard_normal((block, _OBSERVATION), np.float32),
        "actions": random.uniform(-1, 1, (block, _ACTION)).astype(np.float32),
        "rewards": random.random(block, np.float32),
        "terminals": np.zeros(block, bool),
    }
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            shape = (steps, *values.shape[1:])
            made = file.create_dataset(name, shape, values.dtype, chunks=True)
            for start in range(0, steps, block):
                made[start : start + block] = values[: min(block, steps - start)]
        timeouts = file.create_dataset("timeouts", (steps,), bool, chunks=True)
        for start in range(0, steps, block):
            rows = np.arange(start, min(start + block, steps))
            timeouts[rows[0] : rows[-1] + 1] = (rows + 1) % episode_steps == 0


def _measured(name: str, run: Callable[[], Any]) -> tuple[Any, Record]:
    """What a stage returns, and its record."""
    before = memory_bytes("RssAnon")
    cpu, wall = time.process_time(), time.perf_counter()
    with _most_anonymous() as most:
        result = run()
    return result, make_record(
        "store",
        implementation=name,
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
        anonymous_bytes_before=before,
        anonymous_bytes=most[0],
        resident_bytes=memory_bytes("VmRSS"),
    )


@contextlib.contextmanager
def _most_anonymous() -> Iterator[list[int]]:
    """The largest anonymous memory seen while the block runs, as the one item."""
    most, done = [0], threading.Event()

    def sample() -> None:
        while True:
            most[0] = max(most[0], memory_bytes("RssAnon") or 0)
            if done.wait(_SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
