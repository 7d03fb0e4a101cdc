"""Uniform actions under a run's protocol: what every agent is to be compared with."""

from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.collect import UniformBehaviour, record
from ring_rl.configs.run import RunConfig
from ring_rl.evaluate.protocol import Conditions, summarise
from ring_rl.evaluate.report import write_evaluation
from ring_rl.train.progress import Progress
from ring_rl.types import Rollouts


def evaluate_random(config: RunConfig, directory: Path, *, name: str) -> dict[str, Any]:
    """Rolls uniform actions out in a run's environment and writes the evaluation.

    As many rows, trials and tasks as the run's evaluation has, and its seed. There is
    no target return: 0 stands for it.

    Raises:
      ValueError: the environment fails.
    """
    evaluation = config.evaluation
    rows = [
        task
        for task in config.environment.evaluation_tasks
        for _ in range(evaluation.rollouts)
    ]
    count = len(rows) * evaluation.trials
    environment = config.environment.make(len(rows), seed=evaluation.seed)
    progress = Progress(f"evaluate {name}", count)
    returns, lengths, terminated = [], [], []
    try:
        behaviour = UniformBehaviour(environment.spaces.action)
        tasks = [task for task in rows for _ in range(evaluation.trials)]
        for episode in record(
            environment, behaviour, tasks=tasks, seed=evaluation.seed
        ):
            returns.append(float(np.sum(episode.rewards, dtype=np.float64)))
            lengths.append(len(episode.rewards))
            terminated.append(bool(episode.terminated))
            progress.update(len(returns))
    finally:
        progress.close()
        environment.close()
    shape = len(rows), evaluation.trials
    rollouts = Rollouts(
        returns=np.array(returns).reshape(shape),
        lengths=np.array(lengths, np.int64).reshape(shape),
        terminated=np.array(terminated).reshape(shape),
        tasks=tuple(rows),
        environment_steps_per_second=float("nan"),
        decode_milliseconds=float("nan"),
    )
    conditions = Conditions(
        name=name,
        agent=UniformBehaviour.__name__,
        environment=config.environment.id,
        target_return=0.0,
        target_rule="none",
        temperature=1.0,
    )
    found = summarise([rollouts], conditions, seeds=[evaluation.seed])
    times = {"seeds": [evaluation.seed]}
    write_evaluation(directory, found, times, [rollouts])
    return found
