"""The stream over several processes, against one."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ring_rl.bench.synthetic import make_store
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.data.tokens import TokenConfig

from ..addresses import free_address

PROGRAM = Path(__file__).with_name("streaming_process.py")


def run(processes, *, devices, layout, form):
    """What each of the processes printed."""
    address = free_address()
    words = f"--processes {processes} --devices {devices} --address {address}"
    words += f" --layout {layout} --form {form}"
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, *words.split(), "--process", str(process)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        ended = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, error) in zip(started, ended, strict=True):
        assert process.returncode == 0, error
    return [json.loads(out) for out, _ in ended]


@pytest.mark.parametrize(
    ("layout", "form"), [("zigzag", "fused"), ("striped", "interleaved")]
)
def test_two_processes_make_the_stream_of_one(layout, form):
    one = run(1, devices=4, layout=layout, form=form)
    two = run(2, devices=4, layout=layout, form=form)
    found = {**two[0]["parts"], **two[1]["parts"]}
    assert len(found) == len(two[0]["parts"]) + len(two[1]["parts"]) > 20
    assert found == one[0]["parts"]
    # And both are the batch in natural order, which no device had a part in.
    store = make_store(40, 300, observation=20, action=3)
    loader = ChainLoader(
        store, LoaderConfig(rows=2, row_steps=6000), ChainConfig(trajectories=16),
        TokenConfig(layout=form), seed=0,
    )  # fmt: skip
    leaves = jax.tree.leaves(loader.batch(5))
    for index, digest in found.items():
        expected = hashlib.sha256()
        for leaf in leaves:
            expected.update(np.ascontiguousarray(leaf[:, int(index)]).tobytes())
        assert digest == expected.hexdigest()
    # Each makes and holds its own half only; the plan of the rows is common.
    for half in two:
        assert half["peak"] < 0.6 * one[0]["peak"]
