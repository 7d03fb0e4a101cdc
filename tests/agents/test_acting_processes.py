"""Acting with a cache that two processes share, against one process and one device."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ..addresses import free_address

PROGRAM = Path(__file__).with_name("acting_process.py")


@pytest.fixture
def start():
    """Starts processes, and kills all of them at the end, whatever became of them."""
    started: list[subprocess.Popen] = []

    def begin(processes: int, devices: int) -> list[subprocess.Popen]:
        address = free_address()
        words = f"--processes {processes} --devices {devices} --address {address}"
        for process in range(processes):
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        PROGRAM,
                        *words.split(),
                        "--process",
                        str(process),
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started[-processes:]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def logits(started: list[subprocess.Popen]) -> list[np.ndarray]:
    """What each of the processes printed, `[steps rows outputs]`."""
    ended = [process.communicate(timeout=900) for process in started]
    for process, (_, error) in zip(started, ended, strict=True):
        assert process.returncode == 0, error
    # Gloo says who it is connected to on the same stream, before.
    return [np.array(json.loads(out.splitlines()[-1])) for out, _ in ended]


@pytest.mark.slow
def test_two_processes_act_as_one(start):
    alone, shared = start(1, 1), start(2, 2)
    (one,) = logits(alone)
    for each in logits(shared):
        assert each.shape == one.shape == (12, 2, 4)
        # f32 sums in another order; logits are of size 1.
        np.testing.assert_allclose(each, one, rtol=0, atol=1e-5)
    # Steps differ, so that an answer that never changes is none.
    assert np.abs(np.diff(one, axis=0)).max(axis=(1, 2)).min() > 1e-3
