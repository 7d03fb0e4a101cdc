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
# All that is within one task where trials 1 to n - 1 are played in another.
_OF_THE_LAST = (("last",), ("iqm", "last"))
OTHER_TASK = (
    "Control other-task: trials 1 to n - 1 are played in another task, so only trial n "
    "is shown; last - first would not be within one task."
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
        ("recall", "trials recalled as {}"),
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


def shows(evaluation: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Whether a column of `COLUMNS` is of the rows' own tasks."""
    return not evaluation["other_task_trials"] or path in _OF_THE_LAST


def pick(
    evaluation: dict[str, Any], path: tuple[str, ...], key: str | None = None
) -> dict[str, Any] | None:
    """Follows a path of `COLUMNS` to its `value`, `low` and `high`.

    Args:
      evaluation: from `protocol.summarise`.
      path: of the statistic.
      key: None for returns, `normalised` for D4RL scores.

    Returns:
      None where there are no such scores, or the statistic is of another task.
    """
    found = evaluation if key is None else evaluation[key]
    if found is None or not shows(evaluation, path):
        return None
    for step in path:
        found = found[step]
    return found


def other_task_note(evaluations: Sequence[dict[str, Any]]) -> str:
    """Why statistics are left out, or nothing where none are."""
    some = any(evaluation["other_task_trials"] for evaluation in evaluations)
    return OTHER_TASK if some else ""


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
        f"beside the others only. {other_task_note(evaluations)}".rstrip(),
        box=box.SIMPLE_HEAD,
    )
    made.add_column("")
    for evaluation, label in zip(evaluations, labels(evaluations), strict=True):
        made.add_column(escape(f"{label}\n{_sample(evaluation)}"), justify="right")
    for unit, key in (("return", None), ("D4RL score", "normalised")):
        if key is not None and all(e[key] is None for e in evaluations):
            continue
        if key is not None:
            made.add_section()
        for path, heading in COLUMNS:
            cells = [_cell(pick(one, path, key), "\n") for one in evaluations]
            first = heading if key is None else f"{heading}\n{unit}"
            made.add_row(first, *map(escape, cells))
    return made


def plain_table(evaluations: Sequence[dict[str, Any]]) -> str:
    """Aligned lines of text, a line for each run, for pipes and log files."""
    lines = [["run", "environment", "unit", "seeds", "tasks", "rollouts", "trials"]]
    lines[0] += [heading for _, heading in COLUMNS]
    for evaluation, label in zip(evaluations, labels(evaluations), strict=True):
        for unit, key in (("return", None), ("D4RL score", "normalised")):
            if key is not None and evaluation[key] is None:
                continue
            line = [label, evaluation["conditions"]["environment"], unit]
            line += [str(evaluation["counts"][name]) for name in lines[0][3:7]]
            line += [_cell(pick(evaluation, path, key), " ") for path, _ in COLUMNS]
            lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(entry: dict[str, Any] | None, separator: str) -> str:
    if entry is None:
        return "-"
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
