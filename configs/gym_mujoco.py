"""Gymnasium's MuJoCo tasks on data in D4RL's form.

    ring-rl data import hopper_medium.hdf5 --format d4rl --out datasets/hopper-medium
    ring-rl train hopper --data.path datasets/hopper-medium

Cost of `hopper`: about 12 minutes of CPU, evaluation included, on x86-64. Score to
expect from 40,000 medium-quality steps whose own score is 48: D4RL 45 (DT 48, 10 % BC
56; RESULTS.md).

On these tasks the observation is sufficient: earlier trials tell the agent nothing
that it needs, and a gain over trials is not to be expected.
"""

import dataclasses

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.configs.run import EvaluationConfig, Gymnasium, RunConfig
from ring_rl.configs.sources import Dataset
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import LoaderConfig
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.loop import LoopConfig
from ring_rl.train.optimiser import OptimiserConfig

_TRUNK = TrunkConfig(layers=3, width=128, heads=4)

HOPPER = RunConfig(
    name="hopper",
    agent=AgenticTransformer(trunk=_TRUNK, chains=ChainConfig(trajectories=4)),
    data=Dataset(),
    environment=Gymnasium("Hopper-v5"),
    loader=LoaderConfig(rows=1, row_steps=4000),
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup=100),
    loop=LoopConfig(steps=400, log_every=20, checkpoint_every=100),
    evaluation=EvaluationConfig(trials=4, rollouts=20, temperature=0.0),
)

HOPPER_DT = dataclasses.replace(
    HOPPER, name="hopper-dt", agent=DecisionTransformer(trunk=_TRUNK)
)

HOPPER_BC = dataclasses.replace(
    HOPPER, name="hopper-bc", agent=BehaviorCloning(trunk=_TRUNK)
)

OFFLINE = dataclasses.replace(HOPPER, name="offline", environment=Gymnasium(""))

PRESETS = {
    "hopper": (HOPPER, "Agentic Transformer on Hopper-v5, 4 whole trajectories"),
    "hopper-dt": (HOPPER_DT, "Decision Transformer on the same data and protocol"),
    "hopper-bc": (HOPPER_BC, "10 % behaviour cloning on the same data and protocol"),
    "offline": (OFFLINE, "Agentic Transformer on any dataset, without environment"),
}
