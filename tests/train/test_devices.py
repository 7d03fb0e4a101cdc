"""The number of devices and the layout of the sequence do not change training.

Sums over tokens are made in another order on other devices, so that results differ by
rounding. Adam divides by gradients that may be nothing but rounding, and makes much of
it: its losses are compared in f64, where there is next to none to make much of.
"""

import re

import jax
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Scaling

from ..attention.program import executions, read_computations
from .meshes import (
    ALL_MESHES,
    CONTINUOUS,
    DISCRETE,
    MESHES,
    STEPS,
    make_trainer,
    run,
)


def _case(*case, slow: bool = False):
    return pytest.param(*case, marks=[pytest.mark.slow] if slow else [])


def _matrix(*default):
    """Devices, layout, tokens, spaces; those not run by default are slow."""
    default = set(default)
    everything = [
        (devices, layout, tokens, spaces)
        for tokens, spaces in (
            ("interleaved", DISCRETE),
            ("fused", DISCRETE),
            ("fused", CONTINUOUS),
        )
        for devices in (1, 4, 8)
        for layout in ("contiguous", "zigzag")
        if (devices, layout) != (1, "contiguous")
    ]
    return [_case(*case, slow=case not in default) for case in everything]


@pytest.mark.parametrize(
    ("devices", "layout", "tokens", "spaces"),
    _matrix(
        (1, "zigzag", "interleaved", DISCRETE),
        (8, "zigzag", "interleaved", DISCRETE),
        (8, "contiguous", "interleaved", DISCRETE),
    ),
)
def test_adam_in_f64(devices, layout, tokens, spaces):
    one, _ = run(1, "contiguous", tokens, spaces, wide=True)
    losses, _ = run(devices, layout, tokens, spaces, wide=True)
    assert len(set(one)) == STEPS
    np.testing.assert_allclose(losses, one, rtol=1e-9)


@pytest.mark.parametrize(
    ("devices", "layout", "tokens", "spaces"),
    _matrix(
        (4, "zigzag", "fused", CONTINUOUS),
        (4, "contiguous", "fused", CONTINUOUS),
    ),
)
def test_first_gradients_and_sgd_in_f32(devices, layout, tokens, spaces):
    one, first = run(1, "contiguous", tokens, spaces)
    losses, gradients = run(devices, layout, tokens, spaces)
    assert len(set(one)) == STEPS
    assert abs(losses[0] - one[0]) <= 1e-6 * one[0]
    largest = max(np.abs(gradient).max() for gradient in first)
    for expected, found in zip(first, gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)
    np.testing.assert_allclose(losses, one, rtol=1e-5)


@pytest.mark.smoke
def test_rows_shared_out_too():
    """Two copies of the model, each with a ring of two devices."""
    one, _ = run(1, "contiguous", "fused", CONTINUOUS)
    mesh = MeshConfig(data=2, sequence=2)
    losses, _ = run(4, "zigzag", "fused", CONTINUOUS, mesh=mesh)
    np.testing.assert_allclose(losses, one, rtol=1e-5)


QUICK = ("all",)


def _meshes():
    return [
        pytest.param(mesh, marks=[] if name in QUICK else [pytest.mark.slow], id=name)
        for name, mesh in MESHES.items()
    ]


@pytest.mark.parametrize("mesh", _meshes())
def test_any_mesh_with_adam_in_f64(mesh):
    one, _ = run(1, "contiguous", "fused", CONTINUOUS, wide=True, rows=4)
    losses, _ = run(8, "zigzag", "fused", CONTINUOUS, wide=True, rows=4, mesh=mesh)
    assert len(set(one)) == STEPS
    np.testing.assert_allclose(losses, one, rtol=1e-9)


def test_what_tensor_cannot_share_out_is_refused():
    rules = ShardingRules(make_mesh(MeshConfig(sequence=1, tensor=3)))
    scaling = Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
    agent = AgenticTransformer(TrunkConfig(width=24, heads=6, feed_forward=32))
    with pytest.raises(
        ValueError, match=r"mesh\.tensor=3 must .* {'feed_forward': 32}"
    ):
        agent.build(CONTINUOUS, scaling, rules, seed=0)


# Between them every axis is split.
@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES if ALL_MESHES else ["data, fsdp", "all"])
def test_any_mesh_in_f32(name):
    mesh = MESHES[name]
    one, first = run(1, "contiguous", "fused", CONTINUOUS, rows=4)
    losses, gradients = run(8, "zigzag", "fused", CONTINUOUS, rows=4, mesh=mesh)
    assert abs(losses[0] - one[0]) <= 1e-6 * one[0]
    largest = max(np.abs(gradient).max() for gradient in first)
    for expected, found in zip(first, gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize(
    "name", ["all", pytest.param("tensor", marks=pytest.mark.slow)]
)
def test_what_an_update_sends(name):
    """Parameters are gathered and the sequence is not; no branch waits for others."""
    mesh = MESHES[name]
    step, start, loader, rules = make_trainer(mesh, 4, "fused", CONTINUOUS, False)
    state = start()
    batch = next(loader.stream(0, 1, layout="zigzag", rules=rules))
    length = batch.weight.shape[1]
    compiled = step.lower(state, batch).compile()
    # Gathered whole or but for what `tensor` shares out, perhaps turned.
    wholes = {tuple(sorted(x.shape)) for x in jax.tree.leaves(state.parameters)}
    gathered = set()
    for operation, kind, _, conditional in executions(
        read_computations(compiled.as_text())
    ):
        assert not conditional, (operation, kind)
        shapes = [
            tuple(int(size) for size in shape.split(",") if size)
            for shape in re.findall(r"\w+\[([\d,]*)\]", kind)
        ]
        # Rows are shared out too, so that no device has a whole row of anything.
        assert all(length not in shape for shape in shapes), (operation, kind)
        if operation == "all-gather":
            gathered |= {tuple(sorted(s for s in shape if s > 1)) for shape in shapes}
    tensor = rules.mesh.shape["tensor"]
    parts = {
        tuple(sorted((*shape[:i], shape[i] // tensor, *shape[i + 1 :])))
        for shape in wholes
        for i in range(len(shape))
        if len(shape) == 2
    }
    assert gathered <= wholes | parts
    # Parameters and what Adam keeps of them: each device has its part.
    fsdp = rules.mesh.shape["fsdp"]
    assert bool(gathered) == (fsdp > 1)
    (kernel,) = jax.tree.leaves(state.parameters["trunk"]["blocks"][0]["queries"])
    held = kernel.addressable_shards[0].data.size
    assert held * fsdp * tensor == kernel.size
