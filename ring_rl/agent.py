"""What an agent is: a frozen configuration and these functions of it.

`loss`, `act` and `observe` are pure and run inside `jax.jit`, the others on the host.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ring_rl.mesh import ShardingRules
from ring_rl.types import Batch, Chain, Recall, Scaling, Spaces


@runtime_checkable
class Agent(Protocol):
    """The contract between agents and the training and evaluation loops."""

    def build(
        self, spaces: Spaces, scaling: Scaling, rules: ShardingRules, *, seed: int
    ) -> Any:
        """The Flax NNX model, with parameters drawn from `seed`."""
        ...

    def loss(
        self, model: Any, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The number to make smaller, and numbers to look at.

        All are means weighted by `batch.weight`, divided by its sum or 1 if that is
        more; the sum itself is `actions`. So those of parts of a batch can be put
        together (`ring_rl.train.parts`).
        """
        ...

    def start(
        self,
        model: Any,
        target_return: Float[Array, " B"],
        *,
        trials: int,
        steps: int,
    ) -> Any:
        """The state of B rows that have seen nothing.

        Args:
          model: what `build` returned, trained.
          target_return: the return that each row is told to reach in every trial.
          trials: episodes that each row will play.
          steps: environment steps that an episode has at most.
        """
        ...

    def prefill(self, model: Any, state: Any, chains: Sequence[Chain]) -> Any:
        """The state of new rows that have read a chain each, as if they had acted."""
        ...

    @property
    def recall(self) -> Recall:
        """In which order trials that were played lie in a context."""
        ...

    def remember(
        self,
        model: Any,
        state: Any,
        chains: Sequence[Chain],
        rows: Bool[np.ndarray, " B"],
    ) -> Any:
        """The state in which some rows have read all their trials anew."""
        ...

    def make_room(self, model: Any, state: Any, *, steps: int) -> Any:
        """The state with room for so many steps in all, the next one included."""
        ...

    def check(self, state: Any) -> None:
        """Raises ValueError if `act` has left a row without what it should remember."""
        ...

    def act(
        self,
        model: Any,
        state: Any,
        observations: Float[Array, "B O"],
        active: Bool[Array, " B"],
        key: PRNGKeyArray,
        temperature: Float[Array, ""],
    ) -> tuple[Array, Any]:
        """Actions `[B]` or `[B A]`, and the state with the observations in it.

        Rows that are not active keep their state; their actions mean nothing.
        """
        ...

    def observe(
        self,
        state: Any,
        actions: Array,
        rewards: Float[Array, " B"],
        ended: Bool[Array, " B"],
        active: Bool[Array, " B"],
    ) -> Any:
        """The state after the environment answered; `ended` rows begin a new trial."""
        ...
