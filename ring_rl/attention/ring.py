"""Ring attention: queries stay, keys and values travel round the devices.

Device r of R holds token block r. At hop t it attends to block (r - t) mod R while a
copy of that block is already on its way to device r + 1. Forward makes R - 1 hops;
backward runs the ring again, and the gradients of keys and values travel one hop
behind the blocks they belong to, so that only their last hop is exposed. Both are
scans, so that the compiler keeps two blocks alive and not R. On one device there is one
block, and nothing travels. What a hop computes is a kernel's business, see `kernels`.

Sent by a device, in one collective a hop: forward (R - 1) blocks of keys and values in
their own type, with K heads, and 8 bytes a key for position and segment, 12 with the
token index that dropout needs; backward the same again and R blocks of both gradients
in f32.

Source: Liu, Zaharia & Abbeel 2023 (arXiv 2310.01889), section 3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ring_rl.attention.dropout import Dropout
from ring_rl.attention.kernels import KERNELS
from ring_rl.attention.mask import Mask, TileSummary, classify, summarise
from ring_rl.attention.tiles import Blocks


class Plan(NamedTuple):
    """What is fixed when attention is compiled.

    Attributes:
      scale: of the scores.
      blocks: tile lengths, advice to the kernel.
      kernel: its name in `KERNELS`.
      axis_name: mesh axis of the sequence; None on one device.
      hops: how often a block travels on; R - 1, or fewer if the mask lets no query see
        blocks from further away.
    """

    scale: float
    blocks: Blocks
    kernel: str
    axis_name: str | None = None
    hops: int = 0


class _Device:
    """One device's queries, and what the kernel makes of them and a block of keys.

    A block travels as one vector, since each array of a permute is a collective of its
    own; of integers, since compilers may send floating-point numbers in a wider type.
    """

    def __init__(self, q, k, v, mask: Mask, dropout: Dropout | None, plan: Plan):
        self.mask, self.dropout = mask, dropout
        self.kernel = KERNELS[plan.kernel]
        self.folded, scale = 1.0, plan.scale
        if q.dtype == jnp.promote_types(jnp.float32, q.dtype):
            # One multiplication of the queries instead of one of all scores.
            self.folded, scale = plan.scale, 1.0
            q = q * plan.scale
        self.q = q
        self.rules = {"scale": scale, "blocks": plan.blocks}
        tokens = () if dropout is None else (mask.k_tokens,)
        self.own = (k, v, mask.k_positions, mask.k_segments, *tokens)
        width = min(x.dtype.itemsize for x in self.own)
        self._word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width]

    def pack(self):
        """The device's own block as a vector."""
        words = (jax.lax.bitcast_convert_type(x, self._word) for x in self.own)
        return jnp.concatenate([x.reshape(-1) for x in words])

    def _unpack(self, block):
        width, start = block.dtype.itemsize, 0
        for like in self.own:
            ratio = like.dtype.itemsize // width
            size = like.size * ratio
            shape = like.shape if ratio == 1 else (*like.shape, ratio)
            words = block[start : start + size].reshape(shape)
            yield jax.lax.bitcast_convert_type(words, like.dtype)
            start += size

    def forward(self, arrays):
        """The kernel's sums over one block, given as its arrays."""
        k, v, *order = arrays
        mask = self.mask.replace_keys(*order)
        return self.kernel.forward(self.q, k, v, mask, self.dropout, **self.rules)

    def backward(self, arrays, g, shift, delta):
        """The block's part of dq, and its dk before dv: `[2 B S K H]`."""
        k, v, *order = arrays
        mask = self.mask.replace_keys(*order)
        dq, dk, dv = self.kernel.backward(
            self.q, k, v, g, shift, delta, mask, self.dropout, **self.rules
        )
        return dq, jnp.stack([dk, dv])

    def forward_more(self, block, merged):
        """What is `merged` so far with what a block that arrived adds."""
        arrays = list(self._unpack(block))

        def add(_, merged):
            return merge(merged, self.forward(arrays))

        return jax.lax.fori_loop(0, self._turns(arrays), add, merged)

    def backward_more(self, block, dq, *cotangents):
        """The sum dq with what the block adds, and the block's own gradients."""
        # Not skipped where nothing is seen: the zeros that a loop would begin with are
        # memory at the peak, a sixth of all.
        dq_hop, partial = self.backward(self._unpack(block), *cotangents)
        return dq + dq_hop, partial

    def _turns(self, arrays):
        """0 where no query of the device can see a key of the block, else 1.

        A loop of so many turns does what a `lax.cond` would. Round a hop's compute the
        CPU's runtime does not bear that: it lets two permutes run at once, takes one
        for the other, and aborts.
        """
        mask = self.mask.replace_keys(*arrays[2:])
        needed, _ = classify(*_bounds(mask), causal=mask.causal, window=mask.window)
        return needed[0, 0].astype(jnp.int32)


def _send(x, axis_name: str, steps: int = 1):
    """Passes an array on by some devices and takes that of the one as far behind."""
    size = jax.lax.axis_size(axis_name)
    ring = [(r, (r + steps) % size) for r in range(size)]
    return jax.lax.ppermute(x, axis_name, ring)


# Sum o of exp(score - m) times value, largest score m, and sum l of exp(score - m).
# Log-sum-exp, m + log l, would be one number: but where it is 50 its rounding is an
# error of 2e-6 in every weight, and again at each merge.
Partial = tuple[
    Float[Array, "*shape H"], Float[Array, "*shape"], Float[Array, "*shape"]
]


def merge(first: Partial, second: Partial) -> Partial:
    """Over two disjoint sets of keys, from those over each."""
    (o1, m1, l1), (o2, m2, l2) = first, second
    m = jnp.maximum(m1, m2)
    shift = jnp.where(jnp.isneginf(m), 0.0, m)
    keep1, keep2 = jnp.exp(m1 - shift), jnp.exp(m2 - shift)
    o = keep1[..., None] * o1 + keep2[..., None] * o2
    return o, m, keep1 * l1 + keep2 * l2


def _forward(q, k, v, mask, dropout, plan: Plan):
    device = _Device(q, k, v, mask, dropout, plan)
    o, *sums = _round(device, plan)
    output = o / jnp.where(sums[1] == 0, 1.0, sums[1])[..., None]
    output = _or_nothing(output, mask, plan)
    output = checkpoint_name(output.astype(q.dtype), "attention_output")
    sums = checkpoint_name(sums, "attention_sums")
    return output, (q, k, v, mask, dropout, output, sums)


def _round(device: _Device, plan: Plan):
    axis_name = plan.axis_name
    if axis_name is None or plan.hops == 0:
        return device.forward(device.own)

    def hop(carry, _):
        block, merged = carry
        # Sent before the compute, which does not wait for it.
        arriving = _send(block, axis_name)
        return (arriving, device.forward_more(block, merged)), None

    # Nothing seen yet, in the types that `forward` has.
    dtype = jnp.promote_types(jnp.float32, device.q.dtype)
    nothing = (
        jnp.zeros_like(device.q, dtype),
        jnp.full_like(device.q[..., 0], -jnp.inf, dtype),
        jnp.zeros_like(device.q[..., 0], dtype),
    )
    (block, merged), _ = jax.lax.scan(hop, (device.pack(), nothing), length=plan.hops)
    # The last hop has nothing to send on.
    return device.forward_more(block, merged)


def _bounds(mask: Mask) -> tuple[TileSummary, TileSummary]:
    """Of all queries and of all keys, as one tile each."""
    return (
        summarise(mask.q_positions, mask.q_segments, mask.q_positions.shape[1]),
        summarise(mask.k_positions, mask.k_segments, mask.k_positions.shape[1]),
    )


def _out_of_reach(mask: Mask, plan: Plan):
    """Whether a query of any device may see a block that does not travel so far.

    Then the given number of hops is too small, which must not pass for a result.
    """
    axis_name = plan.axis_name
    size, here = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    queries, keys = _bounds(mask)
    behind = (here - jnp.arange(plan.hops + 1, size)) % size

    def of_blocks(bound):
        # [B 1] of this device to [B blocks] of those out of reach.
        mine = jnp.zeros((size, *bound.shape), jnp.int32).at[here].set(bound)
        return jax.lax.psum(mine, axis_name)[behind, :, 0].T

    blocks = TileSummary(*(of_blocks(bound) for bound in keys))
    blocks = blocks._replace(padded=blocks.padded > 0)
    needed, _ = classify(queries, blocks, causal=mask.causal, window=mask.window)
    return jax.lax.pmax(needed.any().astype(jnp.int32), axis_name) > 0


def _or_nothing(results, mask: Mask, plan: Plan):
    """The arrays; NaN instead where the hops are too few."""
    axis_name = plan.axis_name
    if axis_name is None or plan.hops >= jax.lax.axis_size(axis_name) - 1:
        return results
    wrong = _out_of_reach(mask, plan)
    return jax.tree.map(lambda x: jnp.where(wrong, jnp.nan, x), results)


def _backward(plan: Plan, residuals, g):
    q, k, v, mask, dropout, output, (m, l) = residuals
    device = _Device(q, k, v, mask, dropout, plan)
    dtype = jnp.promote_types(jnp.float32, output.dtype)
    g, shift = g.astype(dtype), jnp.where(l == 0, 0.0, m)
    divisor = jnp.where(l == 0, 1.0, l)
    if q.dtype == dtype:
        # The kernel's weights are exp(score - m): what they multiply is divided by l.
        g = g / divisor[..., None]
    else:
        # g would be rounded once more.
        shift += jnp.log(divisor)
    delta = (g * output.astype(dtype)).sum(axis=-1)
    dq, dkv = _round_back(device, plan, (g.astype(q.dtype), shift, delta))
    dq, (dk, dv) = _or_nothing((device.folded * dq, dkv), mask, plan)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


def _round_back(device: _Device, plan: Plan, cotangents):
    axis_name = plan.axis_name
    if axis_name is None or plan.hops == 0:
        return device.backward(device.own, *cotangents)

    def hop(carry, _):
        block, dq, partial = carry
        # `partial` belongs to the block seen one hop ago, which the next device holds
        # now: neither permute depends on this hop's compute.
        arriving, received = _send(block, axis_name), _send(partial, axis_name)
        dq, partial = device.backward_more(block, dq, *cotangents)
        return (arriving, dq, received + partial), None

    arriving = _send(device.pack(), axis_name)
    carry = (arriving, *device.backward(device.own, *cotangents))
    (block, dq, partial), _ = jax.lax.scan(hop, carry, length=plan.hops - 1)
    received = _send(partial, axis_name)
    dq, partial = device.backward_more(block, dq, *cotangents)
    # Home: with fewer hops than devices the way is still one permute.
    home = jax.lax.axis_size(axis_name) - plan.hops
    return dq, _send(received + partial, axis_name, home)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def planned_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    dropout: Dropout | None,
    plan: Plan,
) -> Float[Array, "B T N H"]:
    """One device's part of attention, inside a `jax.shard_map` if there are several.

    Every argument is the device's own block. Device memory: four blocks of keys and
    values at most, whatever the number of devices.
    """
    return _forward(q, k, v, mask, dropout, plan)[0]


planned_attention.defvjp(_forward, _backward)
