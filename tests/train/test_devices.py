"""The number of devices and the layout of the sequence do not change training.

Sums over tokens are made in another order on other devices, so that results differ by
rounding. Adam divides by gradients that may be nothing but rounding, and makes much of
it: its losses are compared in f64, where there is next to none to make much of.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.data.chains import ChainConfig
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.data.tokens import TokenConfig
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.step import initial_state, make_step
from ring_rl.types import Continuous, Discrete, Episode, Scaling, Spaces

from ..attention.program import executions, read_computations

STEPS = 20
DISCRETE = Spaces(3, Discrete(4))
CONTINUOUS = Spaces(3, Continuous((-1.0, -2.0), (1.0, 2.0)))


@functools.cache
def _store(spaces: Spaces) -> EpisodeStore:
    random = np.random.default_rng(0)

    def episode(index: int) -> Episode:
        steps = int(random.integers(3, 9))
        discrete = isinstance(spaces.action, Discrete)
        return Episode(
            observations=random.normal(size=(steps, 3)).astype(np.float32),
            actions=random.integers(4, size=steps, dtype=np.int32)
            if discrete
            else random.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards=random.normal(size=steps).astype(np.float32),
            discounts=np.ones(steps, np.float32),
            final_observation=np.zeros(3, np.float32),
            has_final_observation=True,
            terminated=True,
            truncated=False,
            task=f"task {index % 2}",
            episode_id=index,
            extras={},
        )

    return EpisodeStore.from_episodes((episode(i) for i in range(12)), spaces)


def _keep_gradients() -> optax.GradientTransformation:
    """Passes gradients on and keeps them as its state."""
    return optax.GradientTransformation(
        lambda parameters: jax.tree.map(jnp.zeros_like, parameters),
        lambda gradients, state, parameters=None: (gradients, gradients),
    )


def _widened(tree):
    def wide(x):
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


@functools.cache
def _trainer(mesh: MeshConfig, rows: int, tokens: str, spaces: Spaces, wide: bool):
    """Everything but the layout, which is data and needs no compilation of its own."""
    agent = AgenticTransformer(
        # Tiles and chunks that divide nothing, several of them a device.
        TrunkConfig(
            layers=2, width=16, heads=4, kv_heads=2, feed_forward=32, chunk=22,
            block=5, dtype="float64" if wide else "float32",
        ),
        ChainConfig(trajectories=3, loss_on="all"),
        TokenConfig(layout=tokens),
        bins=5,
    )  # fmt: skip
    rules = ShardingRules(make_mesh(mesh))
    scaling = Scaling((0.1, 0.0, -0.1), (1.0, 2.0, 0.5), 3.0, 1.0)
    model = agent.build(spaces, scaling, rules, seed=0)
    if wide:
        nnx.update(model, _widened(nnx.state(model)))
    name, rate = ("adamw", 1e-2) if wide else ("sgd", 1e-1)
    optimiser = optax.chain(
        _keep_gradients(),
        make_optimiser(OptimiserConfig(name, learning_rate=rate, warmup=2), STEPS),
    )
    loader = ChainLoader(
        _store(spaces), LoaderConfig(rows, row_steps=25), agent.chains, agent.tokens,
        seed=0,
    )  # fmt: skip
    step = make_step(agent, model, optimiser, rules)
    start = functools.partial(initial_state, model, optimiser, rules, seed=0)
    return step, start, loader, rules


@functools.cache
def _train(devices, layout, tokens, spaces, *, wide=False, mesh=None, rows=2):
    """Losses of all steps, and the gradients of the first."""
    mesh = mesh or MeshConfig(sequence=devices)
    with jax.enable_x64(wide), jax.default_matmul_precision("highest"):
        step, start, loader, rules = _trainer(mesh, rows, tokens, spaces, wide)
        state, losses = start(), []
        for batch in loader.stream(0, STEPS, layout=layout, rules=rules):
            state, metrics = step(state, _widened(batch) if wide else batch)
            losses.append(float(metrics["loss"]))
            if len(losses) == 1:
                # Copied: the next step uses the state up.
                gradients = jax.tree.map(np.array, jax.tree.leaves(state.optimiser[0]))
    return np.array(losses), gradients


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
    one, _ = _train(1, "contiguous", tokens, spaces, wide=True)
    losses, _ = _train(devices, layout, tokens, spaces, wide=True)
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
    one, first = _train(1, "contiguous", tokens, spaces)
    losses, gradients = _train(devices, layout, tokens, spaces)
    assert len(set(one)) == STEPS
    assert abs(losses[0] - one[0]) <= 1e-6 * one[0]
    largest = max(np.abs(gradient).max() for gradient in first)
    for expected, found in zip(first, gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)
    np.testing.assert_allclose(losses, one, rtol=1e-5)


@pytest.mark.smoke
def test_rows_shared_out_too():
    """Two copies of the model, each with a ring of two devices."""
    one, _ = _train(1, "contiguous", "fused", CONTINUOUS)
    mesh = MeshConfig(data=2, sequence=2)
    losses, _ = _train(4, "zigzag", "fused", CONTINUOUS, mesh=mesh)
    np.testing.assert_allclose(losses, one, rtol=1e-5)


MESHES = {
    "data": MeshConfig(data=2, sequence=4),
    "fsdp": MeshConfig(fsdp=2, sequence=4),
    "tensor": MeshConfig(sequence=4, tensor=2),
    "data, fsdp": MeshConfig(data=2, fsdp=2, sequence=2),
    "all": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}
QUICK = ("all",)


def _meshes():
    return [
        pytest.param(mesh, marks=[] if name in QUICK else [pytest.mark.slow], id=name)
        for name, mesh in MESHES.items()
    ]


@pytest.mark.parametrize("mesh", _meshes())
def test_any_mesh_with_adam_in_f64(mesh):
    one, _ = _train(1, "contiguous", "fused", CONTINUOUS, wide=True, rows=4)
    losses, _ = _train(8, "zigzag", "fused", CONTINUOUS, wide=True, rows=4, mesh=mesh)
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


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_any_mesh_in_f32(mesh):
    one, first = _train(1, "contiguous", "fused", CONTINUOUS, rows=4)
    losses, gradients = _train(8, "zigzag", "fused", CONTINUOUS, rows=4, mesh=mesh)
    assert abs(losses[0] - one[0]) <= 1e-6 * one[0]
    largest = max(np.abs(gradient).max() for gradient in first)
    for expected, found in zip(first, gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize(
    "name", ["all", pytest.param("tensor", marks=pytest.mark.slow)]
)
def test_what_an_update_sends(name):
    """Parameters are gathered and the sequence is not; no branch waits for others."""
    step, start, loader, rules = _trainer(MESHES[name], 4, "fused", CONTINUOUS, False)
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
