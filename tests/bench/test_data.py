"""Benchmarks of datasets, on few steps."""

import numpy as np
import pytest

from ring_rl.bench import data, datasets
from ring_rl.bench.records import KEYS
from ring_rl.data.rlds import read_rlds


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(datasets, "HOPPER_STEPS", 300)
    monkeypatch.setattr(datasets, "HOPPER_EPISODES", 7)
    # Of the observations, actions and extras.
    monkeypatch.setattr(data, "_WRITTEN_BYTES", 300 * (14 * 4 + 12 * 8))


def test_every_kind_of_work_is_measured(bench):
    found = bench("data --runs 3 --rows 2 --trajectories 3 --processes 2")
    written = [r for r in found if r["implementation"] == "write more"]
    assert [record["processes"] for record in written] == [1, 2]
    assert [record["steps"] for record in written] == [600, 600]
    assert [record["runs"] for record in written] == [2, 2]
    records = {record["implementation"]: record for record in found}
    del records["write more"]
    assert list(records) == [
        "read array_record",
        "read tfrecord",
        "read to a store",
        "write",
        "chains, interleaved",
        "chains, fused",
        "read, memory",
    ]
    memory = records.pop("read, memory")
    assert memory["tensorflow_imported"] is False
    # 300 steps of 16 float32 and 12 float64.
    assert memory["array_bytes"] == 300 * (16 * 4 + 12 * 8)
    assert memory["imported_bytes"] > 10e6
    for name, record in records.items():
        assert set(KEYS) <= set(record) and record["runs"] == 3
        amount = record[record["unit"]]
        rate = record["per_cpu_second"]
        assert rate == pytest.approx(amount / record["cpu_seconds"])
        if not name.startswith("chains"):
            assert (amount, record["episodes"]) == (300, 7)
    # Five tokens a step, and the same chains.
    fused = records["chains, fused"]["tokens"]
    assert records["chains, interleaved"]["tokens"] == 5 * fused > 0


def test_the_copy_in_tfrecord_is_the_same_episodes(tmp_path):
    dataset = datasets.prepare(None, tmp_path)
    copy = read_rlds(datasets.as_tfrecord(dataset, tmp_path / "tfrecord"))
    store = read_rlds(dataset)
    assert copy.spaces == store.spaces and len(copy) == len(store) == 7
    for name in ("observations", "actions", "rewards", "offsets", "episode_ids"):
        one, other = getattr(copy, name), getattr(store, name)
        np.testing.assert_array_equal(one, other, name, strict=True)
    assert copy.extras.keys() == store.extras.keys()


def test_the_synthetic_dataset_has_the_shapes_of_hoppers(tmp_path):
    store = read_rlds(datasets.prepare(None, tmp_path))
    assert store.observations.shape == (300, 11) and store.actions.shape == (300, 3)
    for name in ("infos/qpos", "infos/qvel"):
        assert store.extras[name].shape == (300, 6)
        assert store.extras[name].dtype == np.float64


def test_a_source_that_there_is_not_is_one_line(tmp_path, capsys):
    from ring_rl.cli import main

    assert main(["bench", "data", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ring-rl: error: ") and "nothing: expected a" in error
