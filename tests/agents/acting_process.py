"""One process of several: prints the logits of acting along a fixed script."""

import argparse
import dataclasses
import json
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class LogitsAsActions:
    """Stands in for the action head: what an agent acts on is what it returns."""

    space: Any

    def act(self, key, logits, temperature):
        return logits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--process", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--address", required=True)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices // options.processes)
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            options.address,
            options.processes,
            options.process,
            initialization_timeout=300,
        )
    from ring_rl.agents import AgenticTransformer
    from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
    from ring_rl.nn.trunk import TrunkConfig
    from ring_rl.types import Chain, Discrete, Scaling, Spaces

    rules = ShardingRules(make_mesh(MeshConfig(sequence=options.devices)))
    assert rules.ring == jax.device_count() == options.devices
    spaces = Spaces(3, Discrete(4))
    scaling = Scaling((0.0,) * 3, (1.0,) * 3, 4.0, 1.0)
    agent = AgenticTransformer(trunk=TrunkConfig(layers=1, width=16, heads=2))
    model = agent.build(spaces, scaling, rules, seed=0)
    model.head = LogitsAsActions(spaces.action)
    random, rows, steps = np.random.default_rng(0), 2, 12
    told = np.full(rows, 2.0, np.float32)
    state = agent.start(model, told, trials=4, steps=steps)
    # It has read some steps at once, through the ring, before it acts.
    read = [
        Chain(
            observations=random.normal(size=(length, 3)).astype(np.float32),
            actions=random.integers(4, size=length, dtype=np.int32),
            rewards=random.normal(size=length).astype(np.float32),
            target_returns=np.zeros(length, np.float32),
            completions=np.zeros(length, np.float32),
            timesteps=np.arange(length, dtype=np.int32),
            weights=np.zeros(length, np.float32),
        )
        for length in (9, 4)
    ]
    state = agent.prefill(model, state, read)

    @jax.jit
    def advance(state, outcome, observations, active):
        state = agent.observe(state, *outcome)
        warm = np.float32(1)
        key = jax.random.key(0)
        return agent.act(model, state, observations, active, key, warm)

    none, everyone = np.zeros(rows, bool), np.ones(rows, bool)
    outcome = np.zeros(rows, np.int32), np.zeros(rows, np.float32), none, none
    found = []
    for step in range(steps):
        observations = random.normal(size=(rows, 3)).astype(np.float32)
        logits, state = advance(state, outcome, observations, everyone)
        agent.check(state)
        found.append(np.asarray(logits).tolist())
        outcome = (
            random.integers(4, size=rows, dtype=np.int32),
            random.normal(size=rows).astype(np.float32),
            np.array([step == 5, step == 7]),
            everyone,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
