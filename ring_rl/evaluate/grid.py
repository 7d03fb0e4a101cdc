"""The table of a study: evaluations by row and column, and what is not there."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ring_rl.evaluate.report import write_text
from ring_rl.evaluate.tables import COLUMNS, interval, number, pick, sample

_GRIDS = (
    (("last",), "Return of the last trial"),
    (("mean",), "Mean return of all trials"),
)


class Entry(NamedTuple):
    """A cell of the table.

    Attributes:
      row: name.
      column: name.
      evaluation: as from `protocol.summarise`; None where there is none.
      reason: why there is none, or nothing where it was not run yet.
    """

    row: str
    column: str
    evaluation: dict[str, Any] | None
    reason: str = ""


def write_grid(directory: Path, question: str, entries: Sequence[Entry]) -> None:
    """Writes `table.md`, for people, and `table.json`, without clocks."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "table.md", grid_text(directory.name, question, entries))
    plain = json.dumps([_plain(entry) for entry in entries], indent=1, allow_nan=False)
    write_text(directory / "table.json", plain + "\n")


def grid_text(name: str, question: str, entries: Sequence[Entry]) -> str:
    """The table as Markdown.

    Where a row has more than one column, last trials and means by row and column; then
    all statistics of each cell, in a line of its own.
    """
    found = [entry.evaluation for entry in entries if entry.evaluation is not None]
    lines = [f"# {name}", "", f"{question[0].upper()}{question[1:]}.", ""]
    if found:
        trials = sorted({one["counts"]["trials"] for one in found})
        lines += [
            f"Returns are undiscounted; {' or '.join(map(str, trials))} trials in one "
            f"context; {sample(found)} a cell; [ ] is a 95 % bootstrap interval.",
            "",
        ]
    columns = list(dict.fromkeys(entry.column for entry in entries))
    rows = list(dict.fromkeys(entry.row for entry in entries))
    at = {(entry.row, entry.column): entry for entry in entries}
    # A list of unlike variants is no grid.
    if len(at) == len(rows) * len(columns) and len(columns) > 1 and len(rows) > 1:
        for path, heading in _GRIDS:
            lines += [f"## {heading}", ""]
            lines += _table(
                ["", *columns],
                [
                    [row, *(_cell(at[row, column], path) for column in columns)]
                    for row in rows
                ],
            )
    lines += ["## Every statistic", ""]
    lines += _table(
        ["", "", "seeds", *(heading for _, heading in COLUMNS)],
        [
            [
                entry.row,
                entry.column,
                _of(entry, lambda one: str(one["counts"]["seeds"])),
                *(_cell(entry, path) for path, _ in COLUMNS),
            ]
            for entry in entries
        ],
    )
    reasons = [
        f"- {entry.row}, {entry.column}: {entry.reason}"
        for entry in entries
        if entry.reason and entry.evaluation is None
    ]
    if reasons:
        lines += ["## What was not run", "", *reasons, ""]
    lines += ["max of n rewards variance: read it beside the others only.", ""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return [*body, ""]


def _of(entry: Entry, text: Callable[[dict[str, Any]], str]) -> str:
    if entry.evaluation is None:
        return "does not fit" if entry.reason else "not run"
    return text(entry.evaluation)


def _cell(entry: Entry, path: tuple[str, ...]) -> str:
    def text(evaluation: dict[str, Any]) -> str:
        statistic = pick(evaluation, path)
        if statistic is None:
            return "-"
        return f"{number(statistic['value'])} {interval(statistic)}"

    return _of(entry, text)


def _plain(entry: Entry) -> dict[str, Any]:
    names = ["first", "mean", "last", "max_of_n", "gain", "return_by_trial", "counts"]
    evaluation = entry.evaluation
    return {
        "row": entry.row,
        "column": entry.column,
        "reason": entry.reason,
        "evaluation": evaluation and {name: evaluation[name] for name in names},
    }
