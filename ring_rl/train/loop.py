"""The training loop: batches in, checkpoints and metrics out, resumable anywhere."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx

from ring_rl.agent import Agent
from ring_rl.mesh import ShardingRules
from ring_rl.train.checkpoint import Checkpoints, Notes
from ring_rl.train.interval import Interval
from ring_rl.train.metrics import MetricsWriter
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.progress import Progress
from ring_rl.train.step import TrainState, all_finite, initial_state, make_step
from ring_rl.train.stopping import Stopped
from ring_rl.types import Batch

# Batches of steps `start` to `stop`, on their devices.
Stream = Callable[[int, int], Iterator[Batch]]

# Updates that the host may be ahead of the devices: they never wait for it, and a run
# that is told to stop has no more than these to finish.
_AHEAD = 2

_all_finite = jax.jit(all_finite)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long to train, how often to write, and what is kept.

    Attributes:
      steps: updates in all.
      log_every: updates between two lines of `metrics.jsonl`, each a mean over them.
      checkpoint_every: updates between two checkpoints.
      on_nonfinite: what a loss or gradient that is no finite number does: `stop`, it
        ends the run, or `skip`, its batch changes nothing, and is counted as `skipped`
        in the metrics.
    """

    steps: int = 1000
    log_every: int = 20
    checkpoint_every: int = 200
    on_nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self):
        """Checks the ranges."""
        for name in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"loop: {name} must be at least 1, found {getattr(self, name)}"
                )
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(
                f"loop: on_nonfinite must be stop or skip, found {self.on_nonfinite!r}"
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
    contents: Callable[[int], str] | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in `directory` if any.

    Afterwards `model` holds the trained parameters.

    Args:
      agent: whose loss is made smaller.
      model: of the agent.
      stream: of batches.
      optimiser: what becomes of a gradient.
      loop: how long to train, how often to write, and what is kept.
      directory: of the run.
      rules: where arrays lie.
      seed: of the updates.
      title: names the run on the terminal.
      contents: says what the batch of a step holds, for a message about it.
      stop: asked after each update whether to end there.

    Raises:
      FloatingPointError: a loss, a gradient or what became of it is no longer a finite
        number; the last checkpoint, which is named, then stands.
      Stopped: `stop` said so; there is a checkpoint of the last update.
    """
    transformation = make_optimiser(optimiser, loop.steps)
    state = initial_state(model, transformation, rules, seed=seed)
    checkpoints = Checkpoints(directory / "checkpoints")
    notes = Notes()
    try:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
            notes = checkpoints.notes()
        step = make_step(
            agent, model, transformation, skip_nonfinite=loop.on_nonfinite == "skip"
        )
        run = _Run(loop, directory, checkpoints, title, contents or _unknown)
        state = run.train(step, state, notes, stream, stop or _never)
    finally:
        checkpoints.close()
    done = int(state.step)
    if done < loop.steps or (stop is not None and stop()):
        raise Stopped(title, done, loop.steps)
    nnx.update(model, state.parameters)
    return state


def _never() -> bool:
    return False


def _unknown(step: int) -> str:
    return f"is that of step {step}"


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same while a run is trained."""

    loop: LoopConfig
    directory: Path
    checkpoints: Checkpoints
    title: str
    contents: Callable[[int], str]

    def train(self, step, state, notes, stream, stop) -> TrainState:
        """The state after the last update, or after the one at which it stopped."""
        loop, start = self.loop, int(state.step)
        if start >= loop.steps or stop():
            return state
        writer = MetricsWriter(self.directory, step=start)
        progress = Progress(self.title, loop.steps, start=start)
        interval = Interval(start + 1 - len(notes.pending), notes.pending)
        line = notes.line
        running: collections.deque[Any] = collections.deque()
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
                interval.add(metrics)
                running.append(metrics)
                if len(running) > _AHEAD:
                    jax.block_until_ready(running.popleft())
                stopping = stop()
                last = done == loop.steps
                ends_line = done % loop.log_every == 0 or last
                ends_part = done % loop.checkpoint_every == 0 or last or stopping
                if ends_line or ends_part:
                    self._check(interval)
                if ends_line:
                    for number in interval.skipped():
                        progress.say(f"update {number} skipped: {self._blame(number)}")
                    line = interval.means()
                    seconds = time.monotonic() - began
                    timing = {
                        "seconds": seconds,
                        "tokens_per_second": tokens / seconds,
                        "waiting_for_data": waited / seconds,
                    }
                    writer.write(done, line, timing)
                    loss = line.get("loss", float("nan"))
                    progress.update(
                        done, f"loss {loss:.4f}  {tokens / seconds:,.0f} tokens/s"
                    )
                    interval = Interval(done + 1)
                    tokens, began, waited = 0, time.monotonic(), 0.0
                if ends_part:
                    self._save(done, state, Notes(interval.values(), line))
                if stopping:
                    break
        finally:
            progress.close()
            writer.close()
        return state

    def _check(self, interval: Interval) -> None:
        """Raises FloatingPointError where a metric is no finite number."""
        broken = interval.broken()
        if broken is not None:
            update, names = broken
            raise FloatingPointError(
                f"{', '.join(names)}: not a finite number in update {update}; "
                f"{self._blame(update)}; a smaller optimiser.learning_rate may help, "
                "and loop.on_nonfinite skip leaves such batches out"
            )

    def _save(self, done: int, state: TrainState, notes: Notes) -> None:
        """A checkpoint, of a state that is finite: another would fail every resume."""
        if not _all_finite(state):
            raise FloatingPointError(
                f"parameters or optimiser: not finite after update {done}, though its "
                f"loss and gradient are; {self._blame(done)}; a smaller "
                "optimiser.learning_rate or optimiser.clip may help"
            )
        self.checkpoints.save(done, state, notes)

    def _blame(self, update: int) -> str:
        """What the batch of an update is, and what there is to go back to."""
        latest = self.checkpoints.latest
        good = "there is no checkpoint yet"
        if latest is not None:
            folder = self.checkpoints.directory / str(latest)
            good = f"the last good checkpoint is {folder}"
        return f"its batch {self.contents(update - 1)}; {good}"
