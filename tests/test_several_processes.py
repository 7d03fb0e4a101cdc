"""Several processes as one run: the command, what it writes, and how it ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ring_rl import processes
from ring_rl.cli import main

from .addresses import free_address

# Tests of what is lost do not wait as long as a user should.
PROGRAM = (
    "import sys\n"
    "from ring_rl import watching\n"
    "from ring_rl.cli import main\n"
    "watching.LOST_AFTER = {lost_after}\n"
    "sys.exit(main())\n"
)
TINY = (
    "train dark-room --environment.size 3 --environment.held-out 3 "
    "--environment.max-steps 6 --data.episodes 10 --agent.trunk.layers 1 "
    "--agent.trunk.width 16 --agent.trunk.heads 2 --loader.rows 2 "
    "--loader.row-steps 48 --loop.log-every 2 --loop.checkpoint-every 2 "
    "--evaluation.trials 3 --evaluation.rollouts 3 --mesh.sequence 4"
)
# Processes that are killed in the test of that; RESULTS.md has ten.
KILLS = int(os.environ.get("RING_RL_KILLS", "2"))
GOES_ON = "the same commands go on from the last checkpoint"


class Started:
    """Two processes with two devices each, in a folder of theirs."""

    def __init__(self, folder: Path, lost_after: float = 40.0):
        self.folder, self.run = folder, folder / "runs" / "dark-room"
        self._program = PROGRAM.format(lost_after=lost_after)
        self.processes: list[subprocess.Popen] = []

    def start(self, *words: str, own: dict[int, str] | None = None) -> None:
        """Starts both; `own` are words of one of them."""
        address = free_address()
        words += ("--coordinator", address, "--num-processes", "2")
        for index in range(2):
            more = (own or {}).get(index, "").split()
            self.begin(*words, "--process-id", str(index), *more)

    def begin(self, *words: str, devices: int = 2) -> None:
        """Starts one."""
        number = len(self.processes)
        output, errors = (self.folder / f"{name}-{number}" for name in ("out", "err"))
        with output.open("w") as out, errors.open("w") as err:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", self._program, *words],
                    cwd=self.folder,
                    env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
                    stdout=out,
                    stderr=err,
                )
            )

    def ended(self, index: int) -> tuple[int, str, list[str]]:
        """Exit code, output, and the lines of ring_rl among the errors."""
        code = self.processes[index].wait(timeout=600)
        output = (self.folder / f"out-{index}").read_text()
        errors = (self.folder / f"err-{index}").read_text()
        lines = [x for x in errors.splitlines() if x.startswith("ring-rl: ")]
        assert code == 0 or lines, errors
        return code, output, lines

    def wait_for(self, lines: int) -> None:
        """Waits until so many lines of metrics are there."""
        metrics = self.run / "metrics.jsonl"
        deadline = time.monotonic() + 600
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline, "no metrics were written"
            for index, process in enumerate(self.processes):
                assert process.poll() is None, self.ended(index)
            time.sleep(0.05)

    def close(self) -> None:
        """Kills what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []


@pytest.fixture
def started(tmp_path):
    found = Started(tmp_path)
    yield found
    found.close()


@pytest.fixture
def impatient(tmp_path):
    found = Started(tmp_path, lost_after=8.0)
    yield found
    found.close()


def metrics(run: Path, name: str) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


@pytest.mark.slow
def test_two_processes_are_one_run(started, tmp_path, monkeypatch, capsys):
    words = [*TINY.split(), "--loop.steps", "4"]
    started.start(*words)
    (code, output, _), (other, nothing, _) = map(started.ended, range(2))
    assert (code, other) == (0, 0)
    # The same with all devices in this process.
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.chdir(alone)
    for name in ("prepare", "keep_compilations"):
        monkeypatch.setattr(f"ring_rl.runtime.{name}", lambda: None)
    assert main(words) == 0
    one = alone / "runs" / "dark-room"
    for name in ("config.json", "data.json", "evaluation/evaluation.json"):
        assert (started.run / name).read_bytes() == (one / name).read_bytes()
    np.testing.assert_allclose(
        metrics(started.run, "loss"), metrics(one, "loss"), rtol=1e-6
    )
    # Results are printed once, and nothing beside them.
    assert output == capsys.readouterr().out
    assert nothing == ""
    # An evaluation alone, in other numbers than it was trained in.
    started.close()
    started.start("evaluate", "runs/dark-room", "--trials", "2", "--json")
    code, output, _ = started.ended(0)
    assert code == 0
    assert main(["evaluate", "runs/dark-room", "--trials", "2", "--json"]) == 0
    assert json.loads(output) == json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_what_is_killed_ends_the_other_and_loses_nothing(impatient):
    """At moments drawn at random, most of them while a checkpoint is written."""
    draw = random.Random(0)
    words = (*TINY.split(), "--loop.steps", "4000", "--no-evaluate")
    kept, lines = 0, 0
    for number in range(KILLS):
        # The last of them is the one that coordinates.
        victim = 0 if number == KILLS - 1 else draw.randrange(2)
        impatient.start(*words)
        impatient.wait_for(lines + draw.randrange(3, 8))
        time.sleep(draw.random())
        impatient.processes[victim].send_signal(signal.SIGKILL)
        code, _, said = impatient.ended(1 - victim)
        assert code == 1
        why = "has not been heard of for 8 s" if victim else "its runtime ended it"
        assert len(said) == 1 and why in said[0] and said[0].endswith(GOES_ON)
        impatient.close()
        complete = [
            int(path.name)
            for path in (impatient.run / "checkpoints").iterdir()
            if path.name.isdigit()
        ]
        assert max(complete) > kept
        kept = max(complete)
        # The next of them begins there.
        lines = kept // 2
    # One process with all devices ends it.
    impatient.begin(*words, devices=4)
    impatient.wait_for(lines + 2)
    impatient.processes[0].send_signal(signal.SIGTERM)
    code, _, said = impatient.ended(0)
    assert code == 0 and "its checkpoint is complete" in said[0]
    steps = metrics(impatient.run, "step")
    assert steps == list(range(2, 2 * len(steps) + 1, 2)) and steps[-1] > kept


@pytest.mark.slow
def test_one_that_is_told_to_stop_stops_both(started):
    started.start(*TINY.split(), "--loop.steps", "4000", "--no-evaluate")
    started.wait_for(3)
    started.processes[1].send_signal(signal.SIGTERM)
    (code, _, said), (other, _, same) = map(started.ended, range(2))
    assert (code, other) == (0, 0)
    assert said == same and "stopped at update" in said[0]
    done = said[0].split("update ")[1].split()[0]
    assert (started.run / "checkpoints" / done).is_dir()


@pytest.mark.slow
def test_one_that_stands_still_ends_the_other(impatient):
    impatient.start(*TINY.split(), "--loop.steps", "4000", "--no-evaluate")
    impatient.wait_for(3)
    # The one that coordinates: nobody answers the other any more.
    impatient.processes[0].send_signal(signal.SIGSTOP)
    code, _, said = impatient.ended(1)
    assert code == 1
    assert said == [
        "ring-rl: error: process 1 of 2 ends: process 0 of 2 has not been heard of for "
        f"8 s; {GOES_ON}"
    ]


@pytest.mark.slow
def test_processes_that_disagree_do_not_begin(started):
    words = (*TINY.split(), "--no-evaluate")
    started.start(*words, own={1: "--loop.steps 6"})
    for code, _, said in map(started.ended, range(2)):
        assert code in (1, 2)
        assert "expected the same configuration in all, found ..." in said[0]
        assert "steps=6" in said[0]
    assert not started.run.exists()


@pytest.mark.slow
def test_a_cluster_is_found_and_its_mesh_checked(started, monkeypatch):
    """SLURM's variables, as `srun` sets them for each task."""
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost,node[002-003]")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for index in range(2):
        monkeypatch.setenv("SLURM_PROCID", str(index))
        monkeypatch.setenv("SLURM_LOCALID", str(index))
        started.begin(*TINY.split(), "--cluster", "slurm", "--mesh.sequence", "2")
    for code, _, said in map(started.ended, range(2)):
        assert code in (1, 2)
        assert "data=1 x sequence=2 needs 2 devices, found 4 in all" in said[0]
    assert not started.run.exists()


@pytest.mark.slow
def test_one_that_fails_ends_the_other(started):
    """What it was that failed stands in both."""
    started.start(*TINY.split(), own={1: "--environment.size 0"})
    (other, _, heard), (code, _, said) = map(started.ended, range(2))
    assert (code, other) == (2, 1)
    assert said[0].removeprefix("ring-rl: error: ") in heard[0]
    assert not started.run.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-processes 2", "missing --coordinator, --process-id"),
        ("--coordinator here --num-processes 2 --process-id 0", "found 'here'"),
        (
            "--coordinator here:99 --num-processes 2 --process-id 2",
            "--process-id: expected 0 to 1 of 2 processes, found 2",
        ),
        ("--cluster slurm --process-id 2", "expected instead of --coordinator"),
    ],
)
def test_options_that_make_no_sense(words, message, monkeypatch, capsys):
    for name in ("prepare", "keep_compilations"):
        monkeypatch.setattr(f"ring_rl.runtime.{name}", lambda: None)
    assert main(["train", "dark-room", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not processes.several()
