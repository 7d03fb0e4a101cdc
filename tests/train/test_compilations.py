"""The training step is compiled once, however long a run is."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.configs import presets
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.train.compilations import Compilations
from ring_rl.train.loop import LoopConfig, train
from ring_rl.types import Continuous, Discrete, Episode, Scaling, Spaces

LONGEST = 9


def make_store(spaces):
    """Episodes of 1 to 9 steps, so that no two batches are filled alike."""
    random = np.random.default_rng(0)

    def episode(index):
        steps = 1 + index % LONGEST
        discrete = isinstance(spaces.action, Discrete)
        return Episode(
            random.normal(size=(steps, 3)).astype(np.float32),
            random.integers(4, size=steps, dtype=np.int32)
            if discrete
            else random.uniform(-1, 1, (steps, 2)).astype(np.float32),
            random.normal(size=steps).astype(np.float32),
            np.ones(steps, np.float32),
            np.zeros(3, np.float32),
            True, True, False, f"task {index % 2}", index, {},
        )  # fmt: skip

    return EpisodeStore.from_episodes(map(episode, range(36)), spaces)


def shrunk(preset):
    """The preset's agent, but small, and spaces of the kind that it acts in."""
    discrete = preset.environment.id == "ring_rl/DarkRoom-v0"
    action = Discrete(4) if discrete else Continuous((-1.0,) * 2, (1.0,) * 2)
    trunk = dataclasses.replace(preset.agent.trunk, layers=1, width=8, heads=2)
    return dataclasses.replace(preset.agent, trunk=trunk), Spaces(3, action)


# Of those that are the same when they are small, the last.
DISTINCT = {shrunk(preset): name for name, preset in presets().items()}


def compilations(preset, directory, *, steps):
    """How often each line of a run of the preset, but small, compiled its step.

    On one device; for two, and a run that goes on, see `test_resume.py`.
    """
    agent, spaces = shrunk(preset)
    rules = ShardingRules(make_mesh(MeshConfig(data=1, sequence=1), jax.devices()[:1]))
    loader = ChainLoader(
        make_store(spaces),
        LoaderConfig(rows=2, row_steps=2 * LONGEST),
        agent.chains,
        agent.tokens,
        seed=0,
    )
    layout = loader.choose_layout(rules.ring)
    train(
        agent,
        agent.build(spaces, Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0), rules, seed=0),
        lambda start, stop: loader.stream(start, stop, layout=layout, rules=rules),
        optimiser=preset.optimiser,
        loop=LoopConfig(steps=steps, log_every=2, checkpoint_every=max(2, steps // 2)),
        directory=directory,
        rules=rules,
        seed=0,
    )
    lines = (directory / "timing.jsonl").read_text().splitlines()
    return [json.loads(line)["compilations"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT.values())
def test_every_preset_compiles_once(name, tmp_path):
    steps = 200 if name == "dark-room-tiny" else 8
    found = compilations(presets()[name], tmp_path, steps=steps)
    assert found == [1] + [0] * (steps // 2 - 1)


def test_a_batch_of_another_shape_is_noticed():
    @jax.jit
    def train_step(x):
        return x + 1

    @jax.jit
    def other(x):
        return x + 2

    one, two = jnp.zeros(3), jnp.zeros(4)
    with Compilations() as found:
        train_step(one), other(one), train_step(one)
        assert (found.take(), found.take()) == (1, 0)
        train_step(two)
        assert found.take() == 1
    train_step(jnp.zeros(5))
    assert found.count == 2
