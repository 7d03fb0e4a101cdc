import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ring_rl.data import store
from ring_rl.data.rlds import read_rlds, write_rlds
from ring_rl.data.store import ARRAYS_NAME, open_store
from ring_rl.types import Discrete, Spaces

PER_STEP = ("observations", "actions", "rewards", "discounts", "past_rewards")


@pytest.fixture
def write(make_episode, spaces, tmp_path):
    def write(lengths=(5, 1, 7), *, spaces=spaces, overwrite=False, **fields):
        episodes = [
            make_episode(steps, seed=seed, spaces=spaces, task="ab"[seed % 2], **fields)
            for seed, steps in enumerate(lengths)
        ]
        directory = tmp_path / "dataset"
        write_rlds(
            episodes, spaces, directory, name="made", source="here", overwrite=overwrite
        )
        return directory

    return write


def is_mapped(array):
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@pytest.mark.parametrize("discrete", [False, True])
def test_a_mapped_store_is_the_one_in_memory(
    write, spaces, assert_same_episode, discrete
):
    directory = write(spaces=Spaces(3, Discrete(4)) if discrete else spaces)
    held = read_rlds(directory)
    for _ in range(2):  # made, then found
        store = open_store(directory)
        assert store.spaces == held.spaces
        assert len(store) == len(held) == 3
        for index in range(3):
            assert_same_episode(store.episode(index), held.episode(index))
        for name in PER_STEP:
            array = getattr(store, name)
            np.testing.assert_array_equal(array, getattr(held, name), strict=True)
            assert is_mapped(array)
        assert is_mapped(store.extras["infos/qpos"])
        for one, other in zip(store.moments, held.moments, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
        with pytest.raises(ValueError, match="read-only"):
            store.rewards[0] = 1


def test_past_rewards_are_those_of_the_episode_before_the_step(write):
    store = open_store(write())
    for index in range(3):
        steps = slice(store.offsets[index], store.offsets[index + 1])
        rewards = store.rewards[steps].astype(np.float64)
        expected = np.cumsum(rewards) - rewards
        np.testing.assert_array_equal(store.past_rewards[steps], expected)


def test_other_records_get_other_arrays(write):
    directory = write()
    assert len(open_store(directory)) == 3
    made = (directory / ARRAYS_NAME / "index.json").stat().st_mtime_ns
    open_store(directory)
    assert (directory / ARRAYS_NAME / "index.json").stat().st_mtime_ns == made
    assert set(open_store(directory, task="other").tasks) == {"other"}
    write((2, 3), overwrite=True)
    store = open_store(directory)
    assert store.lengths.tolist() == [2, 3] and set(store.tasks) == {"a", "b"}


def test_progress_is_told_while_arrays_are_made(write):
    told = []
    directory = write()
    open_store(directory, progress=lambda *counts: told.append(counts))
    assert told == [(1, 5), (2, 6), (3, 13)]
    open_store(directory, progress=lambda *counts: told.append(counts))
    assert len(told) == 3


def test_a_dataset_that_cannot_be_written_to_is_cached(write, tmp_path, monkeypatch):
    directory = write()
    monkeypatch.setenv("RING_RL_CACHE", str(tmp_path / "cache"))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != directory and access(path, mode)
    )
    assert len(open_store(directory)) == 3
    assert not (directory / ARRAYS_NAME).exists()
    (place,) = (tmp_path / "cache" / "stores").iterdir()
    made = (place / "index.json").stat().st_mtime_ns
    assert len(open_store(directory)) == 3
    assert (place / "index.json").stat().st_mtime_ns == made


def _cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def _pickled(path):
    np.save(path, np.array([{}, {}, {}], object), allow_pickle=True)


def _unordered(path):
    np.save(path, np.array([0, 6, 5, 13]))


def _absurd(path):
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**60,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("rewards.npy", _cut),
        ("rewards.npy", lambda path: path.unlink()),
        ("rewards.npy", _absurd),
        ("rewards.npy", lambda path: path.write_bytes(b"")),
        ("tasks.npy", _pickled),
        ("offsets.npy", _unordered),
        ("extras%2Finfos%2Fqpos.npy", lambda path: np.save(path, np.zeros((4, 4)))),
        ("observations.npy", lambda path: np.save(path, np.zeros((13, 4)))),
    ],
)
def test_a_damaged_array_is_named(write, name, damage):
    directory = write()
    open_store(directory)
    damage(directory / ARRAYS_NAME / name)
    with pytest.raises(ValueError) as found:
        open_store(directory)
    assert name in str(found.value) and "\n" not in str(found.value)


def test_a_flipped_bit_is_found_where_it_is_looked_for(write):
    directory = write()
    open_store(directory, verify=True)
    path = directory / ARRAYS_NAME / "rewards.npy"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    open_store(directory)
    with pytest.raises(ValueError, match="rewards.npy: expected the array that was"):
        open_store(directory, verify=True)


def test_records_that_are_gone_are_missed(write):
    directory = write()
    open_store(directory)
    (record,) = directory.glob("*.array_record*")
    record.unlink()
    with pytest.raises(ValueError, match="array_record.*found no file"):
        open_store(directory)


def test_arrays_made_by_another_process_meanwhile_are_as_good(write, monkeypatch):
    directory = write()
    opened = store.open_rlds

    def open_later(*arguments, **options):
        monkeypatch.setattr(store, "open_rlds", opened)
        spaces, episodes = opened(*arguments, **options)

        def given():
            yield from episodes
            assert len(open_store(directory)) == 3  # the other process

        return spaces, given()

    monkeypatch.setattr(store, "open_rlds", open_later)
    assert len(open_store(directory)) == 3
    assert not list(directory.glob(".*"))


def test_arrays_without_an_index_say_what_to_do(write):
    directory = write()
    open_store(directory)
    (directory / ARRAYS_NAME / "index.json").unlink()
    with pytest.raises(ValueError, match=r"expected index.json.*remove the folder"):
        open_store(directory)


def test_a_damaged_index_is_named(write):
    directory = write()
    open_store(directory)
    path = directory / ARRAYS_NAME / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"identity": index["identity"]}))
    with pytest.raises(ValueError, match="index of a store"):
        open_store(directory)


def test_records_that_break_off_leave_no_arrays(write):
    directory = write()
    (record,) = directory.glob("*.array_record*")
    record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(ValueError):
        open_store(directory)
    assert not any(directory.glob("*arrays*"))


_ANONYMOUS = """
import sys
from pathlib import Path
import numpy as np
from ring_rl.data.store import open_store

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

store = open_store(Path(sys.argv[1]))
before = anonymous()
total = sum(float(store.episode(i).observations.sum()) for i in range(len(store)))
print(total, anonymous() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_looking_at_every_step_costs_no_memory_of_ones_own(make_episode, tmp_path):
    spaces = Spaces(500, Discrete(4))
    episodes = (
        make_episode(1000, seed=seed, spaces=spaces, extras={}) for seed in range(20)
    )
    write_rlds(episodes, spaces, tmp_path / "wide", name="wide", source="here")
    command = [sys.executable, "-c", _ANONYMOUS, str(tmp_path / "wide")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    total, grown = map(float, found.stdout.split())
    # 40 MB of observations were summed.
    assert np.isfinite(total) and grown < 10
