"""Small runs on any mesh, for tests of what the mesh does not change."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.multihost_utils import process_allgather

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

STEPS = 20
# Every mesh in every test of several, and not only those that differ most.
ALL_MESHES = os.environ.get("RING_RL_ALL_MESHES", "0") != "0"
DISCRETE = Spaces(3, Discrete(4))
CONTINUOUS = Spaces(3, Continuous((-1.0, -2.0), (1.0, 2.0)))


@functools.cache
def make_store(spaces: Spaces) -> EpisodeStore:
    """A few short episodes of two tasks."""
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


def whole(x: jax.Array) -> np.ndarray:
    """All of an array of which other processes may have parts."""
    if x.is_fully_addressable:
        return np.array(x)
    return np.asarray(process_allgather(x, tiled=True))


def _keep_gradients() -> optax.GradientTransformation:
    """Passes gradients on and keeps them as its state."""
    return optax.GradientTransformation(
        lambda parameters: jax.tree.map(jnp.zeros_like, parameters),
        lambda gradients, state, parameters=None: (gradients, gradients),
    )


def widened(tree):
    """With f64 where there is f32."""

    def wide(x):
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


def make_parts(mesh: MeshConfig, rows: int, tokens: str, spaces: Spaces, wide: bool):
    """Agent, model, loader and rules; `wide` is in f64."""
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
        nnx.update(model, widened(nnx.state(model)))
    loader = ChainLoader(
        make_store(spaces), LoaderConfig(rows, row_steps=25), agent.chains,
        agent.tokens, seed=0,
    )  # fmt: skip
    return agent, model, loader, rules


@functools.cache
def make_trainer(mesh: MeshConfig, rows: int, tokens: str, spaces: Spaces, wide: bool):
    """Everything but the layout, which is data and needs no compilation of its own."""
    agent, model, loader, rules = make_parts(mesh, rows, tokens, spaces, wide)
    name, rate = ("adamw", 1e-2) if wide else ("sgd", 1e-1)
    optimiser = optax.chain(
        _keep_gradients(),
        make_optimiser(OptimiserConfig(name, learning_rate=rate, warmup=2), STEPS),
    )
    step = make_step(agent, model, optimiser, rules)
    start = functools.partial(initial_state, model, optimiser, rules, seed=0)
    return step, start, loader, rules


@functools.cache
def run(devices, layout, tokens, spaces, *, wide=False, mesh=None, rows=2):
    """Losses of all steps, and the gradients of the first."""
    mesh = mesh or MeshConfig(sequence=devices)
    with jax.enable_x64(wide), jax.default_matmul_precision("highest"):
        step, start, loader, rules = make_trainer(mesh, rows, tokens, spaces, wide)
        state, losses = start(), []
        for batch in loader.stream(0, STEPS, layout=layout, rules=rules):
            state, metrics = step(state, widened(batch) if wide else batch)
            losses.append(float(metrics["loss"]))
            if len(losses) == 1:
                # Copied: the next step uses the state up.
                gradients = [whole(x) for x in jax.tree.leaves(state.optimiser[0])]
    return np.array(losses), gradients


MESHES = {
    "sequence": MeshConfig(sequence=8),
    "data": MeshConfig(data=2, sequence=4),
    "fsdp": MeshConfig(fsdp=2, sequence=4),
    "tensor": MeshConfig(sequence=4, tensor=2),
    "data, fsdp": MeshConfig(data=2, fsdp=2, sequence=2),
    "all": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}
