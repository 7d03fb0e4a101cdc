"""The dark room: does a context of earlier trials find a hidden goal?

    ring-rl train dark-room                       # the quickstart
    ring-rl train dark-room --seeds 0,1,2         # with intervals over seeds
    ring-rl train dark-room-dt --seeds 0,1,2      # Decision Transformer, same protocol

64 goals to train on, 16 held out, 200 behaviour episodes a goal, up to 8 trajectories
in the context.

Cost: a seed takes about 3 minutes on two x86-64 cores, evaluation included. Score to
expect on the held-out goals, first trial and last of 8: Agentic Transformer 1.4 and
7.6, Decision Transformer 1.0 and 0.8 (RESULTS.md). `dark-room-tiny`: half a minute, 0.9
and 4.7 (of 8.5 at best).
"""

import dataclasses

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.configs.run import DarkRoom, EvaluationConfig, RunConfig
from ring_rl.configs.sources import Collected
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import LoaderConfig
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.loop import LoopConfig
from ring_rl.train.optimiser import OptimiserConfig

_TRUNK = TrunkConfig(layers=3, width=64, heads=4)

AGENTIC = RunConfig(
    name="dark-room",
    agent=AgenticTransformer(trunk=_TRUNK, chains=ChainConfig(trajectories=8)),
    data=Collected(),
    environment=DarkRoom(),
    loader=LoaderConfig(rows=8, row_steps=320),
    optimiser=OptimiserConfig(learning_rate=2e-3, warmup=100, clip=1.0),
    loop=LoopConfig(steps=1600, log_every=20, checkpoint_every=200),
    evaluation=EvaluationConfig(trials=8, rollouts=10),
)

DECISION = dataclasses.replace(
    AGENTIC, name="dark-room-dt", agent=DecisionTransformer(trunk=_TRUNK)
)

CLONING = dataclasses.replace(
    AGENTIC, name="dark-room-bc", agent=BehaviorCloning(trunk=_TRUNK)
)

TINY = RunConfig(
    name="dark-room-tiny",
    agent=AgenticTransformer(
        trunk=TrunkConfig(layers=2, width=32, heads=2),
        chains=ChainConfig(trajectories=8),
    ),
    data=Collected(episodes=100),
    environment=DarkRoom(size=5, max_steps=10, held_out=6),
    loader=LoaderConfig(rows=8, row_steps=160),
    optimiser=OptimiserConfig(learning_rate=2e-3, warmup=50),
    loop=LoopConfig(steps=400, log_every=20, checkpoint_every=200),
    evaluation=EvaluationConfig(trials=8, rollouts=10),
)

PRESETS = {
    "dark-room": (AGENTIC, "Agentic Transformer, hidden goal, 8 trials in a context"),
    "dark-room-tiny": (TINY, "the same in a 5 x 5 room, in a minute"),
    "dark-room-dt": (DECISION, "Decision Transformer on the same data and protocol"),
    "dark-room-bc": (CLONING, "10 % behaviour cloning on the same data and protocol"),
}
