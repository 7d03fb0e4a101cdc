"""Whole collections: the same dataset however it came about, and what faults leave."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ring_rl.cli import main
from ring_rl.collect import UniformBehaviour, collection
from ring_rl.configs.collecting import training_tasks
from ring_rl.configs.recording import Place, collect
from ring_rl.configs.run import DarkRoom, PointMass
from ring_rl.data.rlds import read_rlds

ROOM = DarkRoom(size=4, max_steps=8, held_out=2)
# Off in what a shell's background job starts.
COMMAND = """
import signal, sys
from ring_rl.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
HOPPER = Place("Hopper-v5", (("max_episode_steps", 30),))


def random(spaces):
    return UniformBehaviour(spaces.action)


def rooms(out, **options):
    settings = {"steps": 400, "tasks": ROOM.training_tasks, "part_steps": 80}
    return collect(ROOM, random, out=out, **settings | options)


def files(folder):
    """The bytes of a dataset."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stop_at(parts):
    """A progress that ends the collection after so many reports."""
    seen = []

    def progress(episodes, steps):
        seen.append(steps)
        if len(seen) > parts:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("place", [ROOM, HOPPER])
def test_the_dataset_depends_neither_on_processes_nor_on_interruptions(tmp_path, place):
    def make(name, **options):
        folder = tmp_path / name / "data"
        settings = {"steps": 300, "part_steps": 80, "rows": 2, "seed": 3}
        collect(place, random, out=folder, **settings | options)
        return folder

    whole, apart = make("whole"), make("apart", processes=2)
    with pytest.raises(KeyboardInterrupt, match=r"episodes \(\d+ steps\) are kept in"):
        make("ended", progress=stop_at(2))
    assert not (tmp_path / "ended" / "data").exists()
    ended = make("ended")
    assert files(whole) == files(apart) == files(ended)
    assert [entry.name for entry in ended.parent.iterdir()] == ["data"]


def test_what_was_complete_is_not_made_again(tmp_path, monkeypatch):
    out = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        rooms(out, progress=stop_at(3))
    begun = []
    work = collection._work_on
    monkeypatch.setattr(
        collection, "_work_on", lambda *given: begun.append(given[1]) or work(*given)
    )
    rooms(out)
    assert begun == [3, 4]


def test_fewer_steps_are_the_beginning_of_more(tmp_path):
    less, more = tmp_path / "less", tmp_path / "more"
    options = {"seed": 1, "part_steps": 90}
    first = collect(HOPPER, random, out=less, steps=150, **options)
    collect(HOPPER, random, out=more, steps=400, **options)
    few, many = read_rlds(less), read_rlds(more)
    assert 150 <= first["steps"] < 150 + few.lengths[-1]
    np.testing.assert_array_equal(few.actions, many.actions[: first["steps"]])
    np.testing.assert_array_equal(few.observations, many.observations[: first["steps"]])
    assert len({row.tobytes() for row in many.observations[many.offsets[:-1]]}) == len(
        many.returns
    ), "every episode starts elsewhere, in every part"


def test_episodes_go_round_the_tasks_or_are_one_for_each(tmp_path):
    tasks = list(ROOM.training_tasks)
    rooms(tmp_path / "round", steps=8 * 3 * len(tasks))
    assert read_rlds(tmp_path / "round").tasks.tolist() == tasks * 3
    each = tasks[::-1] * 2
    rooms(tmp_path / "each", steps=None, tasks=each)
    assert read_rlds(tmp_path / "each").tasks.tolist() == each


def test_the_manifest_says_what_was_done(tmp_path):
    collect(HOPPER, random, out=tmp_path / "data", steps=40, seed=5)
    manifest = json.loads((tmp_path / "data" / "ring_rl_manifest.json").read_text())
    about = manifest["collection"]
    assert about["seed"] == 5 and "Hopper-v5" in about["environment"]
    assert about["policy"].startswith("UniformBehaviour")
    assert about["versions"]["mujoco"]
    assert set(read_rlds(tmp_path / "data").tasks) == {"Hopper-v5"}


class Broken:
    """The room, broken at the third episode of every part while it is `broken`."""

    rows, episodes = 1, 0

    def __init__(self, broken, seed):
        self._rows = ROOM.make(1, seed=seed)
        self.spaces = self._rows.spaces
        self.max_episode_steps = self._rows.max_episode_steps
        self._broken = broken

    def reset(self, rows, tasks=None):
        self.episodes += 1
        return self._rows.reset(rows, tasks)

    def step(self, actions):
        observations, rewards, terminated, truncated = self._rows.step(actions)
        if self.episodes > 2:
            if self._broken == "raises":
                raise RuntimeError("the simulator\nis gone")
            if self._broken == "nan":
                rewards = rewards * np.nan
        return observations, rewards, terminated, truncated

    def close(self):
        self._rows.close()


@dataclasses.dataclass
class BreaksLater:
    """Makes a room that is broken once so many were made."""

    kind: str
    after: int
    made: int = dataclasses.field(default=0, repr=False)

    def make(self, rows, *, seed):
        self.made += 1
        kind = self.kind if self.made > self.after else ""
        return Broken(kind, seed)

    def __repr__(self):
        return "room"


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("raises", "part 2, episode 2: expected the environment and the policy to go "
                   "on, found RuntimeError: the simulator is gone"),
        ("nan", "episode 2, rewards: expected finite numbers, found nan"),
    ],
)  # fmt: skip
def test_a_fault_in_mid_episode_keeps_what_was_complete(tmp_path, kind, found):
    out = tmp_path / "data"
    settings = {"tasks": ROOM.training_tasks, "steps": 300, "part_steps": 80}
    with pytest.raises(ValueError, match=found) as caught:
        # One is made to look at.
        collect(BreaksLater(kind, after=3), random, out=out, **settings)
    assert "20 episodes (160 steps) are kept in" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    collect(BreaksLater("", after=0), random, out=out, **settings)
    rooms(tmp_path / "whole", steps=300)
    whole = read_rlds(tmp_path / "whole")
    np.testing.assert_array_equal(read_rlds(out).actions, whole.actions)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; 20 episodes \(160"):
        rooms(tmp_path / "data")
    assert [entry.name for entry in tmp_path.iterdir()] == [".data.collecting"]
    assert not list((tmp_path / ".data.collecting").glob(".partial-*"))
    monkeypatch.undo()
    assert rooms(tmp_path / "data")["steps"] == 400


def test_parts_of_another_collection_are_not_mixed_in(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rooms(tmp_path / "data", progress=stop_at(1))
    with pytest.raises(ValueError, match="another collection: seed 0 instead of 1"):
        rooms(tmp_path / "data", seed=1)
    with pytest.raises(ValueError, match="another collection: environment"):
        collect(HOPPER, random, out=tmp_path / "data", steps=10)


def test_nothing_complete_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="nothing was complete yet"):
        rooms(tmp_path / "data", progress=stop_at(0))
    assert not list(tmp_path.iterdir())


def test_two_at_once_are_refused(tmp_path):
    def again(episodes, steps):
        if steps == 80:
            rooms(tmp_path / "data")

    with pytest.raises(ValueError, match="found that one is running"):
        rooms(tmp_path / "data", progress=again)


def test_what_stands_there_is_replaced_on_request_only(tmp_path):
    rooms(tmp_path / "data", steps=80)
    with pytest.raises(ValueError, match="expected a new directory"):
        rooms(tmp_path / "data", steps=160)
    assert rooms(tmp_path / "data", steps=160, overwrite=True)["steps"] == 160
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected a dataset to overwrite"):
        rooms(tmp_path / "letters", overwrite=True)
    with pytest.raises(ValueError, match="steps: expected at least 1"):
        rooms(tmp_path / "other", steps=0)


@pytest.mark.parametrize("processes", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(tmp_path, processes):
    out = tmp_path / "data"
    words = ["data", "collect", "ring_rl/DarkRoom-v0", "--policy", "random"]
    words += ["--out", str(out), "--processes", processes]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words, "--steps", "100000000"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    kept = tmp_path / ".data.collecting"
    try:
        deadline = time.monotonic() + 600
        while not list(kept.glob("part-*.npz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    (line,) = [line for line in said.splitlines() if "interrupted" in line]
    assert "ring-rl: interrupted: " in line and f"are kept in {kept}" in line
    assert "Traceback" not in said
    assert not out.exists()
    # What is there is enough.
    assert main([*words, "--steps", "20000"]) == 0
    assert not kept.exists()
    assert len(read_rlds(out).rewards) == 20000


def test_bad_words_are_one_line_each(tmp_path, capsys):
    def complaint(*words):
        out = ["--out", str(tmp_path / "x"), "--steps", "10"]
        assert main(["data", "collect", *words, *out]) == 2
        return capsys.readouterr().err

    assert "expected random, noise-ladder, rnd" in complaint(
        "Hopper-v5", "--policy", "rnadom"
    )
    assert "the nearest are" in complaint("Hoper-v5", "--policy", "random")
    assert "--base: expected the actor" in complaint(
        "Hopper-v5", "--policy", "noise-ladder"
    )
    assert "--learners: expected none for --policy random" in complaint(
        "Hopper-v5", "--policy", "random", "--learners", "2"
    )
    assert "rnd: expected an environment of continuous actions" in complaint(
        "CartPole-v1", "--policy", "rnd"
    )
    assert "takes no task" in complaint(
        "CartPole-v1", "--policy", "random", "--tasks", "a;b"
    )
    assert "exorl: expected continuous actions" in complaint(
        "CartPole-v1", "--policy", "random", "--format", "exorl"
    )
    assert "seed: expected 0 or more" in complaint(
        "CartPole-v1", "--policy", "random", "--seed=-1"
    )
    assert not list(tmp_path.iterdir())


def test_hidden_task_families_are_collected_for_their_training_tasks():
    assert training_tasks("ring_rl/DarkRoom-v0") == DarkRoom().training_tasks
    maze = PointMass(walls=True)
    assert training_tasks(maze.id) == maze.training_tasks
    assert training_tasks("ring_rl/Walker-v0") == ("stand", "walk", "run", "flip")
    assert training_tasks("Hopper-v5") == ("",)
