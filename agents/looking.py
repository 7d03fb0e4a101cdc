"""Which steps of its context an agent reads: the attention of a few acting tokens.

Attention never has its weights in memory. Here they are computed again, densely, for
a few queries only: the trunk runs over the context once, and beside each block stands
softmax(q Kᵀ) of those queries. Nothing else of the model knows of it.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ring_rl.agents.reading import as_told, read_tokens, take
from ring_rl.agents.transformer_policy import TransformerPolicy
from ring_rl.attention import Mask
from ring_rl.nn.policy import TrajectoryTransformer
from ring_rl.types import Chain, Spaces, Tokens


class Look(NamedTuple):
    """What acting tokens give to the steps of a chain, of an attention of 1 in all.

    A fused token shows what came of the step before it too: what a trial's last step
    brought is read at the first step of the next trial in the context. Steps are in the
    order in which they were played, whatever the agent's `recall`.

    Attributes:
      masses: `[Q L N steps]` f32, softmax weights of each query, layer and head, summed
        over the tokens of a step.
      seen: `[Q steps]`, whether a step, or a token of it, is in the query's context.
      queries: `[Q]`, the steps of the chain whose acting tokens ask.
      trials: `[steps]`, index of each step's trial, from 0.
      timesteps: `[steps]`, environment steps since the trial began.
    """

    masses: Float[np.ndarray, "Q L N steps"]
    seen: Bool[np.ndarray, "Q steps"]
    queries: Int[np.ndarray, " Q"]
    trials: Int[np.ndarray, " steps"]
    timesteps: Int[np.ndarray, " steps"]

    def by_trial(self) -> Float[np.ndarray, "Q L N trials"]:
        """The masses summed over the steps of each trial."""
        starts = np.flatnonzero(self.timesteps == 0)
        return np.add.reduceat(self.masses, starts, axis=-1)


def look(
    agent: TransformerPolicy,
    model: TrajectoryTransformer,
    chain: Chain,
    *,
    told: float,
    queries: Sequence[int],
) -> Look:
    """Attention of the tokens that act at some steps of a chain of whole trials.

    It is that of a row which has acted the chain, told the same target return: the
    context is cleared, slides, or lies in another order where the agent's would.
    Memory: a few arrays of queries times heads times tokens, besides what the trunk
    takes.

    Args:
      agent: the trained agent.
      model: its model.
      chain: trials in the order in which they were played; their target returns and
        completions are not looked at. The last may be unfinished.
      told: the target return that the row was told.
      queries: steps of the chain, from 0.

    Raises:
      ValueError: there is no such step.
    """
    steps = len(chain.rewards)
    for query in queries:
        if not 0 <= query < steps:
            raise ValueError(f"look: expected steps from 0 to {steps - 1}, got {query}")
    chain = as_told(chain, told)
    trials = np.cumsum(chain.timesteps == 0) - 1
    config = model.config
    masses = np.zeros((len(queries), config.layers, config.heads, steps), np.float32)
    seen = np.zeros((len(queries), steps), bool)
    # The first step of what a query sees beside the trials before, and the queries.
    own: dict[int, list[int]] = {}
    for index, query in enumerate(queries):
        forgets = agent.tokens.memory == "step"
        began = query if forgets else int(np.argmax(trials == trials[query]))
        own.setdefault(began, []).append(index)
    for began, members in own.items():
        asking = np.array([queries[index] for index in members])
        earlier, _ = agent.in_context(take(chain, slice(began)))
        order = np.concatenate([earlier, np.arange(began, asking.max() + 1)])
        places = len(earlier) + asking - began
        found, visible = _masses(agent, model, take(chain, order), places)
        for member, weights, those in zip(members, found, visible, strict=True):
            masses[member][..., order], seen[member, order] = weights, those
    return Look(masses, seen, np.array(queries), trials, np.array(chain.timesteps))


def _masses(
    agent: TransformerPolicy,
    model: TrajectoryTransformer,
    chain: Chain,
    queries: Int[np.ndarray, " Q"],
) -> tuple[Float[np.ndarray, "Q L N steps"], Bool[np.ndarray, "Q steps"]]:
    """What queries give and see that share a context, which begins with the chain."""
    config, spaces = agent.tokens, Spaces(chain.observations.shape[1], model.head.space)
    stride = config.tokens_per_step
    # One row for each part of the batch; all are the same.
    rows = [chain] * model.rules.copies
    tokens = read_tokens(rows, config, spaces, model.rules)
    acting = config.fields.index("observation") if stride > 1 else 0
    positions = np.asarray(tokens.positions)[0]
    known = np.asarray(tokens.segments)[0] >= 0
    places = np.full(len(chain.rewards) * stride, -1)
    places[positions[known]] = np.flatnonzero(known)
    slides = agent.when_full == "slide" and agent.context_steps
    window = agent.context_steps * stride if slides else None
    asked = places[queries * stride + acting].astype(np.int32)
    found = _weights(*nnx.split(model), tokens, asked, window)
    weights, visible = (np.asarray(array) for array in found)
    step = positions[known] // stride
    masses = np.zeros((len(chain.rewards), *weights.shape[:-1]), np.float32)
    seen = np.zeros((len(chain.rewards), len(queries)), bool)
    np.add.at(masses, step, np.moveaxis(weights[..., known], -1, 0))
    np.logical_or.at(seen, step, visible[:, known].T)
    # [steps L N Q] to [Q L N steps]
    return masses.transpose(3, 1, 2, 0), seen.T


@functools.partial(jax.jit, static_argnums=(0, 4))
def _weights(
    graph, parameters, tokens: Tokens, asked: Int[Array, " Q"], window: int | None
) -> tuple[Float[Array, "L N Q S"], Bool[Array, "Q S"]]:
    """Of the first row, at places `asked`, with the keys in the layout's order."""
    model = nnx.merge(graph, parameters)
    positions, segments = tokens.positions, tokens.segments
    mask = Mask.self_attention(positions, segments, window=window)
    some = Mask(
        positions[:1, asked], positions[:1], segments[:1, asked], segments[:1],
        window=window,
    )  # fmt: skip
    x, found = model.embedded(tokens), []
    for block in model.trunk.blocks:
        q, k, _ = block.project(x, positions)
        found.append(attention_weights(q[:1, asked], k[:1], some)[0])
        x = block(x, mask)
    return jnp.stack(found), some.seen()[0]


def attention_weights(
    q: Float[Array, "B Q N H"], k: Float[Array, "B S K H"], mask: Mask
) -> Float[Array, "B N Q S"]:
    """softmax(q kᵀ / √H) over the keys that `mask` shows, at least in f32."""
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    k = jnp.repeat(k.astype(dtype), q.shape[2] // k.shape[2], axis=2)
    # Not in the coarser arithmetic that accelerators take by default.
    scores = jnp.einsum("BQNH,BSNH->BNQS", q.astype(dtype), k, precision="highest")
    scores = scores * q.shape[-1] ** -0.5
    seen = mask.seen()[:, None]
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
