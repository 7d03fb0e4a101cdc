"""Ring attention: queries stay, keys and values travel round the devices.

Device r of R holds token block r. At hop t it attends to block (r - t) mod R while a
copy of that block is already on its way to device r + 1. Forward makes R - 1 hops;
backward runs the ring again, and the gradients of keys and values travel one hop
behind the blocks they belong to, so that only their last hop is exposed. Both are
scans, so that the compiler keeps two blocks alive and not R.

Bytes sent by a device: forward (R - 1) blocks of keys and values in their own type,
with K heads, and 8 bytes a key for position and segment; backward the same again and
R blocks of both gradients in f32.

Source: Liu, Zaharia & Abbeel 2023 (arXiv 2310.01889), section 3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from ring_rl.attention.blockwise import (
    Tiles,
    backward,
    blockwise_attention,
    forward,
    rowsum,
)
from ring_rl.attention.mask import Mask


class _Block(NamedTuple):
    """What travels: `[B S K 2H]` keys beside values, `[B S 2]` positions, segments.

    Two arrays and not four: each array of a permute is a collective of its own.
    """

    keys_values: Array
    order: Array

    @property
    def k(self):
        return jnp.split(self.keys_values, 2, axis=-1)[0]

    @property
    def v(self):
        return jnp.split(self.keys_values, 2, axis=-1)[1]

    def mask(self, mask: Mask) -> Mask:
        """The local queries' mask against this block's keys."""
        return mask.replace_keys(self.order[..., 0], self.order[..., 1])


def _block(k, v, mask: Mask) -> _Block:
    order = jnp.stack([mask.k_positions, mask.k_segments], axis=-1)
    return _Block(jnp.concatenate([k, v], axis=-1), order)


def _send(tree, axis_name: str):
    """Passes the arrays on to the next device and takes those of the previous one."""
    size = jax.lax.axis_size(axis_name)
    ring = [(r, (r + 1) % size) for r in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, ring), tree)


def merge(
    first: tuple[Float[Array, "B T N H"], Float[Array, "B T N"]],
    second: tuple[Float[Array, "B T N H"], Float[Array, "B T N"]],
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Output and log-sum-exp over two disjoint sets of keys, from those over each."""
    (o1, lse1), (o2, lse2) = first, second
    m = jnp.maximum(lse1, lse2)
    m = jnp.where(jnp.isneginf(m), 0.0, m)
    w1, w2 = jnp.exp(lse1 - m), jnp.exp(lse2 - m)
    total = w1 + w2
    divisor = jnp.where(total == 0, 1.0, total)
    output = (w1 / divisor)[..., None] * o1 + (w2 / divisor)[..., None] * o2
    return output, jnp.where(total == 0, -jnp.inf, m + jnp.log(divisor))


def _ring_forward(q, k, v, mask, scale, tiles, axis_name):
    hops = jax.lax.axis_size(axis_name) - 1

    def attend(block: _Block):
        return forward(q, block.k, block.v, block.mask(mask), scale=scale, tiles=tiles)

    def hop(carry, _):
        block, merged = carry
        # Sent before the compute, which does not wait for it.
        arriving = _send(block, axis_name)
        return (arriving, merge(merged, attend(block))), None

    # Nothing seen yet: output 0 and log-sum-exp -inf, in the types that `forward` has.
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    nothing = (jnp.zeros_like(q, dtype), jnp.full_like(q[..., 0], -jnp.inf, dtype))
    # The last hop has nothing to send on.
    (block, merged), _ = jax.lax.scan(hop, (_block(k, v, mask), nothing), length=hops)
    output, lse = merge(merged, attend(block))
    output = checkpoint_name(output.astype(q.dtype), "attention_output")
    lse = checkpoint_name(lse, "attention_lse")
    return output, (q, k, v, mask, output, lse)


def _ring_backward(scale, tiles, axis_name, residuals, g):
    q, k, v, mask, output, lse = residuals
    hops = jax.lax.axis_size(axis_name) - 1
    delta = rowsum(g, output)

    def gradients(block: _Block):
        dq, dk, dv = backward(
            q, block.k, block.v, g, lse, delta, block.mask(mask), scale=scale,
            tiles=tiles,
        )  # fmt: skip
        return dq, jnp.concatenate([dk, dv], axis=-1)

    def hop(carry, _):
        block, dq, partial = carry
        # `partial` belongs to the block seen one hop ago, which the next device holds
        # now: both permutes are independent of this hop's compute.
        arriving, received = _send((block, partial), axis_name)
        dq_hop, partial = gradients(block)
        return (arriving, dq + dq_hop, received + partial), None

    block = _block(k, v, mask)
    arriving = _send(block, axis_name)
    carry = (arriving, *gradients(block))
    (block, dq, partial), _ = jax.lax.scan(hop, carry, length=hops - 1)
    received = _send(partial, axis_name)
    dq_hop, partial = gradients(block)
    dk, dv = jnp.split(_send(received + partial, axis_name), 2, axis=-1)
    dq = dq + dq_hop
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _ring(q, k, v, mask, scale, tiles, axis_name):
    return _ring_forward(q, k, v, mask, scale, tiles, axis_name)[0]


_ring.defvjp(_ring_forward, _ring_backward)


def ring_attention_shard(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    axis_name: str,
    scale: float,
    tiles: Tiles,
) -> Float[Array, "B T N H"]:
    """One device's part of ring attention, inside a `jax.shard_map`.

    Every argument is the device's own block. Device memory: four blocks of keys and
    values at most, whatever the number of devices.
    """
    if jax.lax.axis_size(axis_name) == 1:
        return blockwise_attention(q, k, v, mask, scale, tiles)
    return _ring(q, k, v, mask, scale, tiles, axis_name)


def ring_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    *,
    mesh: Mesh,
    axis_name: str = "sequence",
    batch_axes: tuple[str, ...] = (),
    scale: float | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
) -> Float[Array, "B T N H"]:
    """Ring attention of global arrays, already in layout order, over `mesh`.

    The sequence axes T and S are sharded over `axis_name` and the batch over
    `batch_axes`; lengths that the devices do not divide are padded, on their end.

    Raises:
      ValueError: `axis_name` is not an axis of the mesh.
    """
    from ring_rl.attention.api import attention

    if axis_name not in mesh.axis_names:
        raise ValueError(
            f"ring_attention: axis_name must be one of the mesh's axes "
            f"{mesh.axis_names}, found {axis_name!r}"
        )
    size, T = mesh.shape[axis_name], q.shape[1]
    q, k, v, mask = (_pad_to_multiple(x, size) for x in (q, k, v, mask))
    tokens = PartitionSpec(batch_axes or None, axis_name)
    attend = jax.shard_map(
        functools.partial(
            attention, implementation="ring", axis_name=axis_name, scale=scale,
            block_q=block_q, block_k=block_k,
        ),
        mesh=mesh,
        in_specs=tokens,
        out_specs=tokens,
    )  # fmt: skip
    return attend(q, k, v, mask)[:, :T]


def _pad_to_multiple(x, size: int):
    """Pads axis 1 of an array with 0, or the tokens of a mask with padding."""
    if isinstance(x, Mask):
        leaves = [_pad_to_multiple(p, size) for p in (x.q_positions, x.k_positions)]
        for segments in (x.q_segments, x.k_segments):
            missing = -segments.shape[1] % size
            leaves.append(jnp.pad(segments, ((0, 0), (0, missing)), constant_values=-1))
        return Mask(*leaves, causal=x.causal, window=x.window)
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2))
