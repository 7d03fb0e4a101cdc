"""ExoRL's tasks on exploration data that the run collects itself.

    ring-rl train exorl                                         # walker_walk
    ring-rl train exorl --environment.id exorl/cartpole_swingup
    ring-rl train walker-tasks                                  # hidden: which of four
    ring-rl study paper-table                                   # six tasks, six columns

An explorer that seeks what it has not seen (DDPG on novelty) makes 100,000 steps that
never see the task; their rewards are computed afterwards. Episodes are cut to 250
steps (100 in `walker-tasks`), so that whole trajectories fit a context that a CPU can
train on: `--environment.max-steps 1000` is ExoRL's own length.

In the single tasks the observation is sufficient, so earlier trials tell nothing; in
`walker-tasks` it does not say whether to stand, walk, run or flip.
"""

import dataclasses

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.configs.run import EvaluationConfig, Gymnasium, RunConfig
from ring_rl.configs.sources import Explored
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import LoaderConfig
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.loop import LoopConfig
from ring_rl.train.optimiser import OptimiserConfig

_TRUNK = TrunkConfig(layers=3, width=64, heads=4)
_BINS = 21
MANY, FEW = 16, 4  # trajectories of the longer and of the shorter contexts

AGENTIC = RunConfig(
    name="exorl",
    agent=AgenticTransformer(
        trunk=_TRUNK, chains=ChainConfig(trajectories=MANY), bins=_BINS
    ),
    data=Explored(),
    environment=Gymnasium("exorl/walker_walk", max_steps=250),
    loader=LoaderConfig(rows=1, row_steps=4000),
    optimiser=OptimiserConfig(learning_rate=2e-3, warmup=50),
    loop=LoopConfig(steps=300, log_every=20, checkpoint_every=100),
    evaluation=EvaluationConfig(trials=MANY, rollouts=8, temperature=0.0),
)

DECISION = dataclasses.replace(
    AGENTIC, name="exorl-dt", agent=DecisionTransformer(trunk=_TRUNK, bins=_BINS)
)

CLONING = dataclasses.replace(
    AGENTIC, name="exorl-bc", agent=BehaviorCloning(trunk=_TRUNK, bins=_BINS)
)

WALKER = dataclasses.replace(
    AGENTIC,
    name="walker-tasks",
    environment=Gymnasium("ring_rl/Walker-v0", max_steps=100),
    loader=LoaderConfig(rows=2, row_steps=1600),
    loop=LoopConfig(steps=600, log_every=20, checkpoint_every=200),
    evaluation=EvaluationConfig(trials=MANY, rollouts=8),
)

WALKER_DECISION = dataclasses.replace(
    WALKER, name="walker-tasks-dt", agent=DECISION.agent
)

PRESETS = {
    "exorl": (AGENTIC, "Agentic Transformer on explored data of any of ExoRL's tasks"),
    "exorl-dt": (DECISION, "Decision Transformer on the same data and protocol"),
    "exorl-bc": (CLONING, "10 % behaviour cloning on the same data and protocol"),
    "walker-tasks": (WALKER, "hidden task: the walker is to stand, walk, run or flip"),
    "walker-tasks-dt": (WALKER_DECISION, "Decision Transformer on the same"),
}
