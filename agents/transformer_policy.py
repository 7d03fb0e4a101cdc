"""What the agents of this folder share: one transformer, one loss, one way to act.

An agent differs from another in what its chains are made of and which fields of them
it is shown, so that a comparison differs in that one thing.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ring_rl.agents.context import Context, acting_tokens, where
from ring_rl.agents.reading import (
    as_told,
    by_return,
    reaches,
    read_tokens,
    take,
    trials_left,
)
from ring_rl.data.chains import ChainConfig
from ring_rl.data.tokens import TokenConfig
from ring_rl.mesh import ShardingRules
from ring_rl.nn.cache import Cache, Limit, enlarge
from ring_rl.nn.policy import TrajectoryTransformer
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Batch, Chain, Discrete, Recall, Scaling, Spaces, Tokens

# Tokens that a context has room for to begin with: each time it grows, acting is
# compiled anew, which takes as long as some hundred steps of a context of this size.
_FIRST_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class TransformerPolicy:
    """A transformer over chains of trajectories.

    Attributes:
      trunk: sizes of the transformer.
      chains: what a chain is made of in training.
      tokens: how its steps become tokens.
      bins: bins of each component of a continuous action.
      trials_in_context: trials after which a context is cleared when acting; 0 never.
      context_steps: environment steps that a context holds at most when acting; 0 has
        room for all that its trials may take.
      when_full: what a context that is full does: `error`, it ends the rollout, or
        `slide`, it forgets its oldest tokens.
      recall: the order in which earlier trials lie in a context when acting: as they
        were `played`, or `ascending` by return, as in chains of training that are so;
        it is then read anew before each trial, and one that slides without the worst
        trials that it has no room for.
    """

    trunk: TrunkConfig = TrunkConfig()
    chains: ChainConfig = ChainConfig()
    tokens: TokenConfig = TokenConfig()
    bins: int = 41
    trials_in_context: int = 0
    context_steps: int = 0
    when_full: Literal["error", "slide"] = "error"
    recall: Recall = "played"

    def __post_init__(self):
        """Checks the ranges."""
        if self.bins < 2 or self.trials_in_context < 0:
            raise ValueError(
                "agent: bins must be at least 2 and trials_in_context at least 0, "
                f"found {self.bins} and {self.trials_in_context}"
            )
        if self.context_steps < 0 or self.when_full not in ("error", "slide"):
            raise ValueError(
                "agent: context_steps must be at least 0 and when_full error or slide, "
                f"found {self.context_steps} and {self.when_full!r}"
            )
        if self.recall not in ("played", "ascending"):
            raise ValueError(
                f"agent: recall must be played or ascending, found {self.recall!r}"
            )
        never = self.tokens.memory == "step" or 0 < self.trials_in_context < 3
        if self.recall == "ascending" and never:
            raise ValueError(
                "agent: recall ascending expects several earlier trials in a context, "
                "found tokens.memory 'step', or trials_in_context of 1 or 2"
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
        nats, hits = model.losses(batch, key)
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
        """The state of B rows that have seen nothing.

        A context holds `context_steps`, or all steps of the trials that share one.
        """
        rows = target_return.shape[0]
        most = min(trials, self.trials_in_context or trials) * steps
        most = 1 if self.tokens.memory == "step" else most
        stride = self.tokens.tokens_per_step
        limit = Limit(
            min(most, self.context_steps or most) * stride, self.when_full, stride
        )
        zeros = jnp.zeros(rows, jnp.float32)
        none = jnp.zeros(rows, jnp.int32)
        space = model.head.space
        shape = () if isinstance(space, Discrete) else (space.size,)
        kind = jnp.int32 if isinstance(space, Discrete) else jnp.float32
        context = Context(
            cache=model.make_cache(rows, limit, places=_FIRST_TOKENS),
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

    def prefill(
        self, model: TrajectoryTransformer, state: Context, chains: Sequence[Chain]
    ) -> Context:
        """The state of rows that have read chains as if they had acted them.

        Sequences run through the ring once, whatever their number of steps. Not for
        use inside `jax.jit`; the old state is used up.

        Args:
          model: the trained model.
          state: from `start`, whose `trials` count the trials that are read too.
          chains: one a row, of whole trials; one of no steps leaves a row as it is.
            They are read as if told the row's own target return, in the order that
            `recall` says.

        Raises:
          ValueError: not one chain a row, one that is longer than a context, or rows
            that the mesh cannot share out.
        """
        return self._read_chains(model, state, chains, places=0)

    def remember(
        self,
        model: TrajectoryTransformer,
        state: Context,
        chains: Sequence[Chain],
        rows: Bool[np.ndarray, " B"],
    ) -> Context:
        """The state in which some rows have read their trials anew, as `recall` says.

        A row's next step is then the first of a trial. Not for use inside `jax.jit`;
        the old state is used up. Memory: two more caches, if not all rows read.

        Args:
          model: the trained model.
          state: of rows that have acted; what came of the last actions is not in it.
          chains: one a row, all trials that it has read and played, as it did; those of
            other rows may be anything, of no steps for instance.
          rows: that read.

        Raises:
          ValueError: as `prefill`.
        """
        zeros = jnp.zeros(len(rows), jnp.float32)
        began = state._replace(earned=zeros, timestep=jnp.zeros_like(state.timestep))
        places = state.cache.places
        if rows.all():
            return self._read_chains(model, began, chains, places=places)
        # Reading uses up a cache, and what other rows have in theirs is still needed.
        copy = jax.tree.map(jnp.copy, state.cache)
        read = self._read_chains(
            model, began._replace(cache=copy), chains, places=places
        )
        cache = enlarge(state.cache, read.cache.places, rules=model.rules)
        cache = _choose(rows, read.cache, cache)
        rest = where(rows, read._replace(cache=None), state._replace(cache=None))
        return rest._replace(cache=cache)

    def _read_chains(
        self,
        model: TrajectoryTransformer,
        state: Context,
        chains: Sequence[Chain],
        *,
        places: int,
    ) -> Context:
        """As `prefill`, in few different lengths, hence programs, up to `places`."""
        told, limit = np.asarray(state.told), state.cache.limit
        most = limit.tokens // self.tokens.tokens_per_step
        if len(chains) != len(told):
            raise ValueError(
                f"prefill: expected {len(told)} chains, one a row, found {len(chains)}"
            )
        model.check_rows(len(told))
        read = [as_told(*row) for row in zip(chains, told.tolist(), strict=True)]
        found = [self.in_context(chain) for chain in read]
        pairs = zip(read, found, strict=True)
        kept = [take(chain, steps) for chain, (steps, _) in pairs]
        steps = np.array([len(chain.rewards) for chain in kept], np.int32)
        if limit.when_full == "error" and (steps > most).any():
            raise ValueError(
                f"prefill: expected chains of at most {most} steps, which is what a "
                f"context holds, found {steps.max()} for row {steps.argmax()}"
            )
        spaces = Spaces(chains[0].observations.shape[1], model.head.space)
        tokens = read_tokens(kept, self.tokens, spaces, model.rules, places)
        cache = enlarge(state.cache, tokens.segments.shape[1], rules=model.rules)
        cache = _read(*nnx.split(model), tokens, cache)

        def last(field: str, otherwise: Array) -> np.ndarray:
            """Of the last step that each row has in its context."""
            values = np.array(otherwise)
            for row, chain in enumerate(kept):
                if len(chain.rewards):
                    values[row] = getattr(chain, field)[-1]
            return values

        rest = state._replace(
            cache=None,
            steps=steps,
            trials=np.array([trials + 1 for _, trials in found], np.int32),
            action=last("actions", state.action),
            reward=last("rewards", state.reward),
            completion=last("completions", state.completion),
            previous_timestep=last("timesteps", state.previous_timestep),
        )
        rest = jax.device_put(rest, model.rules.sharding(model.rules.replicated))
        return rest._replace(cache=cache)

    def in_context(self, chain: Chain) -> tuple[Int[np.ndarray, " _"], int]:
        """What a context holds after a chain of whole trials, before the next begins.

        Returns:
          Indices of steps in the order in which they lie there, and how many trials the
          next one counts as played since the context was cleared.
        """
        starts = np.flatnonzero(chain.timesteps == 0)
        count = trials_left(len(starts), self.tokens, self.trials_in_context)
        trials = np.split(np.arange(len(chain.rewards)), starts)[1:]
        trials = trials[len(trials) - count :]
        if self.recall == "ascending":
            room = self.context_steps if self.when_full == "slide" else 0
            trials = by_return(chain, trials, room)
        return np.concatenate([np.zeros(0, np.int64), *trials]), count

    def make_room(
        self, model: TrajectoryTransformer, state: Context, *, steps: int
    ) -> Context:
        """The state with room for `steps` environment steps, up to what a row may hold.

        Its cache grows by doubling.
        """
        cache, limit = state.cache, state.cache.limit
        needed = min(steps * self.tokens.tokens_per_step, limit.places)
        if needed <= cache.places:
            return state
        places = min(max(needed, 2 * cache.places), limit.places)
        return state._replace(cache=enlarge(cache, places, rules=model.rules))

    def check(self, state: Context) -> None:
        """Raises ValueError if a row has lost what it should remember."""
        lost = np.flatnonzero(np.asarray(state.cache.lost))
        if len(lost):
            rows = ", ".join(map(str, lost[:8])) + (", ..." if len(lost) > 8 else "")
            raise ValueError(
                f"act: expected contexts of at most {state.cache.limit.tokens} tokens "
                f"({self.tokens.tokens_per_step} a step), found longer ones in rows "
                f"{rows}; give a larger context_steps, or when_full 'slide'"
            )

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
            acting_tokens(self.tokens, state, observations, active), state.cache
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
        # In training the sums are f64, here a running f32 sum.
        reached = (ended & reaches(earned, state.told)).astype(rewards.dtype)
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
        rest = where(active, after._replace(cache=None), state._replace(cache=None))
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


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _read(graph, parameters, tokens: Tokens, cache: Cache) -> Cache:
    return nnx.merge(graph, parameters).prefill(tokens, cache)[1]


@functools.partial(jax.jit, donate_argnums=2)
def _choose(rows, chosen: Cache, other: Cache) -> Cache:
    return where(rows, chosen, other)
