"""Evaluates trained runs: in which environment, told what, under which controls.

The rollouts of each seed are written as soon as they are done, into `unfinished/` of
the evaluation's folder: an evaluation that was interrupted goes on from them, and
removes them when it is complete.
"""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ring_rl import processes
from ring_rl.configs.asked import Asked
from ring_rl.configs.controls import Control
from ring_rl.configs.datasets import Derived, read_derived
from ring_rl.configs.demonstrations import Demonstrations, open_demonstrations
from ring_rl.configs.loading import (
    DERIVED,
    check_spaces,
    load_model,
    trained_digest,
)
from ring_rl.configs.run import RunConfig
from ring_rl.configs.saved import digest, load_config
from ring_rl.configs.together import agree_on
from ring_rl.envs import PeerRows, ProcessRows, choose_processes
from ring_rl.evaluate.film import Film
from ring_rl.evaluate.kept import UNFINISHED, keep_rollouts, kept_rollouts
from ring_rl.evaluate.protocol import Conditions, summarise, timing
from ring_rl.evaluate.report import write_evaluation
from ring_rl.evaluate.rollout import rollout
from ring_rl.train.progress import NoProgress, Progress
from ring_rl.types import Rollouts
from ring_rl.version import __version__

AS_THE_RUN_HAS_IT = Asked()
VIDEO = "video"
# Rows that are filmed: the first of so many tasks, or so many rows of a single one.
_FILMED = 3


def evaluate(run: Path, asked: Asked = AS_THE_RUN_HAS_IT) -> dict[str, Any]:
    """Rolls out a run, or all seeds of one, and writes what came of it.

    Results go to `evaluation/` of the run, or where something is not as the run has
    it, to a folder of `evaluations/` that says what.

    Raises:
      ValueError: `run` holds no trained run, or something asked for cannot be done.
    """
    demonstrations = _open(asked)
    seeds = sorted(run.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    runs = [run] if (run / "config.json").exists() or not seeds else seeds
    return evaluate_runs(
        runs,
        run / asked.folder(load_config(runs[0]), demonstrations),
        asked,
        demonstrations=demonstrations,
    )


def _open(asked: Asked) -> Demonstrations | None:
    if asked.demonstrations is None:
        return None
    return open_demonstrations(asked.demonstrations, asked.demonstrations_per_row)


def evaluate_runs(
    runs: Sequence[Path],
    directory: Path,
    asked: Asked = AS_THE_RUN_HAS_IT,
    *,
    demonstrations: Demonstrations | None = None,
) -> dict[str, Any]:
    """Rolls out runs that differ in their seed only, and sums them up.

    Args:
      runs: their folders.
      directory: where results go.
      asked: what is not as the runs have it.
      demonstrations: those asked for, if they are open already.

    Raises:
      ValueError: as `evaluate`, or the environment fails. What was rolled out is kept.
    """
    if processes.several() and asked.video:
        raise ValueError("evaluate: expected one process for --video, found several")
    if demonstrations is None:
        demonstrations = _open(asked)
    parts = [_Part.of(run, asked, demonstrations) for run in runs]
    for part in parts:
        if part.conditions != parts[0].conditions:
            raise ValueError(
                f"{part.run}: expected the same configuration as {runs[0]} but for the "
                "seed"
            )
    identities = [part.identity() for part in parts]
    agree_on("evaluation", identities)
    rollouts: list[Rollouts] = []
    with _note_of(rollouts, directory, len(parts)):
        for part, identity in zip(parts, identities, strict=True):
            film = directory / VIDEO if asked.video and not rollouts else None
            file = directory / UNFINISHED / f"seed-{part.config.seed}.json"
            # What is to be filmed is rolled out again.
            found = None if film else kept_rollouts(file, identity)
            # Of several processes all roll out, or none.
            there = processes.exchange(np.array(found is not None))
            if found is None or not there.all():
                found = part.roll_out(asked, film)
                if processes.leads():
                    keep_rollouts(file, identity, found)
            elif processes.leads():
                print(
                    f"evaluate seed {part.config.seed}: was rolled out before, kept",
                    file=sys.stderr,
                )
            rollouts.append(found)
        seeds = [part.config.seed for part in parts]
        evaluation = summarise(rollouts, parts[0].conditions, seeds=seeds)
        if processes.leads():
            write_evaluation(directory, evaluation, timing(rollouts, seeds), rollouts)
    if processes.leads():
        shutil.rmtree(directory / UNFINISHED)
    return evaluation


@contextlib.contextmanager
def _note_of(rollouts: list[Rollouts], directory: Path, count: int) -> Iterator[None]:
    """Says what is kept where an evaluation ends before its end."""
    try:
        yield
    except BaseException:
        if rollouts:
            print(
                f"evaluate: {len(rollouts)} of {count} seeds are rolled out and kept "
                f"in {directory / UNFINISHED}; the same command goes on from there",
                file=sys.stderr,
            )
        raise


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """One seed of an evaluation.

    Attributes:
      run: its folder.
      config: of the run, with what was asked for in it.
      derived: from its data, with the target that was asked for.
      control: what is done to the context.
      demonstrations: what rows read first.
      conditions: what is the same for all seeds.
    """

    run: Path
    config: RunConfig
    derived: Derived
    control: Control
    demonstrations: Demonstrations | None
    conditions: Conditions

    @classmethod
    def of(
        cls, run: Path, asked: Asked, demonstrations: Demonstrations | None
    ) -> "_Part":
        """Checks all that can be checked before anything is rolled out."""
        own = load_config(run)
        config = asked.config(own)
        if not config.environment.id:
            raise ValueError(f"{run}: has no environment to evaluate in; give --env")
        derived = asked.derived(read_derived(run / DERIVED), own)
        check_spaces(derived.spaces, config)
        control = Control.parse(asked.control)
        read, what = 0, "none"
        if demonstrations is not None:
            demonstrations.check(derived.spaces)
            read = demonstrations.count(config.agent.chains)
            name = demonstrations.path.resolve().name
            what = f"{read} a row of {name} ({demonstrations.digest})"
        control.check(
            config.agent,
            tasks=len(config.environment.evaluation_tasks),
            trials=config.evaluation.trials,
            demonstrations=read,
        )
        conditions = Conditions(
            configuration=digest(config),
            name=config.name,
            agent=type(config.agent).__name__,
            environment=config.environment.id,
            target_return=derived.target_return,
            target_rule=derived.target_rule,
            temperature=config.evaluation.temperature,
            control=str(control),
            demonstrations=what,
            recall=control.agent(config.agent).recall,
        )
        return cls(run, config, derived, control, demonstrations, conditions)

    def identity(self) -> dict[str, Any]:
        """All that the rollouts depend on; plain values."""
        return {
            "ring_rl": __version__,
            "seed": self.config.seed,
            "trained": trained_digest(self.run, self.config),
            "evaluation": dataclasses.asdict(self.config.evaluation),
            "conditions": dataclasses.asdict(self.conditions),
        }

    def roll_out(self, asked: Asked, film: Path | None) -> Rollouts:
        """Rolls the seed out; pictures go to the folder `film`."""
        _, _, model = load_model(self.run)
        config, evaluation = self.config, self.config.evaluation
        names = config.environment.evaluation_tasks
        rows = len(names) * evaluation.rollouts
        chains = None
        if self.demonstrations is not None:
            sources = self.control.sources(names)
            chains = self.demonstrations.draw(
                [name for name in sources for _ in range(evaluation.rollouts)],
                config.agent.chains,
                seed=evaluation.seed,
                unsorted=self.control.kind == "unsorted",
            )
        environment = _make_rows(config, rows, asked.processes)
        progress = NoProgress()
        if processes.leads():
            title = f"evaluate seed {config.seed}"
            progress = Progress(title, rows * evaluation.trials)
        try:
            camera = None
            if film is not None:
                step = evaluation.rollouts if len(names) > 1 else 1
                filmed = range(0, rows, step)[:_FILMED]
                camera = Film(environment, filmed, trials=evaluation.trials)
            found = rollout(
                self.control.agent(config.agent),
                model,
                environment,
                trials=evaluation.trials,
                target_return=self.derived.target_return,
                temperature=evaluation.temperature,
                seed=evaluation.seed,
                # An environment without named tasks keeps the one that it draws itself.
                tasks=None
                if names == ("",)
                else self.control.schedule(
                    names, evaluation.rollouts, evaluation.trials
                ),
                demonstrations=chains,
                watch=camera,
                progress=progress.update,
            )
            if camera is not None and film is not None:
                camera.write(film, found.returns)
            return found
        finally:
            progress.close()
            environment.close()


def _make_rows(config: RunConfig, rows: int, workers: int | Literal["auto"]) -> Any:
    """So many rows of the environment, shared out over the processes of the run.

    Args:
      config: of the run.
      rows: of all processes.
      workers: processes that step the rows of each.
    """
    seed = config.evaluation.seed
    # What workers are given: it names the environment, and nothing of a run.
    one: Any = config.environment.make(1, seed=seed)
    again = one.again
    one.close()

    def make(count: int, first: int) -> Any:
        several = choose_processes(again, count) if workers == "auto" else workers
        if several > 1:
            return ProcessRows(again, count, processes=several, first=first)
        environment = again(count)
        environment.number_from(first)
        return environment

    if not processes.several():
        return make(rows, 0)
    return PeerRows(
        make, rows, process=jax.process_index(), processes=jax.process_count()
    )
