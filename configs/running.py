"""Runs a configuration: wires data, agent, environment, training and evaluation."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ring_rl.configs.datasets import (
    Derived,
    derive,
    open_datasets,
    read_derived,
    write_derived,
)
from ring_rl.configs.run import Gymnasium, RunConfig
from ring_rl.configs.saved import check_folder, claim_folder, digest, load_config
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader
from ring_rl.evaluate.protocol import Conditions, summarise, timing
from ring_rl.evaluate.report import write_evaluation
from ring_rl.evaluate.rollout import rollout
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.train.checkpoint import Checkpoints
from ring_rl.train.loop import train as run_loop
from ring_rl.train.progress import Progress
from ring_rl.types import Rollouts, Spaces

_DERIVED = "data.json"


def train(
    config: RunConfig, *, directory: Path, seeds: tuple[int, ...], evaluate: bool
) -> dict[str, Any] | None:
    """Trains one run a seed, resuming those that were begun, and evaluates them.

    A single seed's run is `directory`; several are `directory/seed-0` and so on, and
    `directory/evaluation` then puts them together.

    Returns:
      The evaluation, or None where there is none to make.

    Raises:
      ValueError: something does not fit; nothing is half-written then.
    """
    several = len(seeds) > 1
    runs = {s: directory / f"seed-{s}" if several else directory for s in seeds}
    configs = {seed: dataclasses.replace(config, seed=seed) for seed in seeds}
    if several and (directory / "config.json").exists():
        raise ValueError(
            f"{directory}: holds a run of a single seed, where a folder for "
            f"{len(seeds)} seeds is asked for; give another --name or remove it"
        )
    # All of them before the first is trained.
    for seed, run in runs.items():
        check_folder(run, configs[seed])
    rules = ShardingRules(make_mesh(config.mesh))
    stores = open_datasets(config)
    if config.environment.id:
        check_spaces(stores[0].spaces, config)
    for seed, run in runs.items():
        train_run(configs[seed], run, stores, rules)
    if not evaluate or not config.environment.id:
        return None
    return evaluate_runs(list(runs.values()), directory / "evaluation")


def train_run(
    config: RunConfig, run: Path, stores: Sequence[EpisodeStore], rules: ShardingRules
) -> None:
    """Trains one run on the episodes to its end, from wherever it stands."""
    loader = ChainLoader(
        stores,
        config.loader,
        config.agent.chains,
        config.agent.tokens,
        seed=config.seed,
        weights=config.data.weights,
    )
    layout = loader.choose_layout(rules.ring)
    derived = derive(config, stores)
    claim_folder(run, config)
    write_derived(run / _DERIVED, derived)
    model = config.agent.build(derived.spaces, derived.scaling, rules, seed=config.seed)
    run_loop(
        config.agent,
        model,
        functools.partial(loader.stream, layout=layout, rules=rules),
        optimiser=config.optimiser,
        loop=config.loop,
        directory=run,
        rules=rules,
        seed=config.seed,
        title=f"train {run.name}",
    )


def check_spaces(spaces: Spaces, config: RunConfig) -> None:
    """Raises ValueError where the data's spaces are not the environment's."""
    environment = config.environment.make(1, seed=0)
    environment.close()
    if environment.spaces != spaces:
        raise ValueError(
            f"the dataset does not fit {config.environment.id}: expected "
            f"{environment.spaces}, found {spaces}"
        )


def load_model(run: Path) -> tuple[RunConfig, Derived, Any]:
    """A trained run's configuration, what it derived from its data, and its model.

    Raises:
      ValueError: there is no run in the folder, or one that is not trained to its end.
    """
    import jax
    from flax import nnx

    from ring_rl.train.optimiser import make_optimiser
    from ring_rl.train.step import initial_state

    config = load_config(run)
    derived = read_derived(run / _DERIVED)
    # The run's own mesh where there are devices for it, else all that there are.
    mesh = config.mesh
    if mesh.data * max(1, mesh.sequence) > jax.device_count():
        mesh = MeshConfig()
    rules = ShardingRules(make_mesh(mesh))
    model = config.agent.build(derived.spaces, derived.scaling, rules, seed=config.seed)
    optimiser = make_optimiser(config.optimiser, config.loop.steps)
    like = initial_state(model, optimiser, rules, seed=config.seed)
    checkpoints = Checkpoints(run / "checkpoints", create=False)
    try:
        if checkpoints.latest != config.loop.steps:
            raise ValueError(
                f"{run}: is not trained to its end, {checkpoints.latest or 0} of "
                f"{config.loop.steps} updates; the command that began it goes on"
            )
        nnx.update(model, checkpoints.restore(like).parameters)
    finally:
        checkpoints.close()
    return config, derived, model


def evaluate(
    run: Path,
    *,
    environment: str | None,
    trials: int | None,
    episodes: int | None,
    control: str,
    temperature: float | None,
) -> dict[str, Any]:
    """Rolls out a run, or all seeds of one, and writes what came of it.

    Results go to `evaluation/` of the run, or where something is not as the run has
    it, to a folder of `evaluations/` that says what.

    Raises:
      ValueError: `run` holds no trained run, or something asked for cannot be done.
    """
    changed = {
        "env": environment,
        "trials": trials,
        "episodes": episodes,
        "control": None if control == "none" else control,
        "temperature": temperature,
    }
    words = [f"{k}-{v}".replace("/", "-") for k, v in changed.items() if v is not None]
    folder = Path("evaluations", "_".join(words)) if words else Path("evaluation")
    seeds = sorted(run.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    alone = (run / "config.json").exists() or not seeds
    return evaluate_runs(
        [run] if alone else seeds,
        run / folder,
        environment=environment,
        trials=trials,
        episodes=episodes,
        control=control,
        temperature=temperature,
    )


def evaluate_runs(
    runs: Sequence[Path],
    directory: Path,
    *,
    environment: str | None = None,
    trials: int | None = None,
    episodes: int | None = None,
    control: str = "none",
    temperature: float | None = None,
) -> dict[str, Any]:
    """Rolls out runs that differ in their seed only, and sums them up."""
    rollouts, seeds, conditions = [], [], None
    for run in runs:
        config, derived, model = load_model(run)
        given = {"trials": trials, "rollouts": episodes, "temperature": temperature}
        changes = {k: v for k, v in given.items() if v is not None}
        config = dataclasses.replace(
            config, evaluation=dataclasses.replace(config.evaluation, **changes)
        )
        # The run's own environment by name is the run's own: with its options.
        if environment not in (None, config.environment.id):
            config = dataclasses.replace(config, environment=Gymnasium(environment))
        if not config.environment.id:
            raise ValueError(f"{run}: has no environment to evaluate in; give --env")
        check_spaces(derived.spaces, config)
        if conditions and conditions.configuration != digest(config):
            raise ValueError(
                f"{run}: expected the same configuration as {runs[0]} but for the seed"
            )
        conditions = Conditions(
            configuration=digest(config),
            name=config.name,
            agent=type(config.agent).__name__,
            environment=config.environment.id,
            target_return=derived.target_return,
            target_rule=derived.target_rule,
            temperature=config.evaluation.temperature,
            control=control,
        )
        rollouts.append(_roll_out(config, derived, model, control))
        seeds.append(config.seed)
    assert conditions is not None
    evaluation = summarise(rollouts, conditions, seeds=seeds)
    write_evaluation(directory, evaluation, timing(rollouts, seeds), rollouts)
    return evaluation


def _roll_out(config: RunConfig, derived: Derived, model, control: str) -> Rollouts:
    evaluation, names = config.evaluation, config.environment.evaluation_tasks
    rows = len(names) * evaluation.rollouts
    tasks = _schedule(names, evaluation.rollouts, evaluation.trials, control)
    environment = config.environment.make(rows, seed=evaluation.seed)
    progress = Progress(f"evaluate seed {config.seed}", rows * evaluation.trials)
    try:
        return rollout(
            config.agent,
            model,
            environment,
            trials=evaluation.trials,
            target_return=derived.target_return,
            temperature=evaluation.temperature,
            seed=evaluation.seed,
            # An environment without named tasks keeps the one that it draws itself.
            tasks=None if names == ("",) else tasks,
            progress=progress.update,
        )
    finally:
        progress.close()
        environment.close()


def _schedule(
    names: Sequence[str], rollouts: int, trials: int, control: str
) -> list[list[str]]:
    """Which task each row plays in each trial.

    With the control `other-task` a row plays all trials but the last in another task,
    always the same, and only the last in its own: its context then tells, truly and at
    length, of the wrong task.
    """
    if control == "none":
        return [[name] * trials for name in names for _ in range(rollouts)]
    if control != "other-task":
        raise ValueError(f"control: expected none or other-task, found {control!r}")
    if len(names) < 2 or trials < 2:
        raise ValueError(
            "control other-task: expected at least 2 tasks and 2 trials, found "
            f"{len(names)} and {trials}"
        )
    return [
        [names[(index + 1) % len(names)]] * (trials - 1) + [name]
        for index, name in enumerate(names)
        for _ in range(rollouts)
    ]
