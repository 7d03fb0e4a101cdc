"""Keys and values of all tokens so far, spread evenly over the devices of the ring.

Each device holds `capacity / R` places of every row, in whatever order they were
written; positions and segments say what they are. The emptiest device takes the next
token, so the cache fills evenly whatever came before. Rows have their own lengths.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ring_rl.attention import Mask, decode_attention
from ring_rl.mesh import SEQUENCE, ShardingRules

# Of arrays `[B capacity ...]`.
_PLACES = PartitionSpec(None, SEQUENCE)


class Cache(NamedTuple):
    """The key/value cache of all layers.

    Attributes:
      k: one `[B capacity K H]` a layer, capacity sharded over the ring.
      v: likewise.
      positions: `[B capacity]` int32, sharded likewise.
      segments: `[B capacity]` int32; -1 where nothing is written.
      fill: `[B R]` int32, places written on each device; the same on all of them.
    """

    k: tuple[Float[Array, "B S K H"], ...]
    v: tuple[Float[Array, "B S K H"], ...]
    positions: Int[Array, "B S"]
    segments: Int[Array, "B S"]
    fill: Int[Array, "B R"]

    def forget(self, rows: Bool[Array, " B"]) -> "Cache":
        """Empties the cache of some rows."""
        return self._replace(
            segments=jnp.where(rows[:, None], -1, self.segments),
            fill=jnp.where(rows[:, None], 0, self.fill),
        )


class Slots(NamedTuple):
    """Where new tokens go, `[B T]` each: device of the ring, and place on it.

    Tokens that are not to be kept (negative segment) have device -1.
    """

    device: Int[Array, "B T"]
    place: Int[Array, "B T"]


def make_cache(
    *,
    layers: int,
    rows: int,
    capacity: int,
    kv_heads: int,
    head_width: int,
    dtype: jnp.dtype,
    rules: ShardingRules,
) -> Cache:
    """An empty cache for `capacity` tokens a row, rounded up to the devices."""
    capacity = -(-capacity // rules.ring) * rules.ring

    def full(shape, dtype, spec, value=0):
        # Made where it is to lie: no device ever holds the whole of it.
        sharding = rules.sharding(spec)
        return jax.jit(lambda: jnp.full(shape, value, dtype), out_shardings=sharding)()

    shape = (rows, capacity, kv_heads, head_width)
    return Cache(
        tuple(full(shape, dtype, _PLACES) for _ in range(layers)),
        tuple(full(shape, dtype, _PLACES) for _ in range(layers)),
        full((rows, capacity), jnp.int32, _PLACES),
        full((rows, capacity), jnp.int32, _PLACES, -1),
        full((rows, rules.ring), jnp.int32, rules.replicated),
    )


def _write(places, slots: Slots, new):
    """Writes `new [B T ...]` into this device's `places [B S ...]`."""
    mine = slots.device == jax.lax.axis_index(SEQUENCE)
    # A place beyond the end is dropped: that is how tokens of others are skipped.
    place = jnp.where(mine, slots.place, places.shape[1])
    rows = jnp.broadcast_to(jnp.arange(place.shape[0])[:, None], place.shape)
    return places.at[rows, place].set(new.astype(places.dtype), mode="drop")


def reserve(
    cache: Cache,
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    *,
    rules: ShardingRules,
) -> tuple[Slots, Cache]:
    """Takes places for new tokens and notes there what they are.

    The caller sees to the capacity: a token beyond it would be lost.
    """

    def take(fill, segment):
        device = jnp.argmin(fill, axis=1).astype(jnp.int32)
        kept = segment >= 0
        chosen = jax.nn.one_hot(device, rules.ring, dtype=fill.dtype)
        place = (fill * chosen).sum(axis=1)
        fill = fill + chosen * kept[:, None]
        return fill, Slots(jnp.where(kept, device, -1), place)

    fill, slots = jax.lax.scan(take, cache.fill, segments.T)
    slots = Slots(slots.device.T, slots.place.T)

    def note(slots, positions, segments, all_positions, all_segments):
        return (
            _write(all_positions, slots, positions),
            _write(all_segments, slots, segments),
        )

    same = rules.replicated
    all_positions, all_segments = jax.shard_map(
        note,
        mesh=rules.mesh,
        in_specs=(same, same, same, _PLACES, _PLACES),
        out_specs=_PLACES,
    )(slots, positions, segments, cache.positions, cache.segments)
    cache = cache._replace(positions=all_positions, segments=all_segments, fill=fill)
    return slots, cache


def attend_to_cache(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    cache: Cache,
    layer: int,
    slots: Slots,
    *,
    rules: ShardingRules,
) -> tuple[Float[Array, "B T N H"], Cache]:
    """Writes one layer's new keys and values, then attends to all of that layer's.

    The places are those that `reserve` took. Every device writes and reads only what
    it holds; see `decode_attention` for what crosses the wire.
    """
    scale = q.shape[-1] ** -0.5

    def local(q, k, v, positions, segments, slots, k_all, v_all, k_pos, k_seg):
        k_all, v_all = _write(k_all, slots, k), _write(v_all, slots, v)
        mask = Mask(positions, k_pos, segments, k_seg)
        output = decode_attention(
            q, k_all, v_all, mask, axis_name=SEQUENCE, scale=scale
        )
        return output, k_all, v_all

    same = rules.replicated
    output, k_all, v_all = jax.shard_map(
        local,
        mesh=rules.mesh,
        in_specs=(same,) * 6 + (_PLACES,) * 4,
        out_specs=(same, _PLACES, _PLACES),
    )(
        q, k, v, positions, segments, slots,
        cache.k[layer], cache.v[layer], cache.positions, cache.segments,
    )  # fmt: skip
    keys, values = list(cache.k), list(cache.v)
    keys[layer], values[layer] = k_all, v_all
    return output, cache._replace(k=tuple(keys), v=tuple(values))
