"""From features to a distribution over actions: its logits, likelihood and samples.

Discrete actions have one categorical. A continuous action has one for each of its
components, over equal bins between the component's bounds: the density is constant
within a bin, 0 outside the bounds, and can have several modes. Components are
independent given the context.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ring_rl.types import ActionSpace, Discrete


@dataclasses.dataclass(frozen=True)
class ActionHead:
    """The distribution over the actions of a space.

    Attributes:
      space: what actions there are.
      bins: bins of each component of a continuous action.
    """

    space: ActionSpace
    bins: int

    @property
    def outputs(self) -> int:
        """Logits a token: A, or A · bins."""
        if isinstance(self.space, Discrete):
            return self.space.size
        return self.space.size * self.bins

    def _split(self, logits):
        """`[... outputs]` to `[... components choices]`."""
        if isinstance(self.space, Discrete):
            return logits[..., None, :]
        return logits.reshape(*logits.shape[:-1], self.space.size, self.bins)

    def _bounds(self, dtype):
        assert not isinstance(self.space, Discrete)
        return jnp.asarray(self.space.low, dtype), jnp.asarray(self.space.high, dtype)

    def choices(self, actions: Array) -> Int[Array, "... components"]:
        """Which choice or bins an action is; beyond the bounds the outermost bin."""
        if isinstance(self.space, Discrete):
            return actions[..., None].astype(jnp.int32)
        low, high = self._bounds(actions.dtype)
        ones = (1,) * (actions.ndim - 1)
        unit = (actions - low.reshape(*ones, -1)) / (high - low).reshape(*ones, -1)
        bins = jnp.floor(unit * self.bins).astype(jnp.int32)
        return jnp.clip(bins, 0, self.bins - 1)

    def cross_entropy(
        self, logits: Float[Array, "... outputs"], actions: Array
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Nats a component, and the share of components whose likeliest choice it is.

        The log-density of a continuous action is minus the sum over components of
        (nats + log of the bin's width).
        """
        logits = self._split(logits)
        dtype = jnp.promote_types(jnp.float32, logits.dtype)
        logits = logits.astype(dtype)
        choices = self.choices(actions)
        log_p = jax.nn.log_softmax(logits, axis=-1)
        nats = -jnp.take_along_axis(log_p, choices[..., None], axis=-1)[..., 0]
        hits = (logits.argmax(axis=-1) == choices).astype(dtype)
        return nats.mean(axis=-1), hits.mean(axis=-1)

    def act(
        self,
        key: PRNGKeyArray,
        logits: Float[Array, "B outputs"],
        temperature: Float[Array, ""],
    ) -> Array:
        """Actions `[B]` int32 or `[B A]`: sampled, or at temperature 0 the likeliest.

        A bin that is drawn is drawn from uniformly; the likeliest is taken at its
        middle.
        """
        # In bf16 noise is too coarse: rare choices would hardly ever be drawn.
        dtype = jnp.promote_types(jnp.float32, logits.dtype)
        logits = self._split(logits.astype(dtype))
        choose, place = jax.random.split(key)
        noise = jax.random.gumbel(choose, logits.shape, logits.dtype)
        # argmax(logits + temperature · Gumbel noise) samples softmax(logits / t).
        choice = jnp.argmax(logits + temperature * noise, axis=-1).astype(jnp.int32)
        if isinstance(self.space, Discrete):
            return choice[..., 0]
        low, high = self._bounds(logits.dtype)
        within = jax.random.uniform(place, choice.shape, logits.dtype)
        within = jnp.where(temperature > 0, within, 0.5)
        return low[None] + (high - low)[None] * (choice + within) / self.bins
