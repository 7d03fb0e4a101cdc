"""README's first command, with a third of its updates: does the context pay?"""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_last_trial_is_above_the_first_with_disjoint_intervals(tmp_path):
    # A process of its own: four devices, optimised, and no checks of types.
    own = ("JAX_NUM_CPU_DEVICES", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    own += ("XLA_FLAGS", "MUJOCO_GL", "PJRT_NPROC")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    # README's 1600 updates take seven minutes of a core and add two to the last trial.
    words = ["train", "dark-room", "--loop.steps", "500"]
    program = "import sys; from ring_rl.cli import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    folder = tmp_path / "runs" / "dark-room" / "evaluation"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    first, last = evaluation["first"], evaluation["last"]
    assert last["low"] > first["high"]
    assert evaluation["counts"]["tasks"] == 16
    assert evaluation["counts"]["rollouts"] >= 160
    assert (folder / "return_by_trial.png").exists()
    assert "first" in result.stdout and "max of n" in result.stdout
