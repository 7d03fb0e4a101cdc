"""One compiled function for all tests of attention: output and gradients together.

Masks are data, so that causal, padded and packed sequences share a compilation.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.attention import Mask, attention, permutation, ring_attention
from ring_rl.mesh import MeshConfig, make_mesh


class Inputs(NamedTuple):
    """Queries, keys, values and the output's cotangent."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray


class Results(NamedTuple):
    output: np.ndarray
    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray


@functools.partial(
    jax.jit, static_argnames=("implementation", "mesh", "block_q", "block_k")
)
def _results(inputs, mask, *, implementation, mesh, block_q, block_k):
    def attend(q, k, v):
        if implementation == "ring":
            axes = ("data",) if mesh.shape["data"] > 1 else ()
            return ring_attention(
                q, k, v, mask, mesh=mesh, batch_axes=axes,
                block_q=block_q, block_k=block_k,
            )  # fmt: skip
        return attention(
            q, k, v, mask, implementation=implementation,
            block_q=block_q, block_k=block_k,
        )  # fmt: skip

    output, pull_back = jax.vjp(attend, *inputs[:3])
    return Results(output, *pull_back(inputs.g))


@pytest.fixture(scope="session")
def results() -> Callable[..., Results]:
    """Output and gradients of an implementation, as NumPy arrays in natural order."""

    def compute(
        inputs: Inputs,
        mask: Mask,
        implementation: str = "blockwise",
        *,
        devices: int = 0,
        data: int = 1,
        layout: str = "contiguous",
        block_q: int | None = None,
        block_k: int | None = None,
    ) -> Results:
        mesh = make_mesh(MeshConfig(data, devices)) if devices else None
        if layout != "contiguous":
            order = permutation(layout, inputs.q.shape[1], devices)
            inputs, mask = jax.tree.map(lambda x: x[:, order], (inputs, mask))
        # GPUs would otherwise multiply f32 in TF32.
        with jax.default_matmul_precision("highest"):
            found = _results(
                inputs, mask, implementation=implementation, mesh=mesh,
                block_q=block_q, block_k=block_k,
            )  # fmt: skip
        found = jax.tree.map(np.asarray, found)
        if layout != "contiguous":
            undo = np.argsort(order)
            found = jax.tree.map(lambda x: x[:, undo], found)
        return found

    return compute


@pytest.fixture(scope="session")
def oracle(results) -> Callable[[Inputs, Mask], Results]:
    """The reference implementation in f64."""

    def compute(inputs: Inputs, mask: Mask) -> Results:
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
        with jax.enable_x64(True):
            return results(wide, mask, "reference")

    return compute


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., Inputs]:
    """Unit-normal inputs from a seed."""

    def make(
        B: int = 2, T: int = 32, S: int | None = None, N: int = 2, K: int | None = None,
        H: int = 8, *, dtype=np.float32, seed: int = 0,
    ) -> Inputs:  # fmt: skip
        random = np.random.default_rng(seed)
        S, K = S or T, K or N
        shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H))
        drawn = (random.normal(size=shape).astype(np.float32) for shape in shapes)
        return Inputs(*(np.asarray(jnp.asarray(x, dtype)) for x in drawn))

    return make


@pytest.fixture(scope="session")
def make_mask() -> Callable[..., Mask]:
    """Masks of self-attention by the kind of their tokens, the same in every row."""

    def make(
        kind: str, T: int, B: int = 2, *, causal: bool = True, window: int | None = None
    ) -> Mask:
        positions = np.arange(T, dtype=np.int32)
        segments = np.zeros(T, np.int32)
        if kind == "padding":
            # In the middle too: padding need not be at the end.
            segments[T // 3 : T // 2] = -1
            segments[-3:] = -1
        elif kind == "segments":
            # Three chains of uneven lengths and a padded end.
            ends = [0, T // 5, T // 2, T - 2, T]
            for index, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
                segments[start:end] = index if index < 3 else -1
                positions[start:end] = np.arange(end - start)
        elif kind == "steps":
            # Three tokens share a position, as those known before acting may.
            positions = positions // 3
        else:
            assert kind == "plain", kind
        rows = [np.tile(x, (B, 1)) for x in (positions, segments)]
        return Mask.self_attention(*rows, causal=causal, window=window)

    return make
