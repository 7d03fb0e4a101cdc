"""Benchmarks by their command, small enough for tests."""

import json
import os

import jax
import pytest

from ring_rl.bench import matmul
from ring_rl.cli import main


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(matmul, "TILES", (16,))
    monkeypatch.setattr(matmul, "_CPU_FLOPS", 1e5)
    monkeypatch.setattr(matmul, "_ACCELERATOR_FLOPS", 1e5)
    # From here on the command cannot change the number of this process's devices.
    jax.devices()
    # It adds to these, for a process of its own.
    for name in ("XLA_FLAGS", "MUJOCO_GL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture
def bench(capsys):
    """Runs `ring-rl bench` with these words; its records."""

    def run(words: str) -> list[dict]:
        code = main(["bench", *words.split(), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return [json.loads(line) for line in captured.out.splitlines()]

    return run
