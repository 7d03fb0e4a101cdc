"""What the agents of this folder share: one transformer, one loss, one way to act.

An agent differs from another in what its chains are made of and which fields of them
it is shown, so that a comparison differs in that one thing.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ring_rl.data.chains import ChainConfig
from ring_rl.data.tokens import FIELDS, KNOWN_BEFORE_ACTING, TokenConfig
from ring_rl.mesh import ShardingRules
from ring_rl.nn.cache import Cache
from ring_rl.nn.policy import TrajectoryTransformer
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Batch, Discrete, Scaling, Spaces, Tokens

# Relative error of a sum of some thousand rewards in f32.
_ROUNDING = 1e-5


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


@dataclasses.dataclass(frozen=True)
class TransformerPolicy:
    """A transformer over chains of trajectories.

    Attributes:
      trunk: sizes of the transformer.
      chains: what a chain is made of in training.
      tokens: how its steps become tokens.
      bins: bins of each component of a continuous action.
      trials_in_context: trials after which a context is cleared when acting; 0 never.
    """

    trunk: TrunkConfig = TrunkConfig()
    chains: ChainConfig = ChainConfig()
    tokens: TokenConfig = TokenConfig()
    bins: int = 41
    trials_in_context: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        if self.bins < 2 or self.trials_in_context < 0:
            raise ValueError(
                "agent: bins must be at least 2 and trials_in_context at least 0, "
                f"found {self.bins} and {self.trials_in_context}"
            )

    def build(
        self, spaces: Spaces, scaling: Scaling, rules: ShardingRules, *, seed: int
    ) -> TrajectoryTransformer:
        """The model, with parameters drawn from `seed`."""
        return TrajectoryTransformer(
            self.trunk,
            spaces,
            scaling,
            bins=self.bins,
            rules=rules,
            rngs=nnx.Rngs(seed),
        )

    def loss(
        self, model: TrajectoryTransformer, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Weighted mean of nats an action component, over the tokens that count."""
        del key  # nothing here is random; agents with dropout would use it
        nats, hits = model.losses(batch)
        total = jnp.maximum(batch.weight.sum(), 1)
        loss = (nats * batch.weight).sum() / total
        return loss, {
            "loss": loss,
            "accuracy": (hits * batch.weight).sum() / total,
            "actions": batch.weight.sum(),
        }

    def start(
        self,
        model: TrajectoryTransformer,
        target_return: Float[Array, " B"],
        *,
        trials: int,
        steps: int,
    ) -> Context:
        """The state of B rows that have seen nothing, with room for all they will."""
        rows = target_return.shape[0]
        together = min(trials, self.trials_in_context or trials)
        capacity = 1 if self.tokens.memory == "step" else together * steps
        zeros = jnp.zeros(rows, jnp.float32)
        none = jnp.zeros(rows, jnp.int32)
        space = model.head.space
        shape = () if isinstance(space, Discrete) else (space.size,)
        kind = jnp.int32 if isinstance(space, Discrete) else jnp.float32
        context = Context(
            cache=model.make_cache(rows, capacity * self.tokens.tokens_per_step),
            told=jnp.asarray(target_return, jnp.float32),
            earned=zeros,
            steps=none,
            timestep=none,
            trials=none + 1,
            action=jnp.zeros((rows, *shape), kind),
            reward=zeros,
            completion=zeros,
            previous_timestep=none,
        )
        # Copies: each is used up on its own, so no two may be the same array.
        rest = jax.tree.map(jnp.copy, context._replace(cache=None))
        rest = jax.device_put(rest, model.rules.sharding(model.rules.replicated))
        return rest._replace(cache=context.cache)

    def act(
        self,
        model: TrajectoryTransformer,
        state: Context,
        observations: Float[Array, "B O"],
        active: Bool[Array, " B"],
        key: PRNGKeyArray,
        temperature: Float[Array, ""],
    ) -> tuple[Array, Context]:
        """Actions of the active rows, and the state with their tokens in the cache."""
        logits, cache = model.decode(
            self._acting_tokens(state, observations, active), state.cache
        )
        actions = model.head.act(key, logits[:, -1], temperature)
        return actions, state._replace(cache=cache)

    def observe(
        self,
        state: Context,
        actions: Array,
        rewards: Float[Array, " B"],
        ended: Bool[Array, " B"],
        active: Bool[Array, " B"],
    ) -> Context:
        """The state after the environment answered; `ended` rows begin a new trial."""
        earned = state.earned + rewards
        # In training the sums are f64, here a running f32 sum: reached is to rounding.
        enough = state.told - _ROUNDING * jnp.abs(state.told)
        reached = (ended & (earned >= enough)).astype(rewards.dtype)
        after = state._replace(
            earned=jnp.where(ended, 0, earned),
            steps=state.steps + 1,
            timestep=jnp.where(ended, 0, state.timestep + 1),
            trials=state.trials + ended,
            action=actions,
            reward=rewards,
            completion=reached,
            previous_timestep=state.timestep,
        )
        rest = _where(active, after._replace(cache=None), state._replace(cache=None))
        cleared = self._cleared(rest, active & ended, active)
        return rest._replace(
            cache=state.cache.forget(cleared),
            steps=jnp.where(cleared, 0, rest.steps),
            trials=jnp.where(cleared, 1, rest.trials),
        )

    def _cleared(self, state: Context, ended, active):
        """Rows whose context ends here."""
        if self.tokens.memory == "step":
            return active
        if self.trials_in_context == 0:
            return jnp.zeros_like(ended)
        return ended & (state.trials > self.trials_in_context)

    def _acting_tokens(self, state: Context, observations, active) -> Tokens:
        """The tokens that came since the last action, the acting one last."""
        stride, fields = self.tokens.tokens_per_step, self.tokens.fields
        here = {"target_return": state.told - state.earned, "observation": observations}
        before = {
            "action": state.action,
            "reward": state.reward,
            "completion": state.completion,
        }
        if self.tokens.layout == "fused":
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
                self._token(state, observations, shown, index, ago, active)
                for shown, index, ago in groups
            ),
        )

    def _token(self, state: Context, observations, shown, index, ago, active):
        """One token a row: `shown` fields, at place `index` of the step `ago`."""
        known = active & (state.steps > 0)
        valid = known if ago else active
        absent = jnp.zeros_like(active)
        present = {
            field: (valid if field in KNOWN_BEFORE_ACTING else known)
            for field in self.tokens.fields
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
            positions=steps * self.tokens.tokens_per_step + index,
            segments=jnp.where(valid, 0, -1),
        )


def _where(rows, chosen: Context, other: Context) -> Context:
    """The values of `chosen` in the rows of the mask, those of `other` elsewhere."""

    def choose(a, b):
        return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, chosen, other)
