from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from ring_rl.agents import AgenticTransformer
from ring_rl.envs import make_vector
from ring_rl.evaluate.film import _smaller
from ring_rl.evaluate.rollout import rollout
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Continuous, Scaling, Spaces

LENGTHS = np.array([[2, 3], [1, 4], [5, 3], [2, 1]])
ROWS, TRIALS = LENGTHS.shape
TASKS = [[f"task {row}-{trial}" for trial in range(TRIALS)] for row in range(ROWS)]


class Scripted:
    """Rows whose episodes have these lengths; writes down what is asked of it.

    Rows that have ended report rewards and ends that must not count.
    """

    rows = ROWS
    spaces = Spaces(2, Continuous((-1.0,) * 4, (1.0,) * 4))
    max_episode_steps = 5

    def __init__(self):
        self.trial = np.full(ROWS, -1)
        self.step_of = np.zeros(ROWS, int)
        self.live = np.zeros(ROWS, bool)
        self.resets: list[tuple[int, str | None]] = []
        self.actions: list[np.ndarray] = []
        self.lived: list[np.ndarray] = []

    def _observations(self):
        return np.stack([self.trial, self.step_of], 1).astype(np.float32)

    def reset(self, rows, tasks=None):
        assert not self.live[rows].any(), "a row is reset within its episode"
        for row in np.flatnonzero(rows):
            self.resets.append((int(row), tasks[row] if tasks else None))
        self.trial[rows] += 1
        self.step_of[rows] = 0
        self.live |= rows
        return self._observations()

    def step(self, actions):
        self.actions.append(actions.copy())
        self.lived.append(self.live.copy())
        rewards = np.array([reward(row, self.trial[row], self.step_of[row])
                            for row in range(ROWS)])  # fmt: skip
        rewards[~self.live] = 1000.0
        self.step_of += self.live
        over = self.step_of >= LENGTHS[np.arange(ROWS), self.trial]
        self.live &= ~over
        task_ends = (np.arange(ROWS) + self.trial) % 2 == 0
        return self._observations(), rewards, over & task_ends, over & ~task_ends

    def close(self):
        pass


def reward(row, trial, step):
    return 100.0 * row + 10.0 * trial + step


class Memory(NamedTuple):
    action: Array
    steps: Array
    ended: Array
    earned: Array


class Clerk:
    """Acts with what it has been told: (active, steps, ended trials, rewards)."""

    def build(self, spaces, scaling, rules, *, seed):
        return nnx.Linear(1, 1, rngs=nnx.Rngs(seed))

    def loss(self, model, batch, key):
        raise NotImplementedError

    room = (TRIALS, Scripted.max_episode_steps)
    recall = "played"

    def start(self, model, target_return, *, trials, steps):
        assert (trials, steps) == self.room
        np.testing.assert_array_equal(target_return, np.full(ROWS, 7.0))
        return Memory(jnp.zeros((ROWS, 4)), *(jnp.zeros(ROWS) for _ in range(3)))

    def prefill(self, model, state, chains):
        read = jnp.array([float(len(chain.rewards)) for chain in chains])
        return state._replace(steps=read)

    def remember(self, model, state, chains, rows):
        raise AssertionError("its trials lie as they were played")

    def make_room(self, model, state, *, steps):
        return state

    def check(self, state):
        pass

    def act(self, model, state, observations, active, key, temperature):
        told = jnp.stack([active, state.steps, state.ended, state.earned], axis=1)
        return told, state

    def observe(self, state, actions, rewards, ended, active):
        return Memory(
            actions,
            state.steps + active,
            state.ended + (ended & active),
            state.earned + jnp.where(active, rewards, 0.0),
        )


def play(environment, agent=None, **options):
    agent = agent or Clerk()
    model = agent.build(environment.spaces, None, None, seed=0)
    return rollout(
        agent,
        model,
        environment,
        trials=TRIALS,
        target_return=7.0,
        temperature=1.0,
        seed=0,
        **options,
    )


def test_returns_lengths_and_ends_are_those_of_the_episodes():
    result = play(Scripted(), tasks=TASKS)
    np.testing.assert_array_equal(result.lengths, LENGTHS)
    expected = [
        [sum(reward(row, trial, step) for step in range(steps))
         for trial, steps in enumerate(lengths)]
        for row, lengths in enumerate(LENGTHS)
    ]  # fmt: skip
    np.testing.assert_array_equal(result.returns, expected)
    even = np.add.outer(np.arange(ROWS), np.arange(TRIALS)) % 2 == 0
    np.testing.assert_array_equal(result.terminated, even)
    assert result.tasks == tuple(row[-1] for row in TASKS)
    assert result.environment_steps_per_second > 0 < result.decode_milliseconds


def test_every_reset_has_its_task_and_every_trial_one_reset():
    environment = Scripted()
    play(environment, tasks=TASKS)
    for row in range(ROWS):
        own = [task for index, task in environment.resets if index == row]
        assert own == TASKS[row]
    without = Scripted()
    assert play(without).tasks == ("",) * ROWS
    assert sorted(without.resets) == [(row, None) for row in range(ROWS) for _ in "ab"]


def test_a_finished_row_neither_acts_nor_remembers():
    environment = Scripted()
    play(environment, tasks=TASKS)
    # As many turns as the longest row has steps: rows do not wait for each other.
    assert len(environment.actions) == LENGTHS.sum(axis=1).max()
    for turn, (actions, live) in enumerate(
        zip(environment.actions, environment.lived, strict=True)
    ):
        for row in range(ROWS):
            active, steps, ended, earned = actions[row]
            # An ended row is reset before the next turn, unless it has finished.
            assert active == live[row] == (turn < LENGTHS[row].sum())
            assert steps == min(turn, LENGTHS[row].sum())
            bounds = np.cumsum(LENGTHS[row])
            assert ended == (bounds <= turn).sum()
            before = [(trial, step) for trial, length in enumerate(LENGTHS[row])
                      for step in range(length)][: int(steps)]  # fmt: skip
            assert earned == sum(reward(row, *pair) for pair in before)


def test_progress_counts_finished_trials():
    seen = []
    play(Scripted(), progress=lambda done, text: seen.append(done))
    assert seen == sorted(seen) and seen[-1] == ROWS * TRIALS


def chain(*lengths):
    """Episodes of these lengths, one after another."""
    steps = sum(lengths)
    zeros = np.zeros(steps, np.float32)
    timesteps = [np.arange(length, dtype=np.int32) for length in lengths]
    return Chain(
        observations=np.zeros((steps, 2), np.float32),
        actions=np.zeros((steps, 4), np.float32),
        rewards=zeros,
        target_returns=zeros,
        completions=zeros,
        timesteps=np.concatenate([np.zeros(0, np.int32), *timesteps]),
        weights=zeros,
    )


def test_demonstrations_are_read_first_and_are_no_trials():
    read = [chain(2, 7), chain(1, 1, 1), chain(), chain(4)]
    asked = []

    class Reader(Clerk):
        # Three more episodes, one of them longer than the environment's.
        room = (TRIALS + 3, 7)

        def make_room(self, model, state, *, steps):
            asked.append(steps)
            return state

    environment = Scripted()
    result = play(environment, Reader(), demonstrations=read)
    np.testing.assert_array_equal(result.lengths, LENGTHS)
    np.testing.assert_array_equal(environment.actions[0][:, 1], [9, 3, 0, 4])
    # Room for the longest of them and what comes after.
    assert asked == [9 + turn for turn in range(1, len(environment.actions) + 1)]


def test_every_reset_and_step_is_watched():
    environment, seen = Scripted(), []
    trials = np.zeros((ROWS, TRIALS), int)
    ends = np.zeros((ROWS, TRIALS), int)

    def watch(trial, rows, ended):
        seen.append(rows.sum())
        index = np.flatnonzero(rows)
        np.testing.assert_array_equal(trial[index], environment.trial[index])
        trials[index, trial[index]] += 1
        ends[index, trial[index]] += ended[index]

    play(environment, watch=watch)
    # Each episode's start and every step of it.
    np.testing.assert_array_equal(trials, LENGTHS + 1)
    np.testing.assert_array_equal(ends, 1)


@pytest.fixture(scope="module")
def cart_pole():
    """Plays two trials in three rows."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    agent = AgenticTransformer(trunk=TrunkConfig(layers=1, width=8, heads=2))

    def run(seed):
        environment = make_vector("CartPole-v1", 3, seed=0, max_episode_steps=50)
        scaling = Scaling((0.0,) * 4, (1.0,) * 4, 20.0, 1.0)
        rules = ShardingRules(mesh)
        model = agent.build(environment.spaces, scaling, rules, seed=0)
        result = rollout(
            agent,
            model,
            environment,
            trials=2,
            target_return=20.0,
            temperature=1.0,
            seed=seed,
        )
        environment.close()
        return result

    return run


def test_cart_pole_twice_is_the_same(cart_pole):
    one, same, other = cart_pole(0), cart_pole(0), cart_pole(1)
    np.testing.assert_array_equal(one.returns, same.returns)
    np.testing.assert_array_equal(one.lengths, same.lengths)
    assert (one.returns != other.returns).any()
    # Its reward is 1 a step.
    np.testing.assert_array_equal(one.returns, one.lengths)
    # Terminated, or cut off at the time limit.
    np.testing.assert_array_equal(one.terminated, one.lengths < 50)
    assert one.lengths.min() >= 5 and one.terminated.any()


def test_a_large_picture_is_filmed_smaller():
    picture = np.zeros((400, 300, 3), np.uint8)
    assert _smaller(picture).shape == (200, 150, 3)
    np.testing.assert_array_equal(_smaller(picture[:90]), picture[:90])
