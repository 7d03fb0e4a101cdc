"""Exploration data with the rewards of a task: collected once, relabelled for each."""

import os
from pathlib import Path

from ring_rl.collect import UniformBehaviour, collect_dataset
from ring_rl.configs.recording import Place, collect, explorer
from ring_rl.configs.run import DarkRoom, Gymnasium, PointMass
from ring_rl.configs.sources import Explored
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.relabel import relabel
from ring_rl.data.store import open_store
from ring_rl.envs.exorl import EXORL_TASKS, ExorlRewards, exorl_tasks
from ring_rl.train.progress import Progress

_EXORL = "exorl/"
# Families of hidden tasks that are ExoRL's tasks of a domain, by its name.
_FAMILIES = {"ring_rl/Walker-v0": "walker", "ring_rl/Cheetah-v0": "cheetah"}


def open_explored(
    environment: DarkRoom | PointMass | Gymnasium, data: Explored
) -> list[EpisodeStore]:
    """The exploration of the environment's domain with the rewards of its tasks.

    One store a task. What is not there yet is collected and relabelled first; ended
    early, the same call goes on.

    Raises:
      ValueError: the environment is none of ExoRL's, nor a family of its tasks.
    """
    stores = []
    for task in _tasks(environment.id):
        assert isinstance(environment, Gymnasium)
        place, folder = exploration(task, environment.max_steps, data)
        if not folder.exists():
            _collect(place, data, folder)
        if place.id != _EXORL + task:
            source, folder = folder, folder.with_name(f"{folder.name}-{task}")
            if not folder.exists():
                _relabel(source, folder, task)
        stores.append(open_store(folder))
    return stores


def _tasks(env_id: str) -> list[str]:
    """ExoRL's tasks that an environment has."""
    if env_id in _FAMILIES:
        domain = _FAMILIES[env_id]
        return [f"{domain}_{task}" for task in EXORL_TASKS[domain]]
    task = env_id.removeprefix(_EXORL)
    if env_id == task or task not in exorl_tasks():
        raise ValueError(
            "data: expected an environment that can be explored, exorl/DOMAIN_TASK or "
            f"one of {', '.join(_FAMILIES)}, found {env_id!r}"
        )
    return [task]


def exploration(task: str, max_steps: int, data: Explored) -> tuple[Place, Path]:
    """Where is explored for one of ExoRL's tasks, and the folder of what comes of it.

    Tasks of a domain whose episodes start alike share their exploration: all of them,
    but for cartpole's, which start with the pole up or down.

    Args:
      task: `DOMAIN_TASK`.
      max_steps: environment steps of an episode; 0 for the environment's own.
      data: how it is explored.
    """
    domain = next(name for name in EXORL_TASKS if task.startswith(f"{name}_"))
    if domain == "cartpole":
        start = task.removesuffix("_sparse")
    else:
        start = f"{domain}_{EXORL_TASKS[domain][0]}"
    options = (("max_episode_steps", max_steps),) if max_steps else ()
    length = f"-steps{max_steps}" if max_steps else ""
    name = f"exorl-{start}{length}-{data.explorer}-{data.steps}-seed{data.seed}"
    return Place(_EXORL + start, options), Path(data.parent) / name


def _collect(place: Place, data: Explored, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(f"explore {place.id}", data.steps)

    def report(episodes: int, steps: int) -> None:
        progress.update(min(steps, data.steps), f"{episodes} episodes")

    try:
        if data.explorer == "rnd":
            collector = explorer(place, ("",), data.seed)
            collect_dataset(collector, folder, steps=data.steps, progress=report)
        else:
            collect(
                place,
                lambda spaces: UniformBehaviour(spaces.action),
                out=folder,
                steps=data.steps,
                seed=data.seed,
                processes=os.cpu_count() or 1,
                progress=report,
            )
    finally:
        progress.close()


def _relabel(source: Path, folder: Path, task: str) -> None:
    cache = folder.with_name(f"{folder.name}.rewards")
    progress = Progress(f"relabel {folder.name}", len(open_store(source)))
    try:
        relabel(
            source,
            folder,
            ExorlRewards(task),
            processes=os.cpu_count() or 1,
            cache=cache,
            progress=lambda episodes, steps: progress.update(
                episodes, f"{steps} steps"
            ),
        )
    finally:
        progress.close()
