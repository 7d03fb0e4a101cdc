"""Collecting data: which environment, by which policy, into which dataset."""

from collections.abc import Sequence
from pathlib import Path

from ring_rl.collect import (
    Behaviour,
    NoiseLadder,
    UniformBehaviour,
    collect_dataset,
    read_actor,
)
from ring_rl.configs.recording import Place, Progress, collect, explorer
from ring_rl.configs.run import DarkRoom, Gymnasium
from ring_rl.configs.run_collector import run_collector
from ring_rl.types import Spaces

POLICIES = ("random", "noise-ladder", "rnd")


def collect_by_name(
    env_id: str,
    policy: str,
    *,
    steps: int,
    out: Path,
    base: Path | None = None,
    noise: str | None = None,
    sample: bool = False,
    learners: int | None = None,
    tasks: Sequence[str] | None = None,
    max_episode_steps: int | None = None,
    seed: int = 0,
    processes: int = 1,
    exorl: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Collects a dataset in an environment by name, as `ring-rl data collect` does.

    Args:
      env_id: name of the environment.
      policy: one of `POLICIES`, an actor's .npz file, or the folder of a run.
      steps: environment steps to collect at least.
      out: folder of the dataset.
      base: actor's .npz file beneath the noise; `noise-ladder` only, which needs it.
      noise: kind of noise, `sticky` unless given; `noise-ladder` only.
      sample: draw an actor's actions rather than take the likeliest.
      learners: independent explorers, 1 unless given; `rnd` only.
      tasks: that the episodes go round; unless given those that a run was trained for,
        a hidden-task family's training tasks, or the environment's own choice.
      max_episode_steps: cut episodes to this length; the environment's own unless
        given.
      seed: of everything.
      processes: that collect.
      exorl: also write ExoRL's files, to a folder `buffer` in `out`.
      overwrite: replace the dataset that stands at `out`.
      progress: called with the episodes and environment steps done so far.

    Returns:
      `inspect`'s summary of the dataset.

    Raises:
      ValueError, OSError, KeyboardInterrupt: as `collect_dataset`; ValueError also for
        an unknown name, a file that does not fit, or an option of another policy.
    """
    kind = _kind(policy)
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, found {seed}")
    for name, value, owners in (
        ("--base", base, ("noise-ladder",)),
        ("--noise", noise, ("noise-ladder",)),
        ("--sample", sample or None, ("noise-ladder", "actor")),
        ("--learners", learners, ("rnd",)),
    ):
        if value is not None and kind not in owners:
            raise ValueError(
                f"{name}: expected none for --policy {policy}, found {value}"
            )
    options = () if max_episode_steps is None else (
        ("max_episode_steps", max_episode_steps),
    )  # fmt: skip
    place = Place(env_id, options)
    common = {
        "steps": steps,
        "out": out,
        "processes": processes,
        "exorl": exorl,
        "overwrite": overwrite,
        "progress": progress,
    }
    if kind == "run":
        collector = run_collector(place, Path(policy), tasks, seed)
        return collect_dataset(collector, **common)
    tasks = training_tasks(env_id) if tasks is None else tuple(tasks)
    if kind == "rnd":
        return collect_dataset(
            explorer(place, tasks, seed, learners=learners or 1), **common
        )

    def behaviour(spaces: Spaces) -> Behaviour:
        if kind == "random":
            return UniformBehaviour(spaces.action)
        if kind == "actor":
            return read_actor(Path(policy), spaces, sample=sample)
        if base is None:
            raise ValueError("--base: expected the actor beneath the noise, found none")
        actor = read_actor(base, spaces, sample=sample)
        return NoiseLadder(actor, spaces.action, noise or "sticky")

    return collect(place, behaviour, tasks=tasks, seed=seed, **common)


def training_tasks(env_id: str) -> tuple[str, ...]:
    """The tasks that data of an environment is collected for; ("",) where it has none.

    With the default options and split.
    """
    kind = DarkRoom() if env_id == DarkRoom.id else Gymnasium(env_id)
    return kind.training_tasks


def _kind(policy: str) -> str:
    """One of `POLICIES`, `actor` or `run`."""
    if policy in POLICIES:
        return policy
    path = Path(policy)
    if path.is_dir():
        return "run"
    if path.is_file() or path.suffix == ".npz":
        return "actor"
    raise ValueError(
        f"--policy: expected {', '.join(POLICIES)}, an actor's .npz file or the folder "
        f"of a run, found {policy!r}"
    )
