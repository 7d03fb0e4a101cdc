"""Whether a run's training step fits a device, by the compiler's own report."""

from collections.abc import Sequence
from typing import Any

import jax

from ring_rl.configs.datasets import derive
from ring_rl.configs.run import RunConfig
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader
from ring_rl.mesh import ShardingRules
from ring_rl.train.optimiser import make_optimiser
from ring_rl.train.step import initial_state, make_step


class Unfit(Exception):
    """The training step needs more memory than a device has."""


def step_bytes(
    config: RunConfig, stores: Sequence[EpisodeStore], rules: ShardingRules
) -> int:
    """Bytes of each device that an update takes: state, batch and temporary arrays.

    Compiles the update, and runs nothing.
    """
    loader = ChainLoader(
        stores,
        config.loader,
        config.agent.chains,
        config.agent.tokens,
        seed=config.seed,
        weights=config.data.weights,
    )
    derived = derive(config, stores)
    model = config.agent.build(derived.spaces, derived.scaling, rules, seed=config.seed)
    optimiser = make_optimiser(config.optimiser, config.loop.steps)
    state = initial_state(model, optimiser, rules, seed=config.seed)
    stream = loader.stream(0, 1, layout=loader.choose_layout(rules.ring), rules=rules)
    lowered = jax.jit(make_step(config.agent, model, optimiser, rules)).lower(
        state, next(stream)
    )
    found: Any = lowered.compile().memory_analysis()
    return found.argument_size_in_bytes + found.temp_size_in_bytes


def check_fits(
    config: RunConfig,
    stores: Sequence[EpisodeStore],
    rules: ShardingRules,
    device_bytes: int,
) -> None:
    """Nothing where an update fits a device of so many bytes.

    Raises:
      Unfit: saying how much it needs and how much there is.
    """
    needed = step_bytes(config, stores, rules)
    if needed > device_bytes:
        raise Unfit(
            f"does not fit: an update needs {needed / 1e9:.3g} GB on each of "
            f"{rules.mesh.size} devices, {device_bytes / 1e9:.3g} GB are given"
        )
