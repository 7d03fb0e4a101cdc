"""Datasets written anew with another task, in processes and through the cache."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ring_rl.data.goals import GoalRewards
from ring_rl.data.relabel import relabel, relabel_episodes
from ring_rl.data.reward_cache import RewardCache
from ring_rl.data.rlds import read_rlds, write_rlds
from ring_rl.types import Episode

GOAL = GoalRewards((0.0, 0.0), radius=1.0, margin=1.0, name="origin")


@pytest.fixture
def source(tmp_path, spaces, make_episode) -> Path:
    """Seven episodes of different lengths."""
    episodes = (make_episode(3 + i, seed=i) for i in range(7))
    write_rlds(episodes, spaces, tmp_path / "source", name="source", source="test")
    return tmp_path / "source"


@dataclasses.dataclass
class Counting:
    """Pays the sum of the observation; counts the episodes, and fails at one."""

    fail_at: int = -1
    version: str = "1"
    calls: int = 0

    def identity(self) -> str:
        return f"counting {self.version}"

    def task(self, episode: Episode) -> str:
        return f"task of {episode.task}"

    def inputs(self, episode: Episode) -> tuple[np.ndarray, ...]:
        return (episode.observations,)

    def rewards(self, *inputs: np.ndarray) -> np.ndarray:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        return inputs[0].sum(axis=1)


def test_only_rewards_and_task_change(source, tmp_path, assert_same_episode):
    summary = relabel(source, tmp_path / "out", Counting())
    before, after = read_rlds(source), read_rlds(tmp_path / "out")
    assert len(before) == len(after) == summary["episodes"] == 7
    for index in range(7):
        one, other = before.episode(index), after.episode(index)
        rewards = one.observations.sum(axis=1)
        np.testing.assert_array_equal(other.rewards, rewards, strict=True)
        assert other.task == "task of reach"
        assert_same_episode(one, other._replace(rewards=one.rewards, task=one.task))
    returns = [one.sum(dtype=np.float64) for one in np.split(
        after.rewards, after.offsets[1:-1])]  # fmt: skip
    np.testing.assert_allclose(after.returns, returns)


@pytest.mark.parametrize("cached", [False, True])
def test_processes_change_nothing(source, tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        relabel(source, out, GOAL, processes=processes, cache=cache)
    # The files themselves, but for the name of the dataset in them.
    one, two = (read_rlds(tmp_path / name) for name in ("out1", "out2"))
    np.testing.assert_array_equal(one.rewards, two.rewards, strict=True)
    np.testing.assert_array_equal(one.episode_ids, two.episode_ids)
    assert 0 < one.rewards.max() <= 1 and set(one.tasks) == {"origin"}


def test_a_second_run_only_reads(source, tmp_path):
    cache = tmp_path / "cache"
    first, second, newer = Counting(), Counting(), Counting(version="2")
    relabel(source, tmp_path / "one", first, cache=cache)
    relabel(source, tmp_path / "two", second, cache=cache)
    relabel(source, tmp_path / "three", newer, cache=cache)
    assert (first.calls, second.calls, newer.calls) == (7, 0, 7)
    one, two = (read_rlds(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one.rewards, two.rewards, strict=True)


def test_a_run_that_was_ended_goes_on_where_it_was(source, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    ended, resumed = Counting(fail_at=5), Counting()
    with pytest.raises(KeyboardInterrupt):
        relabel(source, out, ended, cache=cache)
    assert not out.exists()
    relabel(source, out, resumed, cache=cache)
    # Those that were computed and not yet passed on when the end came are lost.
    kept = 7 - resumed.calls
    assert 0 < kept <= 5 and len(read_rlds(out)) == 7


class Ending(Counting):
    """Ends the process that computes rewards."""

    rewards = staticmethod(os._exit)

    def inputs(self, episode: Episode) -> tuple[int, ...]:
        return (1,)


def test_a_worker_that_ends_is_one_line(source, tmp_path):
    with pytest.raises(ValueError, match="one was ended, perhaps for want of") as error:
        relabel(source, tmp_path / "out", Ending(), processes=2)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "empty"])
def test_a_damaged_entry_counts_as_missing(tmp_path, make_episode, damage):
    cache = RewardCache(tmp_path / "cache")
    episodes = [make_episode(5)]
    (good,) = relabel_episodes(episodes, Counting(), cache=cache)
    (path,) = (path for path in cache.directory.rglob("*") if path.is_file())
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "longer": content + bytes(4),
            "empty": b"",
        }[damage]
    )
    again = Counting()
    (found,) = relabel_episodes(episodes, again, cache=cache)
    assert again.calls == 1
    np.testing.assert_array_equal(found.rewards, good.rewards)
    assert path.read_bytes() == content


def test_entries_are_of_the_content_and_not_of_the_place(tmp_path, make_episode):
    cache = RewardCache(tmp_path)
    one, two = make_episode(4, seed=1), make_episode(4, seed=2)
    counting = Counting()
    for episodes in ([one, two], [two, one], [one._replace(episode_id=9, task="x")]):
        list(relabel_episodes(episodes, counting, cache=cache))
    assert counting.calls == 2


def test_episodes_are_read_only_as_far_as_needed(make_episode):
    read = []

    def episodes():
        for seed in range(9):
            read.append(seed)
            yield make_episode(3, seed=seed)

    relabelled = relabel_episodes(episodes(), Counting(), ahead=3)
    assert next(relabelled).episode_id == 0 and read == [0, 1, 2]
    assert [one.episode_id for one in relabelled] == list(range(1, 9))


def test_an_episode_that_does_not_fit_is_named(source, tmp_path, make_episode):
    lacking = GoalRewards((0.0,), 1.0, extra="physics")
    with pytest.raises(ValueError, match=r"^episode 0, extras: expected 'physics'"):
        relabel(source, tmp_path / "out", lacking)

    class Wrong(Counting):
        def rewards(self, *inputs):
            return np.full(len(inputs[0]), np.nan)

    with pytest.raises(ValueError, match="^episode 0, rewards: expected 3 finite"):
        list(relabel_episodes([make_episode(3)], Wrong()))
    with pytest.raises(ValueError, match="^processes: expected at least 1, found 0$"):
        relabel(source, tmp_path / "out", Counting(), processes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_dataset_can_be_relabelled_in_its_place(source):
    before = read_rlds(source)
    with pytest.raises(ValueError, match="ask to overwrite it"):
        relabel(source, source, Counting())
    relabel(source, source, Counting(), overwrite=True)
    after = read_rlds(source)
    np.testing.assert_array_equal(before.observations, after.observations)
    assert set(after.tasks) == {"task of reach"}


KILLED = """
import sys, time
from pathlib import Path
from ring_rl.data import workers
from ring_rl.data.goals import GoalRewards
from ring_rl.data.relabel import relabel

source, out, cache = map(Path, sys.argv[1:])

def report(episodes, steps):
    if episodes == 2:
        print("working", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    goal = GoalRewards((0.0, 0.0), radius=1.0, margin=1.0, name="origin")
    relabel(source, out, goal, processes=2, cache=cache, progress=report)
"""


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_a_killed_run_leaves_its_cache_and_nothing_that_looks_complete(
    source, tmp_path
):
    out, cache = tmp_path / "out", tmp_path / "cache"
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    run = subprocess.Popen(
        [sys.executable, script, source, out, cache], stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    with run.stdout as output:
        assert output.readline() == b"working\n"
        workers = _children(run.pid)
        assert workers
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.05)
    assert not out.exists()
    assert len([path for path in cache.rglob("*") if path.is_file()]) >= 2
    relabel(source, out, GOAL, cache=cache)
    assert len(read_rlds(out)) == 7
    # What the killed run left beside it is gone too.
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"source", "out", "cache", "script.py"}
