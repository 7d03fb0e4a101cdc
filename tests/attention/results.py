"""Output and gradients of attention, by any implementation and in any layout.

Masks are data, so that causal, padded and packed sequences share a compilation.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ring_rl.attention import Mask, attention, permutation, ring_attention
from ring_rl.mesh import MeshConfig, make_mesh

DROPOUT_SEED = 7


class Inputs(NamedTuple):
    """Queries, keys, values and the output's cotangent."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray


class Results(NamedTuple):
    """The output and the gradients of the first three inputs."""

    output: np.ndarray
    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray


def draw_inputs(
    B: int = 2, T: int = 32, S: int | None = None, N: int = 2, K: int | None = None,
    H: int = 8, *, dtype: Any = np.float32, seed: int = 0, times: float = 1,
) -> Inputs:  # fmt: skip
    """Normal inputs from a seed, of standard deviation `times`."""
    random = np.random.default_rng(seed)
    S, K = S or T, K or N
    shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H))
    drawn = (times * random.normal(size=shape).astype(np.float32) for shape in shapes)
    return Inputs(*(np.asarray(jnp.asarray(x, dtype)) for x in drawn))


def with_tokens(mask: Mask) -> Mask:
    """The mask, of tokens in natural order, with their indices."""
    (B, T), S = mask.q_positions.shape, mask.k_positions.shape[1]
    queries, keys = (np.tile(np.arange(n, dtype=np.int32), (B, 1)) for n in (T, S))
    (*leaves, _, _), static = mask.tree_flatten()
    return Mask.tree_unflatten(static, (*leaves, queries, keys))


def layout_order(layout: str, length: int, devices: int) -> np.ndarray:
    """A layout of any length: that of the next it can cut, without what is too much."""
    parts = 2 * devices
    order = permutation(layout, -(-length // parts) * parts, devices)
    return order[order < length]


@functools.partial(
    jax.jit,
    static_argnames=(
        "implementation", "mesh", "scale", "block_q", "block_k", "dropout_rate", "hops",
        "kernel",
    ),
)  # fmt: skip
def attend_and_pull_back(
    inputs: Inputs, mask: Mask, *, implementation: str, mesh: Any, **options: Any
) -> Results:
    """The arrays in the order in which they are given; `mesh` for the ring alone."""
    if options.get("dropout_rate"):
        options["dropout_key"] = jax.random.key(DROPOUT_SEED)

    def attend(q, k, v):
        if implementation == "ring":
            axes = ("data",) if mesh.shape["data"] > 1 else ()
            return ring_attention(q, k, v, mask, mesh=mesh, batch_axes=axes, **options)
        return attention(q, k, v, mask, implementation=implementation, **options)

    output, pull_back = jax.vjp(attend, *inputs[:3])
    return Results(output, *pull_back(inputs.g))


def compute(
    inputs: Inputs,
    mask: Mask,
    implementation: str = "blockwise",
    *,
    devices: int = 0,
    data: int = 1,
    layout: str = "contiguous",
    laid_out_for: int | None = None,
    **options: Any,
) -> Results:
    """NumPy arrays in natural order, however the tokens lie meanwhile.

    Args:
      inputs: in natural order.
      mask: likewise.
      implementation: as of `attention`.
      devices: of the ring; 0 is none.
      data: devices that share out the rows.
      layout: of the tokens.
      laid_out_for: on how many devices, if not on as many as there are.
      options: `scale`, `block_q`, `block_k`, `dropout_rate` and `hops` of
        `attention`.
    """
    mesh = make_mesh(MeshConfig(data=data, sequence=devices)) if devices else None
    queries, keys = (
        layout_order(layout, x.shape[1], laid_out_for or devices or 1)
        for x in inputs[:2]
    )
    stored = Inputs(
        inputs.q[:, queries], inputs.k[:, keys], inputs.v[:, keys], inputs.g[:, queries]
    )
    leaves, static = mask.tree_flatten()
    # Those of queries and of keys in turn.
    orders = itertools.cycle((queries, keys))
    mask = Mask.tree_unflatten(
        static,
        tuple(
            None if x is None else np.asarray(x)[:, order]
            for x, order in zip(leaves, orders, strict=False)
        ),
    )
    # GPUs would otherwise multiply f32 in TF32.
    with jax.default_matmul_precision("highest"):
        found = attend_and_pull_back(
            stored, mask, implementation=implementation, mesh=mesh, **options
        )
    undo = (np.argsort(order) for order in (queries, queries, keys, keys))
    return Results(
        *(np.asarray(x)[:, order] for x, order in zip(found, undo, strict=True))
    )


def oracle(inputs: Inputs, mask: Mask, **options: Any) -> Results:
    """The reference implementation in f64."""
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
    with jax.enable_x64(True):
        return compute(wide, mask, "reference", **options)
