import dataclasses

import numpy as np
import pytest

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.moments import combine_moments, mean_and_deviation
from ring_rl.types import Discrete, Spaces


@pytest.fixture
def store(make_episode, spaces):
    episodes = [
        make_episode(steps, seed=seed, task=task)
        for seed, (steps, task) in enumerate([(5, "b"), (1, "a"), (7, "b")])
    ]
    return EpisodeStore.from_episodes(episodes, spaces)


def test_episodes_come_back_as_views(store, make_episode, assert_same_episode):
    assert len(store) == 3
    assert store.lengths.tolist() == [5, 1, 7]
    episode = store.episode(2)
    assert_same_episode(episode, make_episode(7, seed=2, task="b"))
    assert_same_episode(store.episode(-1), episode)
    for name in ("observations", "actions", "rewards", "discounts"):
        assert np.shares_memory(getattr(episode, name), getattr(store, name))
    assert np.shares_memory(episode.extras["infos/qpos"], store.extras["infos/qpos"])
    for index in (3, -4):
        with pytest.raises(IndexError, match="below 3"):
            store.episode(index)


def test_returns_are_summed_in_float64(make_episode, spaces):
    # In float32, 2**24 + 1 is 2**24: a long sum would stop growing.
    rewards = np.array([2.0**24, 1, 1, 1], np.float32)
    store = EpisodeStore.from_episodes([make_episode(4, rewards=rewards)], spaces)
    assert store.returns.tolist() == [2.0**24 + 3]


def test_select_reorders_repeats_and_may_be_empty(store, assert_same_episode):
    chosen = store.select([2, 0, 2])
    assert chosen.lengths.tolist() == [7, 5, 7]
    for index, original in enumerate([2, 0, 2]):
        assert_same_episode(chosen.episode(index), store.episode(original))
    np.testing.assert_array_equal(chosen.returns, store.returns[[2, 0, 2]])
    empty = store.select([])
    assert len(empty) == 0
    assert empty.returns.shape == (0,)
    with pytest.raises(ValueError, match="at least one episode"):
        empty.moments  # noqa: B018
    with pytest.raises(IndexError):
        store.select([3])


def test_by_task(store):
    tasks = store.by_task()
    assert {name: list(indices) for name, indices in tasks.items()} == {
        "a": [1],
        "b": [0, 2],
    }


def test_statistics_equal_two_passes_over_many_chunks(make_episode, spaces):
    steps = 150_000  # three chunks
    episode = make_episode(steps, extras={})
    episode.observations[:, 0] += 1e4  # a running sum of squares would lose the rest
    episode.observations[:, 1] = 7
    store = EpisodeStore.from_episodes([episode], spaces)
    mean, deviation = mean_and_deviation(store.moments)
    exact = store.observations.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation[[0, 2]], exact.std(axis=0)[[0, 2]], rtol=1e-9)
    assert deviation[1] == 1e-3
    assert mean_and_deviation(store.moments, floor=0.5)[1][1] == 0.5


def test_memory_mapped_arrays(store, tmp_path, assert_same_episode):
    mapped = {}
    for name in ("observations", "actions", "rewards", "discounts"):
        np.save(tmp_path / f"{name}.npy", getattr(store, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    on_disk = dataclasses.replace(store, **mapped)
    assert isinstance(on_disk.episode(1).rewards, np.memmap)
    assert_same_episode(on_disk.episode(2), store.episode(2))
    np.testing.assert_array_equal(on_disk.returns, store.returns)
    np.testing.assert_array_equal(
        mean_and_deviation(on_disk.moments), mean_and_deviation(store.moments)
    )


def nan_at(values, index):
    values = values.copy()
    values[index] = np.nan
    return values


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rewards": np.zeros(3, np.float32)}, r"observations: expected \[3, 3\]"),
        ({"rewards": np.zeros(0, np.float32)}, "rewards: expected steps"),
        ({"discounts": np.ones(5, np.float32)}, r"discounts: expected \[4\]"),
        (
            {"actions": np.zeros((4, 3), np.float32)},
            r"actions: expected \[4, 2\] float32, found \[4, 3\]",
        ),
        (
            {"final_observation": np.zeros(4, np.float32)},
            r"final_observation: expected \[3\]",
        ),
        (
            {"rewards": np.array([0, np.inf, 0, 0], np.float32)},
            r"rewards: expected finite numbers, found inf at \[1\]",
        ),
        (
            {"observations": nan_at(np.zeros((4, 3), np.float32), (2, 1))},
            r"observations: expected finite numbers, found nan at \[2, 1\]",
        ),
        ({"extras": {"infos/qpos": np.zeros((3, 4))}}, "extras 'infos/qpos': exp.* 4"),
        ({"extras": {}}, "extras: expected .*infos/qpos.* as in the first"),
        ({"extras": {"infos/qpos": np.zeros((4, 4), np.float32)}}, "extras: expected"),
        ({"rewards": np.zeros(4, np.float64)}, "rewards: expected .*float32, .*64"),
    ],
)
def test_a_bad_episode_is_named(make_episode, spaces, fields, message):
    episodes = [make_episode(6), make_episode(4, **fields)]
    with pytest.raises(ValueError, match=f"^episode 1, {message}"):
        EpisodeStore.from_episodes(episodes, spaces)


def test_discrete_actions_are_in_range(make_episode):
    spaces = Spaces(3, Discrete(4))
    good = make_episode(6, spaces=spaces)
    assert EpisodeStore.from_episodes([good], spaces).actions.dtype == np.int32
    for action in (-1, 4):
        actions = good.actions.copy()
        actions[2] = action
        with pytest.raises(ValueError, match="episode 0, actions: expected 0 to 3"):
            EpisodeStore.from_episodes([good._replace(actions=actions)], spaces)


def test_no_episodes(spaces):
    with pytest.raises(ValueError, match="at least one episode"):
        EpisodeStore.from_episodes([], spaces)


def test_statistics_of_several_stores_are_of_all_their_steps(make_episode, spaces):
    def shifted(steps, seed):
        episode = make_episode(steps, seed=seed)
        return episode._replace(observations=episode.observations * seed + 10 * seed)

    episodes = [shifted(steps, seed) for seed, steps in enumerate((7, 30, 11))]
    together = EpisodeStore.from_episodes(episodes, spaces)
    apart = [EpisodeStore.from_episodes(part, spaces) for part in
             (episodes[:1], episodes[1:])]  # fmt: skip
    combined = combine_moments([store.moments for store in apart])
    assert combined.rows == together.moments.rows == 48
    for one, other in zip(combined, together.moments, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
