"""Gymnasium's spaces as the project's: flat observations, and two kinds of actions.

Box observations are flattened in C order, Discrete ones are one-hot, and a Dict is its
entries one after another in the order in which the space lists them, which is
alphabetical by their names.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from ring_rl.types import ActionSpace, Continuous, Discrete

Flatten = Callable[[Any], Float[np.ndarray, " O"]]


def observation_width(env_id: str, space: gymnasium.Space) -> int:
    """O, the numbers of a flat observation.

    Raises:
      ValueError: the space is of another kind; the message names the environment.
    """
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Dict):
        return sum(observation_width(env_id, part) for part in space.values())
    raise ValueError(
        f"observations of {env_id}: expected a Box or Discrete space, or a Dict of "
        f"these, found {space}"
    )


def make_flatten(space: gymnasium.Space) -> Flatten:
    """The function that makes flat float32 of an observation of the space.

    Chosen once: asking for the kind of a space takes longer than to flatten one.
    """
    if isinstance(space, spaces.Dict):
        parts = [(name, make_flatten(part)) for name, part in space.items()]
        return lambda x: np.concatenate([flatten(x[name]) for name, flatten in parts])
    if isinstance(space, spaces.Discrete):
        numbers = np.arange(space.n) + space.start
        return lambda x: (numbers == x).astype(np.float32)
    return lambda x: np.asarray(x, np.float32).reshape(-1)


def action_space(env_id: str, space: gymnasium.Space) -> ActionSpace:
    """The actions: Discrete ones are counted from 0, Boxes are flattened.

    Raises:
      ValueError: the space is of another kind, or a bound is not finite.
    """
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if (
        isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and space.is_bounded()
    ):
        low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
        return Continuous(tuple(low), tuple(high))
    raise ValueError(
        f"actions of {env_id}: expected a Discrete space or a Box of real numbers with "
        f"finite bounds, found {space}"
    )
