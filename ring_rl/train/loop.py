"""The training loop: batches in, checkpoints and metrics out, resumable anywhere."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx

from ring_rl import processes
from ring_rl.agent import Agent
from ring_rl.mesh import ShardingRules
from ring_rl.train.checkpoint import Checkpoints, Notes, Retention
from ring_rl.train.clock import Clock
from ring_rl.train.compilations import Compilations
from ring_rl.train.interval import Interval
from ring_rl.train.metrics import MetricsWriter, NoMetrics
from ring_rl.train.optimiser import OptimiserConfig, make_optimiser
from ring_rl.train.profiling import NoProfile, Profile
from ring_rl.train.progress import NoProgress, Progress
from ring_rl.train.step import (
    Step,
    TrainState,
    all_finite,
    initial_state,
    make_step,
)
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
      keep: checkpoints that are kept, the last ones.
      best_metric: a number of `metrics.jsonl` by whose best value one more checkpoint
        is kept; empty for none. It is measured on the batches that were trained on, not
        on others: a checkpoint is as good as the last line up to it, a mean over
        `log_every` updates, each measured before it was made.
      best_value: which value of it is best.
      accumulate: parts that the rows of a batch are computed in, one after the other,
        to need less memory; the update is that of the whole batch, to rounding.
      on_nonfinite: what a loss or gradient that is no finite number does: `stop`, it
        ends the run, or `skip`, its batch changes nothing, and is counted as `skipped`
        in the metrics.
    """

    steps: int = 1000
    log_every: int = 20
    checkpoint_every: int = 200
    keep: int = 2
    best_metric: Literal["", "loss", "accuracy", "gradient_norm"] = ""
    best_value: Literal["lowest", "highest"] = "lowest"
    accumulate: int = 1
    on_nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self):
        """Checks the ranges."""
        counts = ("steps", "log_every", "checkpoint_every", "keep", "accumulate")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"loop: {name} must be at least 1, found {getattr(self, name)}"
                )
        if self.best_value not in ("lowest", "highest"):
            raise ValueError(
                f"loop: best_value must be lowest or highest, found {self.best_value!r}"
            )
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(
                f"loop: on_nonfinite must be stop or skip, found {self.on_nonfinite!r}"
            )

    @property
    def retention(self) -> Retention:
        """Which checkpoints stay."""
        return Retention(self.keep, self.best_metric, self.best_value)


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
    profile: bool = False,
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in `directory` if any.

    Afterwards `model` holds the trained parameters, or their average if there is one;
    of several processes none has all of them, and `model` is left as it is.

    Several processes make the same calls; the first writes metrics, all write their
    parts of checkpoints, into the same folder.

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
      stop: asked after each update whether to end there; where one of several processes
        says so, all do after the same update.
      profile: whether a trace of a few updates is written to `directory/profile`.

    Raises:
      ValueError: there is no metric of the name in `loop`, or a checkpoint is of
        another configuration.
      FloatingPointError: a loss, a gradient or what became of it is no longer a finite
        number; the last checkpoint, which is named, then stands.
      Stopped: `stop` said so; there is a checkpoint of the last update.
    """
    step, state = begin(agent, model, optimiser, loop, rules, seed=seed)
    asked = processes.Agreed(stop or _never)
    checkpoints = Checkpoints(directory / "checkpoints", retention=loop.retention)
    notes = Notes()
    try:
        processes.agree({"newest checkpoint": str(checkpoints.latest)})
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
            notes = checkpoints.notes()
        run = _Run(loop, directory, checkpoints, title, contents or _unknown)
        state = run.train(step, state, notes, stream, asked, profile)
    finally:
        checkpoints.close()
    done = int(state.step)
    if asked.now() or done < loop.steps:
        raise Stopped(title, done, loop.steps)
    if not processes.several():
        nnx.update(model, state.evaluated)
    return state


def begin(
    agent: Agent,
    model: Any,
    optimiser: OptimiserConfig,
    loop: LoopConfig,
    rules: ShardingRules,
    *,
    seed: int,
) -> tuple[Step, TrainState]:
    """The update of a run, to be compiled when it is first called, and its first state.

    Args:
      agent: whose loss is made smaller.
      model: of the agent.
      optimiser: what becomes of a gradient.
      loop: in how many parts, and what is done with what is not finite.
      rules: where arrays lie.
      seed: of the updates.
    """
    transformation = make_optimiser(optimiser, loop.steps)
    step = make_step(
        agent,
        model,
        transformation,
        rules,
        accumulate=loop.accumulate,
        average=optimiser.average,
        skip_nonfinite=loop.on_nonfinite == "skip",
    )
    average = optimiser.average > 0
    return step, initial_state(model, transformation, rules, seed=seed, average=average)


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

    def train(self, step, state, notes, stream, stop, profile) -> TrainState:
        """The state after the last update, or after the one at which it stopped."""
        loop, start = self.loop, int(state.step)
        if start >= loop.steps or stop.now():
            return state
        size = sum(leaf.size for leaf in jax.tree.leaves(state.parameters))
        interval = Interval(start + 1 - len(notes.pending), notes.pending)
        line = notes.line
        running: collections.deque[Any] = collections.deque()
        with contextlib.ExitStack() as stack:
            writer, progress = NoMetrics(), NoProgress()
            if processes.leads():
                writer = stack.enter_context(
                    contextlib.closing(MetricsWriter(self.directory, step=start))
                )
                progress = stack.enter_context(
                    contextlib.closing(Progress(self.title, loop.steps, start=start))
                )
            trace = NoProfile()
            if profile:
                folder = self.directory / "profile"
                if processes.several():
                    folder /= f"process-{jax.process_index()}"
                trace = Profile(folder, start=start, steps=loop.steps)
                stack.enter_context(contextlib.closing(trace))
            compilations = stack.enter_context(Compilations())
            clock = Clock(size)
            batches = stream(start, loop.steps)
            for done in range(start + 1, loop.steps + 1):
                with clock.spent("waiting_for_data"):
                    batch = next(batches)
                with clock.spent("dispatching"), trace.step(done):
                    if done == start + 1:
                        step = processes.compiled(step, state, batch)
                    state, metrics = step(state, batch)
                if done == start + 1:
                    self._check_names(metrics)
                clock.count(batch.weight.size)
                interval.add(metrics)
                running.append(metrics)
                with clock.spent("waiting_for_devices"):
                    if len(running) > _AHEAD:
                        jax.block_until_ready(running.popleft())
                trace.after(done, state)
                stopping = stop()
                last = done == loop.steps
                ends_line = done % loop.log_every == 0 or last
                ends_part = done % loop.checkpoint_every == 0 or last or stopping
                if ends_line or ends_part:
                    with clock.spent("waiting_for_devices"):
                        self._check(interval)
                if ends_line:
                    line = interval.means()
                    timing = clock.line() | {"compilations": compilations.take()}
                    with clock.spent("writing"):
                        for number in interval.skipped():
                            progress.say(f"skipped {self._blame(number)}")
                        writer.write(done, line, timing)
                        speed = f"{timing['tokens_per_second']:,.0f} tokens/s"
                        loss = line.get("loss", float("nan"))
                        progress.update(done, f"loss {loss:.4f}  {speed}")
                    interval = Interval(done + 1)
                if ends_part:
                    with clock.spent("writing"):
                        self._save(done, state, Notes(interval.values(), line))
                if stopping:
                    break
        return state

    def _check_names(self, metrics: dict[str, Any]) -> None:
        """Raises ValueError where what is to be best is not measured."""
        name = self.loop.best_metric
        if name and name not in metrics:
            raise ValueError(
                f"loop: best_metric must be one of {', '.join(sorted(metrics))}, found "
                f"{name!r}"
            )

    def _check(self, interval: Interval) -> None:
        """Raises FloatingPointError where a metric is no finite number."""
        broken = interval.broken()
        if broken is not None:
            update, names = broken
            raise FloatingPointError(
                f"{', '.join(names)}: not a finite number in {self._blame(update)}; a "
                "smaller optimiser.learning_rate may help, and loop.on_nonfinite skip "
                "leaves such batches out"
            )

    def _save(self, done: int, state: TrainState, notes: Notes) -> None:
        """A checkpoint, of a state that is finite: another would fail every resume."""
        if not _all_finite(state):
            raise FloatingPointError(
                f"parameters or optimiser: not finite after update {done}, though its "
                f"loss and gradient are; look at {self._blame(done)}; a smaller "
                "optimiser.learning_rate or optimiser.clip may help"
            )
        self.checkpoints.save(done, state, notes)

    def _blame(self, update: int) -> str:
        """An update, what its batch is, and what there is to go back to."""
        latest = self.checkpoints.latest
        good = "there is no checkpoint yet"
        if latest is not None:
            folder = self.checkpoints.directory / str(latest)
            good = f"the last good checkpoint is {folder}"
        return f"update {update}; its batch {self.contents(update - 1)}; {good}"
