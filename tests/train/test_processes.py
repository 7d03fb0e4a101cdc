"""Several processes with some of the devices each train as one with all of them."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ..addresses import free_address
from .meshes import ALL_MESHES, CONTINUOUS, MESHES, STEPS, run

PROGRAM = Path(__file__).with_name("mesh_process.py")


def start(processes: int, devices: int, out: Path, *words: str) -> None:
    """Runs the program in so many processes to its end."""
    address = free_address()
    words += ("--processes", str(processes), "--devices", str(devices))
    words += ("--address", address, "--out", str(out))
    with contextlib.ExitStack() as stack:
        started = []
        for process in range(processes):
            # A file: a pipe that nobody reads may be full.
            errors = stack.enter_context((out / f"errors-{process}").open("w"))
            command = [sys.executable, PROGRAM, *words, "--process", str(process)]
            one = subprocess.Popen(command, stdout=errors, stderr=errors)
            started.append(one)
            stack.callback(one.wait)
            stack.callback(one.kill)
        for process, one in enumerate(started):
            code = one.wait(timeout=1800)
            assert code == 0, (out / f"errors-{process}").read_text()


# With RING_RL_ALL_MESHES=1 each on 2 and on 4 processes: 15 minutes on two cores.
SOME = {2: ["data, fsdp"], 4: ["all"]}
if ALL_MESHES:
    SOME = dict.fromkeys(SOME, list(MESHES))


@pytest.mark.slow
@pytest.mark.parametrize("processes", SOME)
def test_any_mesh_over_processes(processes, tmp_path):
    names = SOME[processes]
    start(processes, 8, tmp_path, *(f"--mesh={name}" for name in names))
    wide, _ = run(1, "contiguous", "fused", CONTINUOUS, wide=True, rows=4)
    one, first = run(1, "contiguous", "fused", CONTINUOUS, rows=4)
    assert len(set(wide)) == STEPS
    largest = max(np.abs(gradient).max() for gradient in first)
    for name in names:
        with np.load(tmp_path / f"{name}.npz") as found:
            np.testing.assert_allclose(found["wide"], wide, rtol=1e-9)
            assert abs(found["first"] - one[0]) <= 1e-6 * one[0]
            for index, expected in enumerate(first):
                np.testing.assert_allclose(
                    found[f"gradient {index}"], expected, rtol=0, atol=1e-5 * largest
                )


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(tmp_path):
    """Begun on 8 devices in one, it continues on 4 in two, and then on 2 in one."""
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    whole.mkdir()
    moved.mkdir()
    start(1, 8, whole, "--updates", str(2 * STEPS))
    start(1, 8, moved, "--updates", "6")
    start(2, 4, moved, "--updates", "6")
    start(1, 2, moved, "--updates", str(2 * STEPS))
    losses = []
    for folder in (whole, moved):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(set(losses[0])) == len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)
