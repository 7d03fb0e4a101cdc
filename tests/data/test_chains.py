import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_rl.data.chains import (
    ChainConfig,
    crop,
    draw_members,
    group_episodes,
    in_hindsight,
    make_chain,
    member_weights,
)
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.rows import Row
from ring_rl.types import Continuous, Episode, Spaces

SPACES = Spaces(2, Continuous((-1.0,), (1.0,)))

# Small whole numbers: sums are exact, and equal returns are common.
rewards_of_episodes = st.lists(
    st.lists(st.integers(-3, 3), min_size=1, max_size=5), min_size=1, max_size=6
)


def make_store(rewards, tasks=None):
    """Episodes with these rewards; an observation is (episode, step)."""
    episodes = []
    for index, values in enumerate(rewards):
        steps = len(values)
        number = np.arange(steps)
        observations = np.stack([np.full(steps, index), number], 1)
        episodes.append(
            Episode(
                observations=observations.astype(np.float32),
                actions=(0.1 * index + 0.01 * number[:, None]).astype(np.float32),
                rewards=np.asarray(values, np.float32),
                discounts=np.ones(steps, np.float32),
                final_observation=np.zeros(2, np.float32),
                has_final_observation=False,
                terminated=True,
                truncated=False,
                task=tasks[index] if tasks else "only",
                episode_id=index,
                extras={},
            )
        )
    return EpisodeStore.from_episodes(episodes, SPACES)


def test_the_number_of_members_is_uniform_from_one_to_the_largest():
    groups = [np.arange(10)]
    random = np.random.default_rng(0)
    draws = 4000
    sizes = [
        len(draw_members(groups, ChainConfig(trajectories=4), random))
        for _ in range(draws)
    ]
    counts = np.bincount(sizes, minlength=6)
    assert counts[0] == 0 and counts[5:].sum() == 0
    # Five standard deviations of a binomial with p = 1/4.
    slack = 5 * np.sqrt(draws * 0.25 * 0.75)
    np.testing.assert_allclose(counts[1:5], draws / 4, atol=slack)


def test_tasks_are_equally_likely_and_so_are_their_episodes():
    groups = [np.arange(4), np.arange(4, 20)]
    config = ChainConfig(trajectories=2)
    random = np.random.default_rng(1)
    draws = 4000
    drawn = [draw_members(groups, config, random) for _ in range(draws)]
    small = np.mean([members[0] < 4 for members in drawn])
    assert abs(small - 0.5) < 5 * 0.5 / np.sqrt(draws)
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    for group in groups:
        share = counts[group] / counts[group].sum()
        spread = np.sqrt(share.mean() / counts[group].sum())
        np.testing.assert_allclose(share, 1 / len(group), atol=5 * spread)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    trajectories=st.integers(1, 8),
    choose=st.sampled_from(["uniform", "quantiles", "history"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_members_are_different_episodes_of_one_task(sizes, trajectories, choose, seed):
    bounds = np.cumsum([0, *sizes])
    groups = [np.arange(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    config = ChainConfig(trajectories=trajectories, choose=choose)
    members = draw_members(groups, config, np.random.default_rng(seed))
    assert len(set(members.tolist())) == len(members)
    (group,) = [group for group in groups if members[0] in group]
    assert set(members.tolist()) <= set(group.tolist())
    assert 1 <= len(members) <= min(trajectories, len(group))


@given(rewards=rewards_of_episodes, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_chain_is_sorted_and_relabelled(rewards, data):
    store = make_store(rewards)
    members = data.draw(st.permutations(range(len(rewards))))
    chain = make_chain(store, np.array(members), "all")

    order = sorted(members, key=lambda index: (sum(rewards[index]), index))
    largest = sum(rewards[order[-1]])
    row = 0
    for index in order:
        for step, reward in enumerate(rewards[index]):
            last = step == len(rewards[index]) - 1
            np.testing.assert_array_equal(chain.observations[row], [index, step])
            np.testing.assert_array_equal(
                chain.actions[row], store.episode(index).actions[step]
            )
            assert chain.rewards[row] == reward
            assert chain.timesteps[row] == step
            # Of every member, not only of the best.
            assert chain.target_returns[row] == largest - sum(rewards[index][:step])
            reached = last and sum(rewards[index]) == largest
            assert chain.completions[row] == reached
            assert chain.weights[row] == 1
            row += 1
    assert row == len(chain.rewards)


def test_all_members_that_reach_the_largest_return_are_complete():
    chain = make_chain(make_store([[1, 2], [0, 1], [3]]), np.arange(3), "all")
    # Ascending by return: episode 1 (return 1), then 0 and 2 (return 3 each).
    np.testing.assert_array_equal(chain.observations[:, 0], [1, 1, 0, 0, 2])
    np.testing.assert_array_equal(chain.completions, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(chain.target_returns, [3, 3, 3, 2, 3])


@pytest.mark.parametrize(
    ("returns", "loss_on", "expected"),
    [
        ([1.0, 2.0, 4.0], "all", [1, 1, 1]),
        ([1.0, 2.0, 4.0], "last", [0, 0, 1]),
        ([4.0, 4.0], "last", [0, 1]),
        ([1.0, 1.9, 2.0, 4.0], "good", [0, 0, 1, 1]),
        ([-5.0, 0.0, 0.0], "good", [0, 1, 1]),
        # Half of a negative return is more than it: then only the best are good.
        ([-8.0, -5.0, -4.0], "good", [0, 0, 1]),
        ([-8.0, -4.0, -4.0], "good", [0, 1, 1]),
        ([-3.0], "good", [1]),
    ],
)
def test_which_members_count_in_the_loss(returns, loss_on, expected):
    weights = member_weights(np.array(returns), loss_on)
    np.testing.assert_array_equal(weights, np.array(expected, np.float32))


def test_a_members_weight_is_that_of_all_its_steps():
    store = make_store([[4, 0, 0], [1, 0]])
    chain = make_chain(store, np.array([0, 1]), "good")
    np.testing.assert_array_equal(chain.weights, [0, 0, 1, 1, 1])


def test_the_best_share_is_taken_of_each_task():
    rewards = [[value] for value in (5, 1, 9, 7, -1, -2, -3, 8)]
    tasks = ["a", "a", "a", "a", "b", "b", "b", "c"]
    store = make_store(rewards, tasks)

    def best(share):
        groups = group_episodes(store, ChainConfig(best=share))
        return [group.tolist() for group in groups]

    # Two of a's four, two of b's three (1.5, rounded to even), c's only one.
    assert best(0.5) == [[2, 3], [4, 5], [7]]
    assert best(0.1) == [[2], [4], [7]]
    assert best(1.0) == [[0, 1, 2, 3], [4, 5, 6], [7]]


def test_quantiles_take_one_episode_of_each_part_of_the_returns():
    store = make_store([[value] for value in (5, 1, 9, 7, 3, 8)])
    config = ChainConfig(trajectories=3, choose="quantiles")
    (group,) = groups = group_episodes(store, config)
    assert store.returns[group].tolist() == [1, 3, 5, 7, 8, 9]
    seen = set()
    for seed in range(60):
        members = draw_members(groups, config, np.random.default_rng(seed))
        if len(members) == 3:
            part = [int(np.flatnonzero(group == member)[0]) // 2 for member in members]
            assert part == [0, 1, 2]
            seen.update(members.tolist())
    assert seen == set(range(6))


@pytest.mark.parametrize("choose", ["uniform", "quantiles"])
def test_a_shuffled_chain_is_not_sorted_but_told_the_same(choose):
    store = make_store([[value] for value in (5, 1, 9, 7, 3, 8)])
    config = ChainConfig(trajectories=4, choose=choose, order="shuffled")
    groups = group_episodes(store, config)
    orders = set()
    for seed in range(80):
        members = draw_members(groups, config, np.random.default_rng(seed))
        lengths = store.lengths[members]
        told = in_hindsight(store, members, 0 * lengths, lengths, config)
        returns = store.returns[members]
        np.testing.assert_array_equal(told.offset, store.offsets[members])
        assert (told.told == returns.max()).all()
        np.testing.assert_array_equal(told.reached, returns == returns.max())
        if len(members) == 3:
            orders.add(tuple(np.argsort(returns).tolist()))
    assert len(orders) == 6


def test_a_history_is_a_stretch_of_the_collection_in_its_order():
    store = make_store([[5], [1], [9], [7], [3], [8]])
    # Collected in another order than they are stored in.
    store = dataclasses.replace(store, episode_ids=np.array([3, 1, 2, 0, 5, 4]))
    config = ChainConfig(trajectories=4, choose="history", loss_on="last")
    groups = group_episodes(store, config)
    history = [3, 1, 2, 0, 5, 4]
    starts = set()
    for seed in range(80):
        members = draw_members(groups, config, np.random.default_rng(seed)).tolist()
        start = history.index(members[0])
        assert members == history[start : start + len(members)]
        starts.add((start, len(members)))
    assert len(starts) == 6 + 5 + 4 + 3
    episodes = np.array([1, 2, 0])
    ones = np.ones(3, np.int64)
    told = in_hindsight(store, episodes, 0 * ones, ones, config)
    # Not sorted: returns 1, 9, 5, all told the largest, which the second reached.
    np.testing.assert_array_equal(told.offset, [1, 2, 0])
    np.testing.assert_array_equal(told.told, 9)
    np.testing.assert_array_equal(told.reached, [False, True, False])
    np.testing.assert_array_equal(told.weight, [0, 0, 1])


def test_a_crop_keeps_what_was_true_at_its_steps():
    store = make_store([[1, 2, 4, 8, 16], [3, 5]])
    config = ChainConfig(crop_steps=2, loss_on="all")
    episodes, starts = np.array([0, 1]), set()
    for seed in range(40):
        random = np.random.default_rng(seed)
        first, steps = crop(store, episodes, config, random)
        assert steps.tolist() == [2, 2] and first[1] == 0
        starts.add(int(first[0]))
        chain = Row(
            [store], [in_hindsight(store, episodes, first, steps, config)]
        ).chain()
        # The short one comes first (return 8 of the chain's 31).
        at = int(first[0])
        np.testing.assert_array_equal(chain.rewards, [3, 5, 2**at, 2 ** (at + 1)])
        np.testing.assert_array_equal(chain.timesteps, [0, 1, at, at + 1])
        np.testing.assert_array_equal(
            chain.target_returns, [31, 28, 32 - 2**at, 32 - 2 ** (at + 1)]
        )
        # Only its real end completes an episode.
        np.testing.assert_array_equal(chain.completions, [0, 0, 0, at == 3])
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trajectories": 0}, "trajectories must be at least 1, found 0"),
        ({"crop_steps": -1}, "crop_steps must be at least 0, found -1"),
        ({"best": 0.0}, r"best must be in \(0, 1\], found 0.0"),
        ({"best": 1.5}, r"best must be in \(0, 1\], found 1.5"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ChainConfig(**wrong)
