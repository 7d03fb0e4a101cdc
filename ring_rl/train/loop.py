"""The training loop: batches in, checkpoints and metrics out, resumable anywhere."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from ring_rl.agent import Agent
from ring_rl.mesh import ShardingRules
from ring_rl.train.checkpoint import Checkpoints
from ring_rl.train.metrics import MetricsWriter
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.progress import Progress
from ring_rl.train.step import TrainState, initial_state, make_step
from ring_rl.types import Batch

# Batches of steps `start` to `stop`, on their devices.
Stream = Callable[[int, int], Iterator[Batch]]


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long to train, and how often to write.

    Attributes:
      steps: updates in all.
      log_every: updates between two lines of `metrics.jsonl`, each a mean over them.
      checkpoint_every: updates between two checkpoints, a multiple of `log_every`.
    """

    steps: int = 1000
    log_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self):
        """Checks that a checkpoint never falls between two lines of metrics."""
        if self.steps < 1 or self.log_every < 1:
            raise ValueError(
                "loop: steps and log_every must be at least 1, found "
                f"{self.steps} and {self.log_every}"
            )
        if self.checkpoint_every < 1 or self.checkpoint_every % self.log_every:
            raise ValueError(
                f"loop: checkpoint_every must be a multiple of log_every="
                f"{self.log_every}, found {self.checkpoint_every}"
            )


def train(
    agent: Agent,
    model: Any,
    stream: Stream,
    *,
    optimiser: OptimiserConfig,
    loop: LoopConfig,
    directory: Path,
    rules: ShardingRules,
    seed: int,
    title: str = "train",
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in `directory` if any.

    Afterwards `model` holds the trained parameters. Raises FloatingPointError when
    the loss is no longer a finite number; the last checkpoint then stands.
    """
    transformation = make_optimiser(optimiser, loop.steps)
    state = initial_state(model, transformation, rules, seed=seed)
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
        state = _run(
            make_step(agent, model, transformation),
            state, stream, loop, directory, checkpoints, title,
        )  # fmt: skip
    finally:
        checkpoints.close()
    nnx.update(model, state.parameters)
    return state


def _run(step, state, stream, loop, directory, checkpoints, title) -> TrainState:
    start = int(state.step)
    if start >= loop.steps:
        return state
    writer = MetricsWriter(directory, step=start)
    progress = Progress(title, loop.steps, start=start)
    pending: list[dict[str, Any]] = []
    tokens, began, waited = 0, time.monotonic(), 0.0
    try:
        batches = stream(start, loop.steps)
        for done in range(start + 1, loop.steps + 1):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            # Padding included: it is computed like the rest.
            tokens += batch.weight.size
            state, metrics = step(state, batch)
            pending.append(metrics)
            if done % loop.log_every == 0 or done == loop.steps:
                means = _means(pending, done)
                seconds = time.monotonic() - began
                timing = {
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds,
                    "waiting_for_data": waited / seconds,
                }
                writer.write(done, means, timing)
                progress.update(
                    done, f"loss {means['loss']:.4f}  {tokens / seconds:,.0f} tokens/s"
                )
                pending, tokens, began, waited = [], 0, time.monotonic(), 0.0
            if done % loop.checkpoint_every == 0 or done == loop.steps:
                checkpoints.save(done, state)
    finally:
        progress.close()
        writer.close()
    return state


def _means(pending: list[dict[str, Any]], done: int) -> dict[str, float]:
    """Means over a logging interval, in f64 on the host.

    Checked before every checkpoint: one that holds NaN would fail every resume.
    """
    means = {
        name: float(np.mean([np.float64(metrics[name]) for metrics in pending]))
        for name in sorted(pending[0])
    }
    bad = [name for name, mean in means.items() if not np.isfinite(mean)]
    if bad:
        first = done - len(pending) + 1
        raise FloatingPointError(
            f"{', '.join(bad)}: not a finite number in updates {first} to {done}; the "
            "last checkpoint stands; a smaller optimiser.learning_rate may help"
        )
    return means
