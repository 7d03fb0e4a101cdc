"""What `ring-rl data` does; parameters have the names of the options.

Imports stand inside, so that a command loads only what it needs.
"""

import os
from pathlib import Path

from ring_rl.printing import print_json, print_summary, progress, require_folder


def import_data(
    source: Path,
    *,
    format: str | None,
    out: Path,
    action_bounds: tuple[float, float] | None,
    task: str | None,
    max_episode_steps: int | None,
    keys: dict[str, str] | None,
    discrete: int | None,
    data_dir: Path | None,
    processes: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Makes an RLDS dataset of files in another format."""
    if format is None and not str(source).startswith("tfds:"):
        raise ValueError(
            "--format: expected one that ring-rl data import --help names, found none"
        )
    from ring_rl.data.importing import import_dataset

    summary = import_dataset(
        source,
        format,
        out,
        action_bounds=action_bounds,
        task=task,
        max_episode_steps=max_episode_steps,
        keys=keys,
        discrete=discrete,
        data_dir=data_dir,
        processes=processes,
        overwrite=overwrite,
        progress=progress(),
    )
    if as_json:
        print_json(summary)
    else:
        print(f"wrote {out}")
        print_summary(summary)


def collect_data(
    env_id: str,
    *,
    policy: str,
    steps: int,
    out: Path,
    seed: int,
    processes: int,
    base: Path | None,
    noise: str | None,
    sample: bool,
    learners: int | None,
    tasks: tuple[str, ...] | None,
    max_episode_steps: int | None,
    format: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Collects episodes in an environment to an RLDS dataset."""
    # No picture is drawn, here or in the processes that this one starts.
    os.environ.setdefault("MUJOCO_GL", "disabled")

    from ring_rl.configs.collecting import collect_by_name

    summary = collect_by_name(
        env_id,
        policy,
        steps=steps,
        out=out,
        base=base,
        noise=noise,
        sample=sample,
        learners=learners,
        tasks=tasks,
        max_episode_steps=max_episode_steps,
        seed=seed,
        processes=processes,
        exorl=format == "exorl",
        overwrite=overwrite,
        progress=progress("collected"),
    )
    if as_json:
        print_json(summary)
    else:
        print(f"wrote {out}")
        print_summary(summary)


def export_data(
    directory: Path, *, format: str, out: Path, overwrite: bool, as_json: bool
) -> None:
    """Makes a file or folder in another format of an RLDS dataset."""
    require_folder(directory)

    from ring_rl.data.exporting import export_dataset

    lost = export_dataset(
        directory, format, out, overwrite=overwrite, progress=progress()
    )
    if as_json:
        print_json({"file": str(out), "lost": lost})
    else:
        print(f"wrote {out}")
        for line in lost:
            print(f"not in it: {line}")


def inspect_data(directory: Path, *, png: Path | None, as_json: bool) -> None:
    """Says what is in a dataset."""
    require_folder(directory)

    from ring_rl.data.histogram import text_histogram, write_histograms
    from ring_rl.data.inspect import inspect
    from ring_rl.data.store import open_store

    store = open_store(directory, verify=True, progress=progress())
    summary = inspect(store)
    if png is not None:
        write_histograms(png, store, title=directory.name)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
        print("returns, undiscounted: episodes in each bin")
        print(text_histogram(store.returns))


def relabel_data(
    directory: Path,
    *,
    out: Path,
    task: str | None,
    goal: tuple[float, ...] | str | None,
    columns: tuple[int, ...] | None,
    extra: str | None,
    radius: float | None,
    margin: float,
    processes: int | None,
    cache: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Writes a dataset anew with the rewards of another task."""
    require_folder(directory)
    # No picture is drawn, here or in the processes that this one starts.
    os.environ.setdefault("MUJOCO_GL", "disabled")

    from ring_rl.data.goals import GoalRewards
    from ring_rl.data.relabel import relabel
    from ring_rl.envs.exorl import ExorlRewards

    if goal is not None:
        if radius is None:
            raise ValueError("--goal needs --radius, found none")
        relabelling = GoalRewards(goal, radius, columns, extra, margin, name=task)
        processes = processes or 1  # sooner done than sent
    elif task is None:
        raise ValueError("expected --task or --goal, found neither")
    elif columns is not None or extra is not None or radius is not None or margin:
        raise ValueError(
            "--columns, --extra, --radius and --margin are of --goal, found none"
        )
    else:
        relabelling = ExorlRewards(task)
        processes = processes or os.cpu_count() or 1
        cache = cache or Path(f"{os.path.abspath(out)}.rewards")
    summary = relabel(
        directory,
        out,
        relabelling,
        processes=processes,
        cache=cache,
        overwrite=overwrite,
        progress=progress(),
    )
    if as_json:
        print_json(summary)
    else:
        print(f"wrote {out}")
        print_summary(summary)
