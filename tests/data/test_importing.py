import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ring_rl.data.d4rl import read_d4rl
from ring_rl.data.importing import import_dataset
from ring_rl.data.rlds import read_rlds


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_d4rl_becomes_rlds(d4rl_file, tmp_path, assert_same_episode):
    path = d4rl_file(40, terminals=(3, 20), timeouts=(8, 30))
    seen = []
    summary = import_dataset(
        path,
        "d4rl",
        tmp_path / "deep" / "dataset",
        action_bounds=(-2.0, 2.0),
        task="hop",
        progress=lambda episodes, steps: seen.append((episodes, steps)),
    )
    assert (summary["steps"], summary["episodes"]) == (40, 5)
    assert summary["tasks"] == {"hop": 5}
    assert summary["spaces"]["action"]["high"] == [2.0, 2.0]
    assert seen == [(1, 4), (2, 9), (3, 21), (4, 31), (5, 40)]
    store = read_rlds(tmp_path / "deep" / "dataset")
    for index, episode in enumerate(read_d4rl(path, task="hop")):
        assert_same_episode(store.episode(index), episode)
    assert names(tmp_path / "deep") == ["dataset"]


def test_rlds_is_copied_and_checked(d4rl_file, tmp_path, assert_same_episode):
    first, second = tmp_path / "first", tmp_path / "second"
    import_dataset(d4rl_file(), "d4rl", first, action_bounds=(-2.0, 2.0))
    import_dataset(first, "rlds", second)
    left, right = read_rlds(first), read_rlds(second)
    assert left.spaces == right.spaces
    for index in range(len(left)):
        assert_same_episode(left.episode(index), right.episode(index))
    with pytest.raises(ValueError, match="max_episode_steps: expected none for rlds"):
        import_dataset(first, "rlds", tmp_path / "third", max_episode_steps=5)
    renamed = import_dataset(first, "rlds", tmp_path / "third", task="stand")
    assert renamed["tasks"] == {"stand": 3}


def test_a_dataset_may_be_replaced_by_itself(d4rl_file, tmp_path):
    import_dataset(d4rl_file(), "d4rl", tmp_path / "dataset")
    before = names(tmp_path)
    dataset = tmp_path / "dataset"
    import_dataset(dataset, "rlds", dataset, overwrite=True, task="stand")
    assert set(read_rlds(dataset).tasks) == {"stand"}
    assert names(tmp_path) == before


def test_unknown_formats_are_told_the_known(d4rl_file, tmp_path):
    with pytest.raises(ValueError, match="expected one of d4rl, rlds, found 'csv'"):
        import_dataset(d4rl_file(), "csv", tmp_path / "dataset")


@pytest.mark.parametrize("parent", ["", "new/deeper"])
def test_a_failed_import_leaves_nothing(d4rl_file, tmp_path, parent):
    rewards = np.zeros(40, np.float32)
    rewards[35] = np.nan
    path = d4rl_file(40, terminals=tuple(range(3, 40, 4)), rewards=rewards)
    before = names(tmp_path)
    with pytest.raises(ValueError, match="rewards: expected finite .* row 35"):
        import_dataset(path, "d4rl", tmp_path / parent / "dataset")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="expected a complete HDF5 file"):
        import_dataset(path, "d4rl", tmp_path / parent / "dataset")
    assert names(tmp_path) == before


def test_a_failure_while_reporting_leaves_nothing(d4rl_file, tmp_path):
    path = d4rl_file()
    before = names(tmp_path)

    def full_terminal(episodes, steps):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        import_dataset(path, "d4rl", tmp_path / "dataset", progress=full_terminal)
    assert names(tmp_path) == before


IMPORT_AND_HANG = """
import sys, time
from pathlib import Path
from ring_rl.data.importing import import_dataset

def hang(episodes, steps):
    print("importing", flush=True)
    time.sleep(60)

import_dataset(Path(sys.argv[1]), "d4rl", Path(sys.argv[2]), progress=hang)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_import_leaves_no_dataset(d4rl_file, tmp_path, number):
    path, dataset = d4rl_file(), tmp_path / "dataset"
    before = names(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORT_AND_HANG, str(path), str(dataset)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout.readline() == b"importing\n"
        os.kill(process.pid, number)
        start = time.monotonic()
        assert process.wait(timeout=30) != 0
        assert time.monotonic() - start < 30
    assert not dataset.exists()
    if number != signal.SIGKILL:  # which no process can answer
        assert names(tmp_path) == before
    import_dataset(path, "d4rl", dataset)
    assert names(tmp_path) == sorted([*before, "dataset"])


def test_death_between_the_two_renames_of_a_replacement(d4rl_file, tmp_path):
    dataset = tmp_path / "dataset"
    import_dataset(d4rl_file(), "d4rl", dataset, task="precious")
    abandoned = tmp_path / ".dataset.partial-x"
    abandoned.mkdir()
    dataset.rename(abandoned / "old")
    with pytest.raises(ValueError, match="expected a new directory"):
        import_dataset(d4rl_file(), "d4rl", dataset)
    assert set(read_rlds(dataset).tasks) == {"precious"}
    assert not abandoned.exists()
