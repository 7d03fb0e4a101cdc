"""What a row of a rollout knows, and the tokens by which it gets to know more."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ring_rl.data.tokens import FIELDS, KNOWN_BEFORE_ACTING, TokenConfig
from ring_rl.nn.cache import Cache
from ring_rl.types import Tokens

# Arrays of which each has the rows as its first axis.
Kept = TypeVar("Kept")


class Context(NamedTuple):
    """What a row of a rollout knows, `[B]` or `[B ...]` each but the cache.

    Attributes:
      cache: keys and values of the tokens so far.
      told: the target return of every trial.
      earned: rewards of the trial so far.
      steps: environment steps in this context so far.
      timestep: environment steps in this trial so far.
      trials: trials begun in this context, the present one included.
      action: of the step before.
      reward: likewise.
      completion: likewise.
      previous_timestep: time step of the step before.
    """

    cache: Cache
    told: Float[Array, " B"]
    earned: Float[Array, " B"]
    steps: Int[Array, " B"]
    timestep: Int[Array, " B"]
    trials: Int[Array, " B"]
    action: Array
    reward: Float[Array, " B"]
    completion: Float[Array, " B"]
    previous_timestep: Int[Array, " B"]


def acting_tokens(
    config: TokenConfig,
    state: Context,
    observations: Float[Array, "B O"],
    active: Bool[Array, " B"],
) -> Tokens:
    """The tokens that came since the last action, the acting one last."""
    stride, fields = config.tokens_per_step, config.fields
    here = {"target_return": state.told - state.earned, "observation": observations}
    before = {
        "action": state.action,
        "reward": state.reward,
        "completion": state.completion,
    }
    if config.layout == "fused":
        groups = [({**before, **here}, 0, 0)]
    else:
        # Fields after the observation are those of the step before.
        acting = fields.index("observation")
        groups = [
            ({fields[index]: before[fields[index]]}, index, 1)
            for index in range(acting + 1, stride)
        ] + [
            ({fields[index]: here[fields[index]]}, index, 0)
            for index in range(acting + 1)
        ]
    return jax.tree.map(
        lambda *parts: jnp.stack(parts, axis=1),
        *(
            _token(config, state, observations, shown, index, ago, active)
            for shown, index, ago in groups
        ),
    )


def _token(
    config: TokenConfig, state: Context, observations, shown, index, ago, active
):
    """One token a row: `shown` fields, at place `index` of the step `ago`."""
    known = active & (state.steps > 0)
    valid = known if ago else active
    absent = jnp.zeros_like(active)
    present = {
        field: (valid if field in KNOWN_BEFORE_ACTING else known)
        for field in config.fields
        if field in shown
    }
    like = {
        "target_return": state.told,
        "observation": observations,
        "action": state.action,
        "reward": state.reward,
        "completion": state.completion,
    }
    steps = state.steps - ago
    return Tokens(
        **{name: shown.get(name, jnp.zeros_like(like[name])) for name in FIELDS},
        present=jnp.stack([present.get(name, absent) for name in FIELDS], axis=-1),
        timestep=state.previous_timestep if ago else state.timestep,
        positions=steps * config.tokens_per_step + index,
        segments=jnp.where(valid, 0, -1),
    )


def where(rows: Bool[Array | np.ndarray, " B"], chosen: Kept, other: Kept) -> Kept:
    """The values of `chosen` in the rows of the mask, those of `other` elsewhere."""

    def choose(a, b):
        return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, chosen, other)
