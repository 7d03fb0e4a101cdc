"""Exploration by novelty: what it learns, and that its parts go on from each other."""

import dataclasses

import numpy as np
import pytest

from ring_rl.collect import (
    RndCollector,
    RndConfig,
    collect_dataset,
    collection,
    describe,
    look,
)
from ring_rl.collect.parts import part_path, write_part
from ring_rl.collect.rnd import Explorer
from ring_rl.configs.collecting import collect_by_name
from ring_rl.configs.recording import Place
from ring_rl.data.rlds import read_rlds
from ring_rl.types import Continuous, Episode, Spaces

SMALL = RndConfig(width=16, features=8, batch=16, every=4, burst=2, warmup=40)
PENDULUM = Place("Pendulum-v1", (("max_episode_steps", 20),))
SPACES = Spaces(2, Continuous((-1.0,), (3.0,)))


def collector(learners=1, seed=0):
    spaces, horizon = look(PENDULUM, seed)
    about = describe(PENDULUM, repr(SMALL), seed, ("",))
    return RndCollector(
        PENDULUM, SMALL, ("",), seed, learners, spaces, horizon, about, part_steps=60
    )


def make(collector, number, folder):
    """A part, written; its actions."""
    recorded, episodes = [], collector.part(number, folder)
    while True:
        try:
            recorded.append(next(episodes))
        except StopIteration as end:
            write_part(part_path(folder, number), recorded, end.value)
            return np.concatenate([entry.episode.actions for entry in recorded])


def test_parts_depend_on_the_seed_and_on_the_parts_before_them(tmp_path):
    def parts(name, **options):
        folder = tmp_path / name
        folder.mkdir()
        explorer = collector(**options)
        return [make(explorer, number, folder) for number in range(3)]

    one, again, other = parts("one"), parts("again"), parts("other", seed=1)
    np.testing.assert_array_equal(one, again)
    assert all(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    # Each of two explorers knows nothing of the other.
    two = parts("two", learners=2)
    np.testing.assert_array_equal(two[0], one[0])
    assert not np.array_equal(two[2], one[2])
    (tmp_path / "alone").mkdir()
    np.testing.assert_array_equal(
        make(collector(learners=2), 1, tmp_path / "alone"), two[1]
    )
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"part-000000.npz", "part-000001.npz", "part-000002.npz"}


def episode(observations, actions):
    steps = len(actions)
    zeros = np.zeros(steps, np.float32)
    return Episode(
        observations[:-1], actions, zeros, zeros + 1, observations[-1], True, False,
        True, "", 0, {},
    )  # fmt: skip


def test_the_actor_goes_where_little_was_seen():
    """On a line, seen at its left end a hundred times as often as at its right."""
    config = dataclasses.replace(
        SMALL, width=32, batch=64, every=1, burst=20, learning_rate=3e-3, noise=0.0,
        discount=0.5,
    )  # fmt: skip
    explorer = Explorer(config, SPACES, 1000, seed=0, draws=0)
    random = np.random.default_rng(0)
    place = np.float32(0)
    seen, taken = [], []
    for step in range(1000):
        # An action above the middle of the bounds goes right.
        action = np.float32(random.uniform(-1, 3))
        seen.append([place, 0.1 * random.normal()])
        taken.append([action])
        right = action > 1 and step % 50 == 0
        place = np.float32(1 if right else 0.0)
    seen.append([place, 0.0])
    explorer.remember(episode(np.array(seen, np.float32), np.array(taken, np.float32)))
    start = np.zeros((1, 2), np.float32)
    for _ in range(400):
        action = explorer.act(start, [None])
    assert -1 <= action[0, 0] <= 3
    assert action[0, 0] > 1.5, "towards the right"


def test_actions_are_random_at_first_and_within_the_bounds():
    explorer = Explorer(SMALL, SPACES, 10, seed=0, draws=0)
    start = np.zeros((1, 2), np.float32)
    actions = np.array([explorer.act(start, [None]) for _ in range(200)])
    assert -1 <= actions.min() < -0.8 and 2.8 < actions.max() <= 3


def test_a_state_of_another_explorer_is_refused():
    state = Explorer(SMALL, SPACES, 10, seed=0, draws=0).state()
    wider = dataclasses.replace(SMALL, width=8)
    with pytest.raises(ValueError, match="expected the state of this explorer"):
        Explorer(wider, SPACES, 10, seed=0, draws=0).restore(state)


@pytest.mark.slow
def test_the_dataset_depends_neither_on_processes_nor_on_interruptions(
    tmp_path, monkeypatch
):
    def files(folder):
        return {path.name: path.read_bytes() for path in folder.glob("*train*")}

    def full(*given, **options):
        raise OSError("full")

    explorer = collector(learners=2)
    collect_dataset(explorer, tmp_path / "one", steps=300)
    # Whole parts, and one that was cut where it was enough, which is not any more.
    with monkeypatch.context() as patch, pytest.raises(OSError, match="are kept in"):
        patch.setattr(collection, "write_rlds_files", full)
        collect_dataset(explorer, tmp_path / "two", steps=140)
    collect_dataset(explorer, tmp_path / "two", steps=300, processes=2)
    one, two = (read_rlds(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one.actions, two.actions)
    assert list(files(tmp_path / "one").values()) == list(
        files(tmp_path / "two").values()
    )


@pytest.mark.slow
def test_swinging_up_is_found_by_novelty(tmp_path):
    collect_by_name(
        "exorl/cartpole_swingup", "rnd", steps=30_000, out=tmp_path / "data"
    )
    returns = read_rlds(tmp_path / "data").returns
    # A random policy's mean is 25, and 65 at most one time in twenty.
    assert returns[-10:].mean() > 80
