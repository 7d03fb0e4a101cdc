"""A point mass and a hidden goal: does more context act better?

    ring-rl train point-mass --seeds 0,1,2            # up to 16 trajectories
    ring-rl train point-mass-4 --seeds 0,1,2          # up to 4, cleared every 4 trials
    ring-rl train point-mass-dt --seeds 0,1,2         # Decision Transformer
    ring-rl evaluate runs/point-mass --control other-task
    ring-rl study point-mass-maze --seeds 0,1,2       # ExoRL's walls in the way
    ring-rl study point-mass-ablations                # what matters

The goal is anywhere in the arena, and the observation is where the mass is and how fast
it goes: only rewards tell. 512 goals to train on and 16 held out (with walls 64),
ExoRL's four corners among them; episodes of 20 steps of 0.4 seconds (with walls 40). A
goal's data is half of episodes that were meant for it, half of others relabelled.

Cost: a minute for the data, then a seed takes 4 to 6 minutes on two x86-64 cores,
evaluation included (with walls 10). Score to expect on the held-out goals, first trial
and last of 16, best about 17: Agentic Transformer 1.9 and 9.5, Decision Transformer 0.8
and 0.8; with walls, best about 33: 5.1 and 13.8, 1.8 and 1.2 (RESULTS.md).
"""

import dataclasses

from ring_rl.agents import AgenticTransformer, DecisionTransformer
from ring_rl.configs.run import EvaluationConfig, PointMass, RunConfig
from ring_rl.configs.sources import Collected
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import LoaderConfig
from ring_rl.mesh import MeshConfig
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.loop import LoopConfig
from ring_rl.train.optimiser import OptimiserConfig

_TRUNK = TrunkConfig(layers=3, width=64, heads=4)
_BINS = 11

AGENTIC = RunConfig(
    name="point-mass",
    agent=AgenticTransformer(
        trunk=_TRUNK, chains=ChainConfig(trajectories=16), bins=_BINS
    ),
    data=Collected(episodes=16, mistaken=0.25, relabelled=16, normalise=True),
    environment=PointMass(),
    loader=LoaderConfig(rows=8, row_steps=320),
    optimiser=OptimiserConfig(learning_rate=2e-3, warmup=100, clip=1.0),
    loop=LoopConfig(steps=1600, log_every=20, checkpoint_every=200),
    evaluation=EvaluationConfig(trials=16, rollouts=8),
)

FEWER = dataclasses.replace(
    AGENTIC,
    name="point-mass-4",
    agent=AgenticTransformer(
        trunk=_TRUNK,
        chains=ChainConfig(trajectories=4),
        bins=_BINS,
        trials_in_context=4,
    ),
)

DECISION = dataclasses.replace(
    AGENTIC,
    name="point-mass-dt",
    agent=DecisionTransformer(trunk=_TRUNK, bins=_BINS),
)


def _in_the_maze(config: RunConfig) -> RunConfig:
    """With ExoRL's walls in the way: longer episodes, from a corner, and more goals.

    Trials are recalled as they were learnt from, ascending by return: here a goal that
    was found is missed again for a trial or two, and must not be forgotten over it.
    """
    agent = config.agent
    several = agent.trials_in_context != 1
    return dataclasses.replace(
        config,
        name=config.name.replace("point-mass", "point-mass-maze"),
        agent=dataclasses.replace(agent, recall="ascending") if several else agent,
        environment=PointMass(walls=True, max_steps=40, held_out=64),
        loader=LoaderConfig(rows=8, row_steps=640),
        evaluation=EvaluationConfig(trials=16, rollouts=4, temperature=0.5),
        # A ring of a CPU's devices is slower than one of them.
        mesh=MeshConfig(sequence=1),
    )


MAZE, MAZE_FEWER, MAZE_DECISION = map(_in_the_maze, (AGENTIC, FEWER, DECISION))

PRESETS = {
    "point-mass": (AGENTIC, "Agentic Transformer, hidden goal, 16 trials in a context"),
    "point-mass-4": (
        FEWER,
        "the same with up to 4, cleared every 4 trials",
    ),
    "point-mass-dt": (DECISION, "Decision Transformer on the same data and protocol"),
    "point-mass-maze": (MAZE, "the first with ExoRL's walls in the way, 40 steps"),
    "point-mass-maze-4": (MAZE_FEWER, "with walls, up to 4, cleared every 4 trials"),
    "point-mass-maze-dt": (MAZE_DECISION, "Decision Transformer with walls"),
}
