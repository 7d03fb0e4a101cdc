"""Whether a run's training step fits a device, by the compiler's own report."""

from collections.abc import Sequence
from typing import Any, cast

from ring_rl.configs.datasets import derive, make_loader
from ring_rl.configs.run import RunConfig
from ring_rl.data.episodes import EpisodeStore
from ring_rl.mesh import ShardingRules
from ring_rl.train.loop import begin


def step_bytes(
    config: RunConfig, stores: Sequence[EpisodeStore], rules: ShardingRules
) -> int:
    """Bytes of each device that an update takes: state, batch and temporary arrays.

    Compiles the update, and runs nothing.
    """
    loader = make_loader(config, stores)
    derived = derive(config, stores)
    agent, seed = config.agent, config.seed
    model = agent.build(derived.spaces, derived.scaling, rules, seed=seed)
    step, state = begin(agent, model, config.optimiser, config.loop, rules, seed=seed)
    stream = loader.stream(0, 1, layout=loader.choose_layout(rules.ring), rules=rules)
    # A jitted function, which its type does not say.
    lowered = cast(Any, step).lower(state, next(stream))
    found = lowered.compile().memory_analysis()
    return found.argument_size_in_bytes + found.temp_size_in_bytes


def misfit(
    config: RunConfig,
    stores: Sequence[EpisodeStore],
    rules: ShardingRules,
    device_bytes: int,
) -> str:
    """Why an update does not fit devices of so many bytes; nothing where it fits."""
    needed = step_bytes(config, stores, rules)
    if needed <= device_bytes:
        return ""
    return (
        f"does not fit: an update needs {needed / 1e9:.3g} GB on each of "
        f"{rules.mesh.size} devices, {device_bytes / 1e9:.3g} GB are given"
    )
