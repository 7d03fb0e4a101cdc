"""What the subcommands of `ring-rl` do: call one function, print what it returns.

Parameters have the names of the options; `ring_rl.cli` parses them. Imports stand
inside, so that a command loads only what it needs.
"""

import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ring_rl import runtime


def resolve(preset: str, words: Sequence[str]) -> Any:
    """The preset's configuration with `--field value` words applied.

    `--help` among the words prints the fields and raises `SystemExit`.

    Raises:
      ValueError: there is no such preset, no such field, or no such value.
    """
    from ring_rl.configs import presets
    from ring_rl.configs.overrides import parse_overrides

    known = presets()
    if preset not in known:
        near = difflib.get_close_matches(preset, known, n=1, cutoff=0.4)
        hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
        raise ValueError(f"no preset {preset!r}; {hint}")
    return parse_overrides(known[preset], words, name=preset)


def train(
    preset: str,
    words: Sequence[str],
    *,
    seeds: tuple[int, ...] | None,
    runs: Path,
    evaluate: bool,
) -> None:
    """Trains the preset into `runs/<name>`, evaluates it and prints the statistics."""
    runtime.prepare()
    config = resolve(preset, words)

    from ring_rl.configs.running import train

    seeds = seeds or (config.seed,)
    evaluation = train(
        config, directory=runs / config.name, seeds=seeds, evaluate=evaluate
    )
    if evaluation is not None:
        _print_table([evaluation])


def evaluate(
    run: Path,
    *,
    environment: str | None,
    trials: int | None,
    episodes: int | None,
    control: str,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Rolls a trained run out and prints the statistics."""
    _require_folder(run)
    runtime.prepare()

    from ring_rl.configs.running import evaluate

    evaluation = evaluate(
        run,
        environment=environment,
        trials=trials,
        episodes=episodes,
        control=control,
        temperature=temperature,
    )
    if as_json:
        _print_json(evaluation)
    else:
        _print_table([evaluation])


def report(runs: Sequence[Path], *, out: Path, as_json: bool) -> None:
    """Puts seeds together; prints a table, writes the picture and the HTML page."""
    from ring_rl.evaluate.report import combine, html_page, write_picture, write_text

    for run in runs:
        _require_folder(run)
    evaluations = combine(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_picture(out / "return_by_trial.png", evaluations)
    write_text(out / "report.html", html_page(evaluations))
    if as_json:
        _print_json(evaluations)
    else:
        _print_table(evaluations)
        print(f"wrote {out / 'return_by_trial.png'} and {out / 'report.html'}")


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
        progress=_progress(),
    )
    if as_json:
        _print_json(summary)
    else:
        print(f"wrote {out}")
        _print_summary(summary)


def export_data(
    directory: Path, *, format: str, out: Path, overwrite: bool, as_json: bool
) -> None:
    """Makes one file in another format of an RLDS dataset."""
    _require_folder(directory)

    from ring_rl.data.exporting import export_dataset

    lost = export_dataset(
        directory, format, out, overwrite=overwrite, progress=_progress()
    )
    if as_json:
        _print_json({"file": str(out), "lost": lost})
    else:
        print(f"wrote {out}")
        for line in lost:
            print(f"not in it: {line}")


def inspect_data(directory: Path, *, png: Path | None, as_json: bool) -> None:
    """Says what is in a dataset."""
    _require_folder(directory)

    from ring_rl.data.histogram import text_histogram, write_histograms
    from ring_rl.data.inspect import inspect
    from ring_rl.data.store import open_store

    store = open_store(directory, progress=_progress())
    summary = inspect(store)
    if png is not None:
        write_histograms(png, store, title=directory.name)
    if as_json:
        _print_json(summary)
    else:
        _print_summary(summary)
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
    processes: int,
    cache: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Writes a dataset anew with the rewards of another task."""
    _require_folder(directory)
    # No picture is drawn, here or in the processes that this one starts.
    os.environ.setdefault("MUJOCO_GL", "disabled")

    from ring_rl.data.goals import GoalRewards
    from ring_rl.data.relabel import relabel
    from ring_rl.envs.exorl import ExorlRewards

    if goal is not None:
        if radius is None:
            raise ValueError("--goal needs --radius, found none")
        relabelling = GoalRewards(goal, radius, columns, extra, margin, name=task)
        processes = 1  # sooner done than sent
    elif task is None:
        raise ValueError("expected --task or --goal, found neither")
    elif columns is not None or extra is not None or radius is not None or margin:
        raise ValueError(
            "--columns, --extra, --radius and --margin are of --goal, found none"
        )
    else:
        relabelling = ExorlRewards(task)
        cache = cache or Path(f"{os.path.abspath(out)}.rewards")
    summary = relabel(
        directory,
        out,
        relabelling,
        processes=processes,
        cache=cache,
        overwrite=overwrite,
        progress=_progress(),
    )
    if as_json:
        _print_json(summary)
    else:
        print(f"wrote {out}")
        _print_summary(summary)


def bench(benchmark: str, *, as_json: bool, **options: Any) -> None:
    """Runs a benchmark and prints a line for each measurement."""
    from ring_rl.bench.records import heading, line
    from ring_rl.bench.running import run

    say = _say()
    for number, record in enumerate(run(benchmark, options, say)):
        if sys.stderr.isatty():
            say("")
        if as_json:
            print(json.dumps(record, allow_nan=False), flush=True)
        else:
            above = f"{heading(benchmark)}\n" if number == 0 else ""
            print(f"{above}{line(record)}", flush=True)


def list_known(kind: str, *, root: Path, as_json: bool) -> None:
    """Lists presets, environments and datasets by name, with a line about each."""
    kinds = {
        "presets": _presets,
        "envs": _environments,
        "datasets": lambda: _sets(root),
    }
    found = {name: make() for name, make in kinds.items() if kind in (name, "all")}
    if as_json:
        _print_json(found)
        return
    for name, entries in found.items():
        print(f"{name}:")
        width = max(map(len, entries), default=0)
        for entry, what in entries.items():
            print(f"  {entry.ljust(width)}  {what}")
        if not entries:
            print("  none" + (f" in {root}" if name == "datasets" else ""))


def _presets() -> dict[str, str]:
    from ring_rl.configs import describe

    return describe()


def _environments() -> dict[str, str]:
    from ring_rl.envs import families

    return {
        family.name: f"{family.what} ({family.horizon} steps at most)"
        for family in families()
    }


def _sets(root: Path) -> dict[str, str]:
    """Folders with the file that both TFDS and ring_rl write beside the records."""
    marker = "dataset_info.json"
    return {str(path.parent): "RLDS" for path in sorted(root.rglob(marker))}


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise FileNotFoundError(f"{path}: expected a folder, found {what}")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _print_table(evaluations: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console

    from ring_rl.evaluate.report import plain_table, table

    console = Console()
    if console.is_terminal:
        console.print(table(evaluations))
    else:
        print(plain_table(evaluations))


def _print_summary(summary: dict[str, Any]) -> None:
    for name, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(one)}" for key, one in value.items())
        if isinstance(value, list):
            value = "".join(f"\n  {one}" for one in value) or " none"
            print(f"{name}:{value}")
        else:
            print(f"{name}: {value}")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _say() -> Callable[[str], None]:
    """Tells the standard error what is being done; on a terminal in one line."""
    # Back to the line's start, and whatever stood there erased.
    start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
    return lambda text: print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def _progress() -> Callable[[int, int], None]:
    """Reports to the standard error: one changing line on a terminal, else a few."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    last = time.monotonic()

    def report(episodes: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= interval:
            last = time.monotonic()
            # Back to the line's start, and whatever stood there erased.
            start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
            text = f"{episodes} episodes, {steps} steps read"
            print(f"{start}{text}", end=end, file=sys.stderr, flush=True)

    return report
