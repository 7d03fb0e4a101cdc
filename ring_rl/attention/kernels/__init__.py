"""The contract of a hop kernel, and which kernel a kind of device runs.

A hop is the attention of a device's own queries to one block of keys and values. The
ring calls a kernel once a hop and merges what it returns; on one device the only block
is the whole sequence. `blockwise`, in portable XLA, is always there. `triton` and
`hopper` are fused, for GPUs; what a kernel cannot do falls to the next.

cuDNN's kernel, through `jax.nn.dot_product_attention`, is no hop: its masks are lengths
and offsets fixed when it is compiled, where a hop's are positions and segments that
arrive with the keys, and the log-sum-exp it gives back is rounded to the inputs' type,
so that blocks could not be merged exactly.
"""

from typing import Protocol

from jaxtyping import Array, Float

from ring_rl.attention import blockwise
from ring_rl.attention.dropout import Dropout
from ring_rl.attention.kernels import hopper, triton
from ring_rl.attention.kernels.tuning import LEAST_CAPABILITY, compute_capability
from ring_rl.attention.mask import Mask
from ring_rl.attention.tiles import Blocks


class HopKernel(Protocol):
    """Attention of queries to a block of keys, forward and backward.

    Both run inside `jax.shard_map`, manual over all mesh axes: they see one device's
    arrays and use no collectives. `mask` has this block's keys; its arrays are data,
    different on every device. Sums are f32 at least, whatever the inputs are.
    """

    @staticmethod
    def supports(q: Float[Array, "B T N H"], dropout: Dropout | None) -> str | None:
        """None where the kernel can do this here, or the end of a sentence: why not."""
        ...

    @staticmethod
    def forward(
        q: Float[Array, "B T N H"],
        k: Float[Array, "B S K H"],
        v: Float[Array, "B S K H"],
        mask: Mask,
        dropout: Dropout | None = None,
        *,
        scale: float,
        blocks: Blocks,
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"], Float[Array, "B T N"]]:
        """Sums over the block, o of exp(score - m) times value, m, l of exp(score - m).

        m is the largest score, or another number for which no sum overflows or
        vanishes: a kernel that has the normalised output and the log-sum-exp alone may
        return them as o and m, and l = 1, at the cost of its rounding. A row that sees
        nothing in the block has o and l 0 and m -inf. Dropout is of the weights in o,
        not of those in l. `blocks` is advice.
        """
        ...

    @staticmethod
    def backward(
        q: Float[Array, "B T N H"],
        k: Float[Array, "B S K H"],
        v: Float[Array, "B S K H"],
        g: Float[Array, "B T N H"],
        shift: Float[Array, "B T N"],
        delta: Float[Array, "B T N"],
        mask: Mask,
        dropout: Dropout | None = None,
        *,
        scale: float,
        blocks: Blocks,
    ) -> tuple[
        Float[Array, "B T N H"], Float[Array, "B S K H"], Float[Array, "B S K H"]
    ]:
        """This block's part of dq, and its dk and dv.

        With p = exp(score - shift) and D the factor of dropout, dv is (D p)ᵀ g, and the
        gradient of the scores is p (D g vᵀ - delta). `shift` is finite: over *all*
        blocks, the log-sum-exp, with `g` the output's cotangent; or the largest score,
        with `g` and `delta` divided by l.
        """
        ...


# The fastest first.
KERNELS: dict[str, HopKernel] = {
    "hopper": hopper,
    "triton": triton,
    "blockwise": blockwise,
}


def choose_kernel(
    name: str | None, q: Float[Array, "B T N H"], dropout: Dropout | None
) -> str:
    """The name of the kernel: the given one, or the fastest for such queries here.

    Raises:
      ValueError: there is no kernel of this name, or it cannot do this.
    """
    if name is None:
        if compute_capability() < LEAST_CAPABILITY:
            return "blockwise"
        return next(x for x in KERNELS if KERNELS[x].supports(q, dropout) is None)
    if name not in KERNELS:
        raise ValueError(
            f"attention: kernel must be one of {', '.join(KERNELS)}, found {name!r}"
        )
    if reason := KERNELS[name].supports(q, dropout):
        raise ValueError(f"attention: kernel {name!r} {reason}")
    return name
