"""Spaces and numbers that need care on their way through `make_vector`."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from ring_rl.envs import GymnasiumRows, make_vector
from ring_rl.types import Continuous, Discrete

ALL = np.ones(2, bool)


class Odd(gymnasium.Env):
    """Unusual spaces; what it was given last is in `given`."""

    def __init__(self, observation_space=None, action_space=None, poison=None):
        self.observation_space = observation_space or spaces.Discrete(4, start=2)
        self.action_space = action_space or spaces.Discrete(3, start=-1)
        self.poison = poison

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        self.given = action
        if self.poison == "observation":
            return np.full(self.observation_space.shape, np.nan), 0.0, False, False, {}
        reward = np.nan if self.poison == "reward" else 0.0
        return self.observe(), reward, False, False, {}

    def observe(self):
        if isinstance(self.observation_space, spaces.Discrete):
            return np.int64(3)
        if isinstance(self.observation_space, spaces.Dict):
            return {"z": np.array([7.0]), "a": {"one": np.int64(1)}, "m": np.eye(2)}
        return np.arange(6.0).reshape(2, 3)


@pytest.fixture
def odd():
    gymnasium.register("Odd-v0", entry_point=Odd, max_episode_steps=5)
    yield "Odd-v0"
    del gymnasium.registry["Odd-v0"]


def bare(environment: GymnasiumRows, row: int):
    return environment._environments[row].unwrapped


def test_discrete_spaces_count_from_zero(odd):
    environment = make_vector(odd, 2, seed=0)
    assert environment.spaces.observation == 4
    assert environment.spaces.action == Discrete(3)
    np.testing.assert_array_equal(environment.reset(ALL)[0], [0, 1, 0, 0])
    environment.step(np.array([0, 2]))
    assert [bare(environment, row).given for row in (0, 1)] == [-1, 1]


def test_boxes_are_flattened(odd):
    environment = make_vector(
        odd,
        2,
        seed=0,
        observation_space=spaces.Box(-9, 9, (2, 3), np.float64),
        action_space=spaces.Box(-1, np.array([[1, 2], [3, 4]], np.float32)),
    )
    assert environment.spaces.action == Continuous((-1.0,) * 4, (1.0, 2.0, 3.0, 4.0))
    observations = environment.reset(ALL)
    assert observations.dtype == np.float32
    np.testing.assert_array_equal(observations[1], np.arange(6))
    # Beyond the bounds: passed on as it is.
    environment.step(np.array([[5, 6, 7, 8]] * 2, np.float32))
    np.testing.assert_array_equal(bare(environment, 1).given, [[5, 6], [7, 8]])


def test_a_dict_is_its_entries_in_the_order_of_their_names(odd):
    box = spaces.Box(-9, 9, (2, 2), np.float64)
    entries = {
        "z": spaces.Box(-9, 9, (1,)),
        "a": spaces.Dict(one=spaces.Discrete(3)),
        "m": box,
    }
    environment = make_vector(odd, 2, seed=0, observation_space=spaces.Dict(entries))
    assert environment.spaces.observation == 8
    np.testing.assert_array_equal(environment.reset(ALL)[1], [0, 1, 0, 1, 0, 0, 1, 7])


@pytest.mark.parametrize("poison", ["observation", "reward"])
def test_a_number_that_is_not_finite_names_environment_and_row(odd, poison):
    box = spaces.Box(-9, 9, (2, 3), np.float64)
    environment = make_vector(odd, 2, seed=0, observation_space=box)
    environment.reset(ALL)
    bare(environment, 1).poison = poison
    with pytest.raises(ValueError, match=f"Odd-v0, row 1.*{poison}"):
        environment.step(np.array([0, 0]))


@pytest.mark.parametrize(
    "options",
    [
        {"observation_space": spaces.Dict(x=spaces.MultiBinary(2))},
        {"observation_space": spaces.MultiDiscrete([2, 2])},
        {"action_space": spaces.MultiBinary(2)},
        {"action_space": spaces.Box(-np.inf, np.inf, (2,))},
        {"action_space": spaces.Box(0, 5, (2,), np.int64)},
    ],
)
def test_other_spaces_are_refused(odd, options):
    with pytest.raises(ValueError, match=r"Odd-v0: expected a .*, found"):
        make_vector(odd, 1, seed=0, **options)
