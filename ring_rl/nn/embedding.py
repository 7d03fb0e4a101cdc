"""From the fields of a token to one vector: the sum of the fields it shows.

The same module embeds interleaved tokens, which show one field each, and fused ones.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ring_rl.types import Discrete, Scaling, Spaces, Tokens

# Wave lengths of the time step's features run from one step to this many.
_LONGEST_WAVE = 10_000.0
_TIME_FEATURES = 32


def time_features(timestep: Int[Array, "B T"]) -> Float[Array, "B T 32"]:
    """Sines and cosines of the time step: bounded for episodes of any length."""
    rates = _LONGEST_WAVE ** -jnp.linspace(0.0, 1.0, _TIME_FEATURES // 2)
    angles = timestep[..., None] * rates[None, None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TokenEmbedding(nnx.Module):
    """Embeds tokens `[B T]` into `[B T D]`."""

    def __init__(
        self,
        spaces: Spaces,
        scaling: Scaling,
        width: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """One linear map a field, and one for the time step's features."""

        def linear(inputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, width, dtype=dtype, rngs=rngs)

        self.scaling = scaling
        self.discrete_actions = isinstance(spaces.action, Discrete)
        self.dtype = dtype
        self.target_return = linear(1)
        self.observation = linear(spaces.observation)
        if self.discrete_actions:
            self.action = nnx.Embed(spaces.action.size, width, dtype=dtype, rngs=rngs)
        else:
            self.action = linear(spaces.action.size)
        self.reward = linear(1)
        self.completion = linear(1)
        self.time = linear(_TIME_FEATURES)

    def __call__(self, tokens: Tokens) -> Float[Array, "B T D"]:
        """The sum of the maps of the fields that each token shows."""
        scaling = self.scaling
        mean = jnp.asarray(scaling.observation_mean, tokens.observation.dtype)
        std = jnp.asarray(scaling.observation_std, tokens.observation.dtype)
        parts = (
            self.target_return(tokens.target_return[..., None] / scaling.return_scale),
            self.observation((tokens.observation - mean[None, None]) / std[None, None]),
            self.action(tokens.action),
            self.reward(tokens.reward[..., None] / scaling.reward_scale),
            self.completion(tokens.completion[..., None]),
        )
        x = self.time(time_features(tokens.timestep).astype(self.dtype))
        for index, part in enumerate(parts):
            x = x + jnp.where(tokens.present[..., index, None], part, 0)
        return x


def rotate(
    x: Float[Array, "B T N H"], positions: Int[Array, "B T"]
) -> Float[Array, "B T N H"]:
    """Rotary embedding: turns pairs of features by angles of the order position.

    Source: Su et al. 2021 (arXiv 2104.09864), equation 34.
    """
    dtype = jnp.promote_types(jnp.float32, x.dtype)
    half = x.shape[-1] // 2
    rates = _LONGEST_WAVE ** (-jnp.arange(half, dtype=dtype) / half)
    angles = positions[..., None, None].astype(dtype) * rates[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x.astype(dtype), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return turned.astype(x.dtype)
