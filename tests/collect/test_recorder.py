import numpy as np
import pytest

from ring_rl.collect import DarkRoomBehaviour, UniformBehaviour, record, record_trials
from ring_rl.envs import make_vector, split_tasks
from ring_rl.types import Discrete, Spaces

ROOM = "ring_rl/DarkRoom-v0"


class Countdown:
    """A vector environment whose episode of task "n" ends after n steps.

    An observation is (task, steps so far); the reward of a step is its number.
    """

    def __init__(self, rows: int, max_episode_steps: int = 9) -> None:
        self.rows, self.max_episode_steps = rows, max_episode_steps
        self.spaces = Spaces(2, Discrete(10))
        self.state = np.zeros((rows, 2), np.float32)
        self.live = np.zeros(rows, bool)

    def reset(self, rows, tasks=None):
        for row in np.flatnonzero(rows):
            # Without tasks a row keeps its own.
            task = self.state[row, 0] if tasks is None else int(tasks[row])
            self.state[row] = task, 0
        self.live |= rows
        return self.state.copy()

    def step(self, actions):
        self.state[self.live, 1] += 1
        rewards = np.where(self.live, self.state[:, 1], 0).astype(np.float32)
        over = self.live & (self.state[:, 1] >= self.state[:, 0])
        self.live &= ~over
        odd = self.state[:, 0] % 2 == 1
        return self.state.copy(), rewards, over & odd, over & ~odd

    def close(self):
        pass


class Echo:
    """Acts what it sees: the number of steps so far, checked against its own count."""

    def begin(self, task, generator):
        return {"task": task, "steps": 0}

    def act(self, observations, states):
        for observation, state in zip(observations, states, strict=True):
            assert observation.tolist() == [int(state["task"]), state["steps"]]
            state["steps"] += 1
        return observations[:, 1].astype(np.int32)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_episodes_come_whole_and_in_order(rows):
    tasks = ["7", "1", "2", "5", "1", "9", "3"]
    episodes = list(record(Countdown(rows), Echo(), tasks=tasks, seed=0))
    assert [episode.episode_id for episode in episodes] == list(range(len(tasks)))
    assert [episode.task for episode in episodes] == tasks
    for episode in episodes:
        steps = int(episode.task)
        count = np.arange(steps)
        np.testing.assert_array_equal(episode.observations[:, 0], np.full(steps, steps))
        np.testing.assert_array_equal(episode.observations[:, 1], count)
        np.testing.assert_array_equal(episode.actions, count)
        np.testing.assert_array_equal(episode.rewards, count + 1)
        np.testing.assert_array_equal(episode.final_observation, [steps, steps])
        assert episode.has_final_observation
        assert episode.terminated == (steps % 2 == 1) != episode.truncated
        np.testing.assert_array_equal(episode.discounts[:-1], np.ones(steps - 1))
        assert episode.discounts[-1] == (0 if episode.terminated else 1)


def test_types_are_those_of_the_contract():
    (discrete,) = record(Countdown(1), Echo(), tasks=["3"], seed=0)
    assert discrete.actions.dtype == np.int32 and discrete.actions.shape == (3,)
    environment = make_vector("Pendulum-v1", 1, seed=0, max_episode_steps=3)
    behaviour = UniformBehaviour(environment.spaces.action)
    (continuous,) = record(environment, behaviour, tasks=[""], seed=0)
    assert continuous.actions.shape == (3, 1)
    for array in (
        continuous.observations,
        continuous.actions,
        continuous.rewards,
        continuous.discounts,
        continuous.final_observation,
    ):
        assert array.dtype == np.float32


class BothAtOnce(Countdown):
    """Says, as Gymnasium's TimeLimit, that time is up where an episode terminates."""

    def step(self, actions):
        observations, rewards, terminated, truncated = super().step(actions)
        return observations, rewards, terminated, truncated | terminated


def test_an_episode_that_terminates_as_its_time_is_up_is_not_cut():
    cut, ended = record(BothAtOnce(2), Echo(), tasks=["2", "3"], seed=0)
    assert (cut.terminated, cut.truncated, cut.discounts[-1]) == (False, True, 1)
    assert (ended.terminated, ended.truncated, ended.discounts[-1]) == (True, False, 0)


class Stays:
    """A policy with a context that does not move, and keeps what it is told."""

    def __init__(self, rows):
        self.rows, self.told = rows, []

    def act(self, observations):
        return np.zeros(self.rows, np.int32)

    def observe(self, rewards, terminated, truncated):
        self.told.append((terminated, truncated))


def test_a_row_keeps_the_task_that_it_drew_for_all_its_trials():
    environment = make_vector(ROOM, 6, seed=0, size=4, max_steps=3)
    played = list(
        record_trials(
            environment, Stays(6), tasks=["", "0,3", "", "", "", ""], trials=4
        )
    )
    rows = [{one.episode.task for one in played[i : i + 4]} for i in range(0, 24, 4)]
    assert all(len(tasks) == 1 for tasks in rows)
    assert rows[1] == {"0,3"} and len(set.union(*rows)) > 2 and "" not in rows[0]


def test_trials_that_terminate_as_their_time_is_up_are_not_cut():
    environment, policy = BothAtOnce(1), Stays(1)
    one, two = record_trials(environment, policy, tasks=["3"], trials=2)
    for recorded in (one, two):
        assert recorded.episode.terminated and not recorded.episode.truncated
    assert not any(
        (terminated & truncated).any() for terminated, truncated in policy.told
    )


def test_no_tasks_no_episodes():
    assert list(record(Countdown(2), Echo(), tasks=[], seed=0)) == []


def test_an_episode_beyond_the_limit_is_an_error():
    with pytest.raises(ValueError, match="at most 4 steps"):
        list(record(Countdown(1, 4), Echo(), tasks=["6"], seed=0))


def test_actions_of_the_wrong_shape_are_an_error():
    class One:
        def begin(self, task, generator):
            return None

        def act(self, observations, states):
            return np.zeros(1, np.int32)

    with pytest.raises(ValueError, match="behaviour: expected actions of shape"):
        list(record(Countdown(2), One(), tasks=["3", "3"], seed=0))


def recorded(rows, seed, mistaken=0.5):
    environment = make_vector(ROOM, rows, seed=0)
    tasks = [task for task in split_tasks(9, 16, 0)[0] for _ in range(4)]
    behaviour = DarkRoomBehaviour(size=9, mistaken=mistaken)
    return list(record(environment, behaviour, tasks=tasks, seed=seed))


@pytest.mark.smoke
def test_the_seed_decides_and_the_number_of_rows_does_not():
    one, other, third = recorded(8, 0), recorded(32, 0), recorded(8, 1)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.actions, second.actions)
        np.testing.assert_array_equal(first.observations, second.observations)
    assert any(
        not np.array_equal(first.actions, second.actions)
        for first, second in zip(one, third, strict=True)
    )


def test_the_dark_room_behaviour_is_of_every_quality():
    episodes = recorded(32, 0, mistaken=0.0)
    share = []
    for episode in episodes:
        x, y = map(int, episode.task.split(","))
        best = 21 - abs(x - 4) - abs(y - 4)
        share.append(float(episode.rewards.sum()) / best)
    assert max(share) == 1
    # Noise rates from U(0, 1): some hardly find the goal, some hardly miss a step.
    assert np.mean(np.array(share) < 0.1) > 0.1
    assert np.mean(np.array(share) > 0.8) > 0.1
    assert {episode.observations.shape for episode in episodes} == {(20, 18)}


def test_the_mistaken_share_means_to_go_elsewhere():
    behaviour = DarkRoomBehaviour(size=9, mistaken=0.25)
    count = 4000
    goals = [
        behaviour.begin("6,1", np.random.default_rng((7, index))).goal
        for index in range(count)
    ]
    elsewhere = [goal for goal in goals if goal != (6, 1)]
    # A cell drawn at random is the goal once in 81; five standard errors of slack.
    expected = 0.25 * 80 / 81
    slack = 5 * np.sqrt(expected * (1 - expected) / count)
    assert abs(len(elsewhere) / count - expected) < slack
    assert {x for x, _ in elsewhere} == {y for _, y in elsewhere} == set(range(9))


def test_without_noise_every_step_goes_towards_the_goal():
    behaviour = DarkRoomBehaviour(mistaken=0.0)
    environment = make_vector(ROOM, 1, seed=0)
    axes = set()
    for index in range(20):
        state = behaviour.begin("6,1", np.random.default_rng(index))
        state = state._replace(noise=0.0)
        observations = environment.reset(np.ones(1, bool), ["6,1"])
        total, first = 0.0, None
        for _ in range(20):
            actions = behaviour.act(observations, [state])
            first = int(actions[0]) if first is None else first
            observations, rewards, *_ = environment.step(actions)
            total += float(rewards[0])
        assert total == 16
        axes.add(first)
    assert axes == {2, 4}, "down or right first, at random"


def test_uniform_actions_stay_in_bounds_and_reach_all():
    environment = make_vector("CartPole-v1", 2, seed=0)
    behaviour = UniformBehaviour(environment.spaces.action)
    episodes = list(record(environment, behaviour, tasks=[""] * 6, seed=0))
    assert all(episode.terminated for episode in episodes)
    assert set(np.concatenate([e.actions for e in episodes]).tolist()) == {0, 1}


@pytest.mark.parametrize("task", ["", "3", "a,b", "-1,2"])
def test_the_dark_room_behaviour_needs_a_goal(task):
    with pytest.raises(ValueError, match="expected a goal"):
        DarkRoomBehaviour().begin(task, np.random.default_rng(0))
