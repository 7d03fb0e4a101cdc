"""Runs a configuration: wires data, agent, environment and training."""

import dataclasses
import functools
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ring_rl import processes
from ring_rl.configs.datasets import (
    Derived,
    derive,
    make_loader,
    open_datasets,
    write_derived,
)
from ring_rl.configs.evaluating import evaluate_runs
from ring_rl.configs.loading import DERIVED, check_spaces
from ring_rl.configs.run import RunConfig
from ring_rl.configs.saved import check_folder, claim_folder
from ring_rl.configs.sources import Collected, Dataset, Explored
from ring_rl.configs.together import agree_on
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader
from ring_rl.mesh import ShardingRules, make_mesh
from ring_rl.train.loop import train as run_loop
from ring_rl.train.stopping import listening


def train(
    config: RunConfig,
    *,
    directory: Path,
    seeds: tuple[int, ...],
    evaluate: bool,
    stop_on: Sequence[signal.Signals] = (),
    profile: bool = False,
) -> dict[str, Any] | None:
    """Trains one run a seed, resuming those that were begun, and evaluates them.

    A single seed's run is `directory`; several are `directory/seed-0` and so on, and
    `directory/evaluation` then puts them together.

    Args:
      config: of the runs, but for their seed.
      directory: of the run or the runs.
      seeds: one run each.
      evaluate: whether they are evaluated when all are trained.
      stop_on: signals that, while updates are made, end the run after the one in
        progress. Outside of that, and in other threads than the main one, they mean
        what they meant before.
      profile: whether a trace of a few updates is written to `profile/` of each run.

    Returns:
      The evaluation, or None where there is none to make.

    Raises:
      ValueError: something does not fit; nothing is half-written then.
      Stopped: one of the signals came; the run has a checkpoint of its last update.
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
    agree_on("configuration", (config, seeds, evaluate, profile))
    rules = ShardingRules(make_mesh(config.mesh))
    stores = processes.one_after_another(lambda: open_datasets(config))
    if config.environment.id:
        check_spaces(stores[0].spaces, config)
    for seed, run in runs.items():
        train_run(configs[seed], run, stores, rules, stop_on=stop_on, profile=profile)
    if not evaluate or not config.environment.id:
        return None
    return evaluate_runs(list(runs.values()), directory / "evaluation")


def train_run(
    config: RunConfig,
    run: Path,
    stores: Sequence[EpisodeStore],
    rules: ShardingRules,
    *,
    stop_on: Sequence[signal.Signals] = (),
    profile: bool = False,
) -> None:
    """Trains one run on the episodes to its end, from wherever it stands.

    Raises:
      Stopped: one of the signals `stop_on` came.
    """
    loader = make_loader(config, stores)
    layout = loader.choose_layout(rules.ring)
    derived = derive(config, stores)
    agree_on("dataset", (derived, layout))
    _claim(run, config, derived)
    model = config.agent.build(derived.spaces, derived.scaling, rules, seed=config.seed)
    with listening(stop_on) as stop:
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
            contents=functools.partial(_contents, loader, config.data),
            stop=stop,
            profile=profile,
        )


# Seconds after which a network file system shows what another machine has made.
_SEEN_AFTER = 90.0


def _claim(run: Path, config: RunConfig, derived: Derived) -> None:
    """Makes the folder the run's, by one process for all; raises as what it calls."""
    if processes.leads():
        claim_folder(run, config)
        write_derived(run / DERIVED, derived)
    processes.meet()
    deadline = time.monotonic() + _SEEN_AFTER
    while not (run / DERIVED).is_file():
        if time.monotonic() < deadline:
            time.sleep(1)
            continue
        raise ValueError(
            f"{run}: expected the folder that process 0 has made, found none; several "
            "processes need a file system that all of them see"
        )


# Episodes of a batch that a message names.
_NAMED = 100


def _contents(
    loader: ChainLoader, data: Dataset | Collected | Explored, step: int
) -> str:
    """What the batch of a step holds, in words."""
    found = loader.episode_ids(step)
    several = len(found) > 1
    if isinstance(data, Dataset):
        paths = data.path
    else:
        paths = [f"task {store.tasks[0]}" for store in loader.stores]
    parts = []
    for path, ids in zip(paths, found, strict=True):
        if len(ids):
            more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            named = ", ".join(map(str, ids[:_NAMED]))
            parts.append(f"{f'of {path} ' if several else ''}{named}{more}")
    return f"is made of the episodes {'; '.join(parts)}"
