"""Which weights a run folder gives back. No run is trained for it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from ring_rl.configs import presets
from ring_rl.configs.datasets import Derived, write_derived
from ring_rl.configs.loading import load_model, trained_digest
from ring_rl.configs.saved import claim_folder
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.checkpoint import Checkpoints, Notes
from ring_rl.train.loop import LoopConfig
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.step import initial_state
from ring_rl.types import Discrete, Scaling, Spaces

DERIVED = Derived(
    Spaces(3, Discrete(4)),
    Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0),
    2.0,
    "given",
    9,
    3,
)
# Training loss at each checkpoint.
LOSSES = {2: 1.0, 4: 3.0, 6: 2.0, 8: 2.5}


def write_run(run, *, average=0.0, best="", upto=8):
    """A run of 8 updates, whose parameters are those drawn plus the update's number."""
    preset = presets()["dark-room"]
    config = dataclasses.replace(
        preset,
        agent=dataclasses.replace(
            preset.agent, trunk=TrunkConfig(layers=1, width=8, heads=2)
        ),
        mesh=MeshConfig(sequence=1),
        optimiser=OptimiserConfig(average=average),
        loop=LoopConfig(steps=8, checkpoint_every=2, keep=1, best_metric=best),
    )
    claim_folder(run, config)
    write_derived(run / "data.json", DERIVED)
    rules = ShardingRules(make_mesh(config.mesh))
    model = config.agent.build(DERIVED.spaces, DERIVED.scaling, rules, seed=0)
    state = initial_state(
        model,
        make_optimiser(config.optimiser, 8),
        rules,
        seed=0,
        average=average > 0,
    )
    checkpoints = Checkpoints(run / "checkpoints", retention=config.loop.retention)
    for step, loss in LOSSES.items():
        if step <= upto:
            made = state._replace(
                parameters=jax.tree.map(lambda x, n=step: x + n, state.parameters)
            )
            if average:
                made = made._replace(
                    average=jax.tree.map(lambda x, n=step: x - n, state.parameters)
                )
            checkpoints.save(step, made, Notes([], {"loss": loss}))
    checkpoints.close()
    return config, state.parameters


def moved(model, drawn):
    """By how much the parameters differ from those drawn."""
    (by,) = {
        round(float(np.max(one - other)), 3)
        for one, other in zip(
            jax.tree.leaves(nnx.state(model)), jax.tree.leaves(drawn), strict=True
        )
    }
    return by


def test_the_last_weights_are_loaded_unless_others_are_asked_for(tmp_path):
    _, drawn = write_run(tmp_path, best="loss")
    assert moved(load_model(tmp_path)[2], drawn) == 8
    assert moved(load_model(tmp_path, "best")[2], drawn) == 2
    with pytest.raises(ValueError, match="found none of update 4"):
        load_model(tmp_path, 4)


def test_an_average_is_what_acts(tmp_path):
    config, drawn = write_run(tmp_path, average=0.9)
    assert moved(load_model(tmp_path)[2], drawn) == -8
    with pytest.raises(ValueError, match="no best checkpoint; .*best_metric=''"):
        load_model(tmp_path, "best")
    before = trained_digest(tmp_path, config)
    next((tmp_path / "checkpoints" / "8" / "default").rglob("manifest.ocdbt")).touch()
    assert trained_digest(tmp_path, config) == before
    next((tmp_path / "checkpoints" / "8" / "default").rglob("manifest.ocdbt")).unlink()
    assert trained_digest(tmp_path, config) != before


def test_a_run_that_was_stopped_is_not_trained(tmp_path):
    _, drawn = write_run(tmp_path, upto=6, best="loss")
    with pytest.raises(ValueError, match="is not trained to its end, 6 of 8 updates"):
        load_model(tmp_path)
    assert moved(load_model(tmp_path, 2)[2], drawn) == 2
