import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ring_rl.data.formats.d4rl import open_d4rl
from ring_rl.data.importing import import_dataset
from ring_rl.data.manifest import read_manifest, sha256
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
    for index, episode in enumerate(open_d4rl(path, task="hop")[1]):
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
    with pytest.raises(ValueError, match="expected one of d4rl, .*, found 'csv'"):
        import_dataset(d4rl_file(), "csv", tmp_path / "dataset")


def test_every_other_format_becomes_rlds(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "obs": random.normal(size=(9, 3)).astype(np.float32),
        "act": random.integers(4, size=9),
        "rew": np.arange(9.0),
        "start": np.isin(np.arange(9), [0, 4]),
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    keys = {"observations": "obs", "actions": "act", "rewards": "rew"}
    summary = import_dataset(
        tmp_path / "mine.npz",
        "npz",
        tmp_path / "npz",
        keys=keys | {"starts": "start"},
        discrete=5,
    )
    assert (summary["steps"], summary["episodes"]) == (9, 2)
    assert summary["spaces"]["action"] == {"kind": "discrete", "size": 5}
    buffer = tmp_path / "point" / "rnd" / "buffer"
    buffer.mkdir(parents=True)
    rows = {
        "observation": np.zeros((4, 2), np.float32),
        "action": np.zeros((4, 1), np.float32),
        "reward": np.ones((4, 1), np.float32),
        "discount": np.ones((4, 1), np.float32),
        "physics": np.arange(8.0).reshape(4, 2),
    }
    np.savez(buffer / "episode_000000_3.npz", **rows)
    summary = import_dataset(buffer, "exorl", tmp_path / "exorl")
    assert summary["tasks"] == {"point": 1}
    np.testing.assert_array_equal(
        read_rlds(tmp_path / "exorl").extras["physics"], rows["physics"][1:]
    )


def test_the_manifest_says_where_a_dataset_is_from(d4rl_file, tmp_path):
    path = d4rl_file()
    import_dataset(path, "d4rl", tmp_path / "one")
    manifest = read_manifest(tmp_path / "one")
    assert manifest["source"] == f"{path.name} sha256 {sha256(path)}"
    assert manifest["reader"] == "d4rl"
    assert "d4rl_template.hdf5" in manifest["files"]
    import_dataset(tmp_path / "one", "rlds", tmp_path / "two")
    # What sha256sum prints about the files of a folder, by name, hashed again.
    files = sorted(set(names(tmp_path / "one")) - {"arrays"})
    lines = "".join(f"{sha256(tmp_path / 'one' / name)}  {name}\n" for name in files)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    source = read_manifest(tmp_path / "two")["source"]
    assert source == f"one ({len(files)} files) sha256 {expected}"


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("d4rl", {"keys": {"a": "b"}}, "keys: expected none for d4rl, .* hdf5 and npz"),
        ("rlds", {"discrete": 3}, "discrete: expected none for rlds, found 3"),
        ("exorl", {"max_episode_steps": 3}, "expected none for exorl, .* for d4rl"),
        ("npz", {"data_dir": Path("x")}, "data_dir: expected none but for tfds:NAME"),
        (None, {}, "format: expected one of d4rl, exorl, .*found None"),
    ],
)
def test_options_of_other_formats_are_refused(tmp_path, format, options, message):
    with pytest.raises(ValueError, match=message):
        import_dataset(tmp_path / "x", format, tmp_path / "dataset", **options)


def test_names_of_tfds_are_looked_up(d4rl_file, tmp_path):
    prepared = tmp_path / "tfds" / "d4rl_mujoco_hopper" / "v2-medium" / "1.2.0"
    import_dataset(d4rl_file(), "d4rl", tmp_path / "hopper")
    prepared.parent.mkdir(parents=True)
    (tmp_path / "hopper").rename(prepared)
    source = Path("tfds:d4rl_mujoco_hopper/v2-medium")
    summary = import_dataset(source, None, tmp_path / "a", data_dir=tmp_path / "tfds")
    assert summary["steps"] == 12
    with pytest.raises(ValueError, match="format: expected rlds for tfds:d4rl_muj"):
        import_dataset(source, "d4rl", tmp_path / "b", data_dir=tmp_path / "tfds")


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
import signal, sys, time
from pathlib import Path
from ring_rl.data.importing import import_dataset

def hang(episodes, steps):
    print("importing", flush=True)
    time.sleep(60)

# Off in what a shell's background job starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
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
        assert process.wait(timeout=300) != 0
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
