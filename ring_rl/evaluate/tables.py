"""Evaluations as tables, for terminals and for plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

# Path in the evaluation, and heading. max_of_n never stands without the others.
COLUMNS = (
    (("first",), "first"),
    (("mean",), "mean"),
    (("last",), "last"),
    (("max_of_n",), "max of n"),
    (("gain",), "last - first"),
    (("iqm", "last"), "IQM of last"),
)


def labels(evaluations: Sequence[dict[str, Any]]) -> list[str]:
    """Short names: the run's name, and whatever else tells two of them apart."""
    facts = [{**e["conditions"], **e["counts"]} for e in evaluations]
    found = [
        f["name"]
        if f["control"] == "none"
        else f"{f['name']} (control: {f['control']})"
        for f in facts
    ]
    for field, text in (
        ("agent", "{}"),
        ("temperature", "temperature {:g}"),
        ("target_return", "target {:g}"),
        ("trials", "{} trials"),
        ("rollouts", "{} rollouts"),
        ("demonstrations", "demonstrations: {}"),
        ("configuration", "configuration {}"),
    ):
        # A run on several environments needs no further name: that is a column.
        places = [(f["environment"], n) for f, n in zip(facts, found, strict=True)]
        differs = {
            place: len(
                {f[field] for f, p in zip(facts, places, strict=True) if p == place}
            )
            > 1
            for place in places
        }
        found = [
            f"{n}, {text.format(f[field])}" if differs[p] else n
            for n, f, p in zip(found, facts, places, strict=True)
        ]
    return found


def number(value: float) -> str:
    """Prints a return or a score with as many digits as one looks at."""
    digits = 2 if abs(value) < 100 else 1 if abs(value) < 10_000 else 0
    return f"{value:.{digits}f}"


def pick(statistics: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Follows a path of `COLUMNS` to its `value`, `low` and `high`."""
    for step in path:
        statistics = statistics[step]
    return statistics


def interval(entry: dict[str, Any]) -> str:
    """Prints the 95 % interval of one statistic."""
    return f"[{number(entry['low'])}, {number(entry['high'])}]"


def table(evaluations: Sequence[dict[str, Any]]) -> Table:
    """A table for a terminal: a column for each run, a row for each statistic."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(
        title="Returns, undiscounted",
        caption="[ ]: 95 % bootstrap interval. max of n rewards variance: read it "
        "beside the others only.",
        box=box.SIMPLE_HEAD,
    )
    made.add_column("")
    for evaluation, label in zip(evaluations, labels(evaluations), strict=True):
        made.add_column(escape(f"{label}\n{_sample(evaluation)}"), justify="right")
    for unit, key in (("return", None), ("D4RL score", "normalised")):
        found = [e if key is None else e[key] for e in evaluations]
        if all(statistics is None for statistics in found):
            continue
        if key is not None:
            made.add_section()
        for path, heading in COLUMNS:
            cells = ["-" if one is None else _cell(one, path, "\n") for one in found]
            first = heading if key is None else f"{heading}\n{unit}"
            made.add_row(first, *map(escape, cells))
    return made


def plain_table(evaluations: Sequence[dict[str, Any]]) -> str:
    """Aligned lines of text, a line for each run, for pipes and log files."""
    lines = [["run", "environment", "unit", "seeds", "tasks", "rollouts", "trials"]]
    lines[0] += [heading for _, heading in COLUMNS]
    for evaluation, label in zip(evaluations, labels(evaluations), strict=True):
        for unit, statistics in (
            ("return", evaluation),
            ("D4RL score", evaluation["normalised"]),
        ):
            if statistics is None:
                continue
            line = [label, evaluation["conditions"]["environment"], unit]
            line += [str(evaluation["counts"][name]) for name in lines[0][3:7]]
            line += [_cell(statistics, path, " ") for path, _ in COLUMNS]
            lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(statistics: dict[str, Any], path: tuple[str, ...], separator: str) -> str:
    entry = pick(statistics, path)
    return f"{number(entry['value'])}{separator}{interval(entry)}"


def sample(evaluations: Sequence[dict[str, Any]]) -> str:
    """How many seeds, tasks and rollouts; a range where evaluations differ."""
    parts = []
    for name, one in (("seeds", "seed"), ("tasks", "task"), ("rollouts", "rollout")):
        found = sorted({evaluation["counts"][name] for evaluation in evaluations})
        low, high = found[0], found[-1]
        text = f"{low}" if low == high else f"{low}-{high}"
        parts.append(f"{text} {one if high == 1 else name}")
    return ", ".join(parts)


def _sample(evaluation: dict[str, Any]) -> str:
    """The environment and the size of the sample, below a column's name."""
    counts = evaluation["counts"]
    seeds = "1 seed" if counts["seeds"] == 1 else f"{counts['seeds']} seeds"
    return (
        f"{evaluation['conditions']['environment']}\n{seeds}\n"
        f"{counts['rollouts']} rollouts\n{counts['trials']} trials"
    )
