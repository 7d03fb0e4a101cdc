"""Kernels lowered for a GPU on a machine that has none."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh


def lower_for_gpu(function: Callable[..., Any], *shapes: Any) -> str:
    """The program's text for CUDA: traced from shapes, neither compiled nor run."""
    traced = jax.jit(function).trace
    with _gpu():
        return traced(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def _gpu():
    # From 0.11 on, kernels are lowered for a kind of device that must be known.
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda")
    mesh = AbstractMesh((1,), ("devices",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)
