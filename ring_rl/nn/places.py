"""Which places of the cache new tokens take, and writing and reading them there.

The emptiest device takes the next token, so that the cache fills evenly whatever came
before. In a full row a further token takes the place of the oldest one, wherever that
lies, or is counted as lost, as the cache's limit says.

Places are kept as `[B RT]`, sharded over the ring: each device's own `[B T]`, the place
there that a token takes, or the first beyond the end if it takes none.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from ring_rl.attention import Mask, decode_attention
from ring_rl.mesh import SEQUENCE, ShardingRules
from ring_rl.nn.cache import HEADS, NOTES, Cache, enlarge

_LATEST = jnp.iinfo(jnp.int32).max
# Of a whole sequence's keys and values `[B T K H]`, rows on every device.
_TOKENS = PartitionSpec(None, SEQUENCE)


def reserve(
    cache: Cache,
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    *,
    rules: ShardingRules,
) -> tuple[Int[Array, "B RT"], Cache]:
    """Takes places for a few new tokens and notes there what they are.

    A token of negative segment takes none. With a limit that slides, the positions of
    a row count its tokens one by one. Under `jit` nothing raises: look at
    `Cache.lost`, which counts what did not fit (`error`) or what was overwritten while
    it could still be seen (`slide`, in a cache that has not been enlarged to its
    limit, or more tokens at once than the limit says).

    Bytes on the wire: none, or where a limit slides O(B R) a token.
    """
    limit, devices = cache.limit, rules.ring
    places = min(cache.places, limit.tokens)

    def local(positions, segments, all_positions, all_segments, fill, lost):
        own, end = jax.lax.axis_index(SEQUENCE), all_segments.shape[1]
        new = jnp.where(segments >= 0, positions, _LATEST)
        # The oldest that the first of the new tokens sees, if the limit slides.
        seen = new.min(axis=1) - limit.tokens + 1

        def take(carry, token):
            fill, lost, all_positions, all_segments = carry
            position, segment = token
            wanted = segment >= 0
            device = jnp.argmin(fill, axis=1).astype(jnp.int32)
            place = jnp.take_along_axis(fill, device[:, None], axis=1)[:, 0]
            if limit.when_full == "error":
                full = fill.sum(axis=1, dtype=fill.dtype) >= places
                lost += wanted & full
                wanted &= ~full
                added = wanted
            else:
                full = fill.min(axis=1) >= end
                age = jnp.where(all_segments >= 0, all_positions, _LATEST)
                oldest = _on_all_devices(age.min(axis=1), own, devices)
                device = jnp.where(full, jnp.argmin(oldest, axis=1), device)
                place = jnp.where(full, jnp.argmin(age, axis=1), place)
                lost += wanted & full & (oldest.min(axis=1) >= seen)
                added = wanted & ~full
            fill += jax.nn.one_hot(device, devices, dtype=fill.dtype) * added[:, None]
            place = jnp.where(wanted & (device == own), place, end)[:, None]
            all_positions = _write_notes(all_positions, place, position[:, None])
            all_segments = _write_notes(all_segments, place, segment[:, None])
            return (fill, lost, all_positions, all_segments), place[:, 0]

        carry, taken = jax.lax.scan(
            take, (fill, lost, all_positions, all_segments), (positions.T, segments.T)
        )
        return *carry, taken.T

    same = rules.replicated
    fill, lost, all_positions, all_segments, taken = jax.shard_map(
        local,
        mesh=rules.mesh,
        in_specs=(same, same, NOTES, NOTES, same, same),
        out_specs=(same, same, NOTES, NOTES, NOTES),
    )(positions, segments, cache.positions, cache.segments, cache.fill, cache.lost)
    cache = cache._replace(
        positions=all_positions, segments=all_segments, fill=fill, lost=lost
    )
    return taken, cache


def reserve_all(
    cache: Cache,
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    *,
    rules: ShardingRules,
) -> tuple[Int[Array, "B T"], Cache]:
    """Places for whole sequences in layout order, in a cache that forgets all else.

    Every device keeps the tokens that it holds, one behind the other without those of
    negative segment. A cache that has too few places is enlarged; tokens of a row
    beyond its limit are counted as lost, unless the limit slides.

    Bytes on the wire: O(B R), the devices' counts of tokens.
    """
    limit, devices = cache.limit, rules.ring
    cache = enlarge(cache, segments.shape[1], rules=rules)

    def local(positions, segments, all_positions, all_segments):
        own, end = jax.lax.axis_index(SEQUENCE), all_segments.shape[1]
        kept = segments >= 0
        places = jnp.where(kept, jnp.cumsum(kept, axis=1, dtype=jnp.int32) - 1, end)
        return (
            _on_all_devices(kept.sum(axis=1, dtype=jnp.int32), own, devices),
            _write_notes(all_positions, places, positions),
            _write_notes(jnp.full_like(all_segments, -1), places, segments),
            places,
        )

    fill, all_positions, all_segments, taken = jax.shard_map(
        local,
        mesh=rules.mesh,
        in_specs=(_TOKENS, _TOKENS, NOTES, NOTES),
        out_specs=(rules.replicated, NOTES, NOTES, _TOKENS),
    )(positions, segments, cache.positions, cache.segments)
    lost = jnp.zeros_like(cache.lost)
    if limit.when_full == "error":
        held = fill.sum(axis=1, dtype=fill.dtype)
        lost = jnp.maximum(held - limit.tokens, 0)
    cache = cache._replace(
        positions=all_positions, segments=all_segments, fill=fill, lost=lost
    )
    return taken, cache


def write(
    cache: Cache,
    layer: int,
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    taken: Int[Array, "B T"],
    *,
    rules: ShardingRules,
) -> Cache:
    """Writes one layer's keys and values of whole sequences, see `reserve_all`."""

    def local(new, places, all_):
        return jax.tree.map(lambda all_, new: _write(all_, places, new), all_, new)

    k_all, v_all = jax.shard_map(
        local,
        mesh=rules.mesh,
        in_specs=(_TOKENS, _TOKENS, HEADS),
        out_specs=HEADS,
    )((k, v), taken, (cache.k[layer], cache.v[layer]))
    return _replace_layer(cache, layer, k_all, v_all)


def write_and_attend(
    cache: Cache,
    layer: int,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    taken: Int[Array, "B RT"],
    *,
    rules: ShardingRules,
) -> tuple[Float[Array, "B T N H"], Cache]:
    """Writes one layer's new keys and values, then attends to all of that layer's.

    The places are those that `reserve` took. Every device writes and reads only what
    it holds; see `decode_attention` for what crosses the wire.
    """
    scale = q.shape[-1] ** -0.5

    def local(q, k, v, positions, segments, places, k_all, v_all, k_pos, k_seg):
        k_all, v_all = _write(k_all, places, k), _write(v_all, places, v)
        mask = Mask(positions, k_pos, segments, k_seg, window=cache.limit.window)
        output = decode_attention(
            q, jnp.swapaxes(k_all, 1, 2), jnp.swapaxes(v_all, 1, 2), mask,
            axis_name=SEQUENCE, scale=scale,
        )  # fmt: skip
        return output, k_all, v_all

    same = rules.replicated
    output, k_all, v_all = jax.shard_map(
        local,
        mesh=rules.mesh,
        in_specs=(same,) * 5 + (NOTES, HEADS, HEADS, NOTES, NOTES),
        out_specs=(same, HEADS, HEADS),
    )(
        q, k, v, positions, segments, taken,
        cache.k[layer], cache.v[layer], cache.positions, cache.segments,
    )  # fmt: skip
    return output, _replace_layer(cache, layer, k_all, v_all)


def _replace_layer(cache: Cache, layer: int, k_all, v_all) -> Cache:
    keys, values = list(cache.k), list(cache.v)
    keys[layer], values[layer] = k_all, v_all
    return cache._replace(k=tuple(keys), v=tuple(values))


def _on_all_devices(value, own, devices: int):
    """`[B R]`, the same on every device, of each device's own `[B]`."""
    column = jax.nn.one_hot(own, devices, dtype=value.dtype)
    return jax.lax.psum(value[:, None] * column[None], SEQUENCE)


def _write_notes(notes, places, new):
    """Writes `new [B T]` into a device's `[B S]`; places beyond are dropped."""
    rows = jnp.arange(places.shape[0])[:, None]
    return notes.at[rows, places].set(new, mode="drop")


def _write(all_, places, new):
    """Writes `new [B T K H]` into a device's `[B K S H]`, where it lies."""
    if places.size == 1:
        # XLA on CPU merges the write of a single place with what reads the cache next,
        # and copies all of it; more are a loop that it leaves alone. The second is
        # beyond the end.
        places = jnp.concatenate([places, jnp.full_like(places, all_.shape[2])], axis=1)
        new = jnp.concatenate([new, new], axis=1)
    rows = jnp.arange(places.shape[0])[:, None]
    return all_.at[rows, :, places].set(new.astype(all_.dtype), mode="drop")
