"""Keys and values of all tokens so far, spread evenly over the devices of the ring.

Each device holds an equal share of every row's places, in whatever order they were
written; positions and segments say what they are. Rows have their own lengths.

A cache begins small and is enlarged, by doubling, up to what its `Limit` needs. What
becomes of a token that finds a row full is in `ring_rl.nn.places`.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ring_rl.mesh import SEQUENCE, ShardingRules

# Of arrays `[B places]`, and of keys and values `[B K places H]`.
NOTES, HEADS = PartitionSpec(None, SEQUENCE), PartitionSpec(None, None, SEQUENCE)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Limit:
    """How much a row remembers, and what happens when it would be more.

    Attributes:
      tokens: that a row holds at most.
      when_full: `error`, a further token is not written and counted as lost, or
        `slide`, it takes the place of the row's oldest.
      at_once: tokens that are written together at most.
    """

    tokens: int
    when_full: Literal["error", "slide"] = "error"
    at_once: int = 1

    def __post_init__(self):
        """Checks the ranges."""
        if self.tokens < 1 or self.at_once < 1:
            raise ValueError(
                "cache: tokens and at_once must be at least 1, found "
                f"{self.tokens} and {self.at_once}"
            )
        if self.when_full not in ("error", "slide"):
            raise ValueError(
                f"cache: when_full must be error or slide, found {self.when_full!r}"
            )

    @property
    def window(self) -> int | None:
        """How many positions back a token sees, itself included; None for all."""
        return self.tokens if self.when_full == "slide" else None

    @property
    def places(self) -> int:
        """That a row needs at most.

        Of tokens that slide in together the first still sees what the last replaces.
        """
        return self.tokens + (self.at_once - 1 if self.when_full == "slide" else 0)


class Cache(NamedTuple):
    """The key/value cache of all layers.

    Keys and values lie in the order that attention of one token reads without a copy,
    see `decode_attention`.

    Attributes:
      k: one `[B K S H]` a layer, the S places sharded over the ring.
      v: likewise.
      positions: `[B S]` int32, sharded likewise.
      segments: `[B S]` int32; -1 where nothing is written.
      fill: `[B R]` int32, places written on each device; the same on all of them.
      lost: `[B]` int32, tokens that a row should remember and does not.
      limit: what a row may hold.
    """

    k: tuple[Float[Array, "B K S H"], ...]
    v: tuple[Float[Array, "B K S H"], ...]
    positions: Int[Array, "B S"]
    segments: Int[Array, "B S"]
    fill: Int[Array, "B R"]
    lost: Int[Array, " B"]
    limit: Limit

    @property
    def places(self) -> int:
        """S, that a row has now, on all devices together."""
        return self.segments.shape[1]

    def forget(self, rows: Bool[Array, " B"]) -> "Cache":
        """Empties the cache of some rows."""
        return self._replace(
            segments=jnp.where(rows[:, None], -1, self.segments),
            fill=jnp.where(rows[:, None], 0, self.fill),
            lost=jnp.where(rows, 0, self.lost),
        )


def make_cache(
    *,
    layers: int,
    rows: int,
    places: int,
    limit: Limit,
    kv_heads: int,
    head_width: int,
    dtype: jnp.dtype,
    rules: ShardingRules,
) -> Cache:
    """An empty cache of `places` a row to begin with, rounded up to the devices."""
    places = -(-min(places, limit.places) // rules.ring) * rules.ring

    def full(shape, dtype, spec, value=0):
        # Made where it is to lie: no device ever holds the whole of it.
        sharding = rules.sharding(spec)
        return jax.jit(lambda: jnp.full(shape, value, dtype), out_shardings=sharding)()

    shape = (rows, kv_heads, places, head_width)
    return Cache(
        tuple(full(shape, dtype, HEADS) for _ in range(layers)),
        tuple(full(shape, dtype, HEADS) for _ in range(layers)),
        full((rows, places), jnp.int32, NOTES),
        full((rows, places), jnp.int32, NOTES, -1),
        full((rows, rules.ring), jnp.int32, rules.replicated),
        full((rows,), jnp.int32, rules.replicated),
        limit,
    )


def enlarge(cache: Cache, places: int, *, rules: ShardingRules) -> Cache:
    """The same cache with at least so many places a row; the tokens stay in theirs.

    Every device adds to its own share: nothing is sent. A cache that has the room is
    returned as it is.
    """
    missing = -(-(places - cache.places) // rules.ring)
    return cache if missing <= 0 else _enlarge(cache, missing, rules)


@functools.partial(jax.jit, static_argnames=("missing", "rules"))
def _enlarge(cache: Cache, missing: int, rules: ShardingRules) -> Cache:
    def local(keys_values, positions, segments):
        def pad(x, axis, value=0):
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, missing)
            return jnp.pad(x, widths, constant_values=value)

        keys_values = jax.tree.map(lambda x: pad(x, 2), keys_values)
        return keys_values, pad(positions, 1), pad(segments, 1, -1)

    specs = (HEADS, NOTES, NOTES)
    (k, v), positions, segments = jax.shard_map(
        local, mesh=rules.mesh, in_specs=specs, out_specs=specs
    )((cache.k, cache.v), cache.positions, cache.segments)
    return cache._replace(k=k, v=v, positions=positions, segments=segments)
