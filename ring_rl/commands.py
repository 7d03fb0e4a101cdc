"""What the subcommands of `ring-rl` do: call one function, print what it returns.

Parameters have the names of the options; `ring_rl.cli` parses them. Imports stand
inside, so that a command loads only what it needs.
"""

import difflib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ring_rl import runtime
from ring_rl.printing import print_json, print_table, require_folder, say


def resolve(preset: str, words: Sequence[str]) -> Any:
    """The preset's configuration with `--field value` words applied.

    `--help` among the words prints the fields and raises `SystemExit`.

    Raises:
      ValueError: there is no such preset, no such field, or no such value.
    """
    from ring_rl.configs import presets
    from ring_rl.configs.overrides import parse_overrides

    return parse_overrides(_named(preset, presets(), "preset"), words, name=preset)


def _named(name: str, known: Mapping[str, Any], kind: str) -> Any:
    """Raises ValueError where there is none of the name, with the nearest that is."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
        raise ValueError(f"no {kind} {name!r}; {hint}")
    return known[name]


def train(
    preset: str,
    words: Sequence[str],
    *,
    seeds: tuple[int, ...] | None,
    runs: Path,
    evaluate: bool,
    profile: bool,
    **joining: Any,
) -> None:
    """Trains the preset into `runs/<name>`, evaluates it and prints the statistics.

    A SIGTERM, as of a scheduler that wants the machine back, ends training after the
    update in progress, with a checkpoint. `joining` are the options of `_begin`.
    """
    _begin(**joining)
    config = resolve(preset, words)

    from ring_rl.configs.running import train
    from ring_rl.processes import leads
    from ring_rl.train.stopping import Stopped

    seeds = seeds or (config.seed,)
    try:
        evaluation = train(
            config,
            directory=runs / config.name,
            seeds=seeds,
            evaluate=evaluate,
            stop_on=(signal.SIGTERM,),
            profile=profile,
        )
    except Stopped as stopped:
        print(f"ring-rl: {stopped}", file=sys.stderr)
        return
    if evaluation is not None and leads():
        print_table([evaluation])


def _begin(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    cluster: Any = None,
) -> None:
    """Prepares the process, as one of several where that is asked for."""
    runtime.prepare()
    if (coordinator, num_processes, process_id, cluster) != (None,) * 4:
        from ring_rl.processes import join

        join(coordinator, num_processes, process_id, cluster=cluster)
    runtime.keep_compilations()


def evaluate(
    run: Path,
    *,
    as_json: bool,
    video: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    cluster: Any,
    **asked: Any,
) -> None:
    """Rolls a trained run out and prints the statistics.

    `asked` are the other fields of `ring_rl.configs.asked.Asked`.
    """
    require_folder(run)
    if video and sys.platform == "linux":
        # Draws without a display; MuJoCo looks when it is imported.
        os.environ.setdefault("MUJOCO_GL", "egl")
    elif video:
        os.environ.setdefault("MUJOCO_GL", "glfw")
    _begin(
        coordinator=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        cluster=cluster,
    )

    from ring_rl.configs.asked import Asked
    from ring_rl.configs.evaluating import evaluate
    from ring_rl.processes import leads

    evaluation = evaluate(run, Asked(**asked, video=video))
    if not leads():
        return
    if as_json:
        print_json(evaluation)
    else:
        print_table([evaluation])


def report(
    runs: Sequence[Path],
    *,
    out: Path,
    attention: tuple[int | None, int] | None,
    as_json: bool,
) -> None:
    """Puts seeds together; prints a table, writes the page and its pictures."""
    from ring_rl.evaluate.contents import gather
    from ring_rl.evaluate.page import html_page
    from ring_rl.evaluate.report import write_bytes, write_picture, write_text

    for run in runs:
        require_folder(run)
    contents = gather(runs)
    if attention is not None:
        runtime.prepare()
        runtime.keep_compilations()

        from ring_rl.configs.looking import look_at_all

        trial, step = attention
        failed = look_at_all(contents, trial=trial, step=step)
        contents = gather(runs)
        contents.problems.extend(failed)
    evaluations = [one.evaluation for one in contents.evaluated]
    page, pictures = html_page(contents)
    out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_bytes(out / picture.file, picture.content)
    if evaluations:
        write_picture(out / "return_by_trial.png", evaluations)
    write_text(out / "report.html", page)
    for problem in contents.problems:
        print(f"not complete: {problem}", file=sys.stderr)
    if as_json:
        print_json(evaluations)
        return
    if evaluations:
        print_table(evaluations)
    count = len(pictures) + bool(evaluations)
    print(f"wrote {out / 'report.html'} and {count} pictures beside it")


def study(
    name: str,
    words: Sequence[str],
    *,
    seeds: tuple[int, ...],
    rows: str,
    columns: str,
    device_memory: float | None,
    show: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Runs the cells of a study that are missing and prints its table."""
    runtime.prepare()
    runtime.keep_compilations()

    from ring_rl.configs.overrides import parse_overrides
    from ring_rl.configs.studies import studies
    from ring_rl.configs.studying import run_study
    from ring_rl.train.stopping import Stopped

    found = _named(name, studies(), "study")

    def change(config: Any) -> Any:
        if not words:
            return config
        return parse_overrides(config, words, name=name, command="study")

    directory = runs / found.name
    try:
        run_study(
            found,
            directory,
            seeds=seeds,
            rows=rows,
            columns=columns,
            change=change,
            device_bytes=None if device_memory is None else round(device_memory * 1e9),
            show=show,
            stop_on=(signal.SIGTERM,),
        )
    except Stopped as stopped:
        print(f"ring-rl: {stopped}", file=sys.stderr)
        return
    file = directory / ("table.json" if as_json else "table.md")
    print(file.read_text(), end="")


def bench(benchmark: str, *, as_json: bool, **options: Any) -> None:
    """Runs a benchmark and prints a line for each measurement."""
    from ring_rl.bench.records import heading, line
    from ring_rl.bench.running import run

    tell = say()
    for number, record in enumerate(run(benchmark, options, tell)):
        if sys.stderr.isatty():
            tell("")
        if as_json:
            print(json.dumps(record, allow_nan=False), flush=True)
        else:
            above = f"{heading(benchmark)}\n" if number == 0 else ""
            print(f"{above}{line(record)}", flush=True)


def plan(*, compile_it: bool, as_json: bool, **options: Any) -> None:
    """Says what a model and a context need on some devices.

    `options` are those of `ring_rl.plan.arguments`; what was not given is left out.
    """
    if compile_it:
        # It is the CPU's compiler that is asked, whatever other devices there are.
        os.environ["JAX_PLATFORMS"] = "cpu"
        runtime.prepare(options["devices"])

    from ring_rl.plan.planning import plan
    from ring_rl.plan.text import lines

    given = {name: value for name, value in options.items() if value is not None}
    found = plan(**given, compile_it=compile_it)
    if as_json:
        print_json(found)
    else:
        print("\n".join(lines(found)))


def list_known(kind: str, *, root: Path, as_json: bool) -> None:
    """Lists presets, environments and datasets by name, with a line about each."""
    kinds = {
        "presets": _presets,
        "studies": _studies,
        "envs": _environments,
        "datasets": lambda: _sets(root),
    }
    found = {name: make() for name, make in kinds.items() if kind in (name, "all")}
    if as_json:
        print_json(found)
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


def _studies() -> dict[str, str]:
    from ring_rl.configs.studies import studies

    return {
        name: f"{study.question} ({len(study.cells)} runs a seed)"
        for name, study in studies().items()
    }


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
