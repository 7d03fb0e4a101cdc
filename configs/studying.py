"""Runs a study: trains and evaluates the cells that are missing, writes the table.

A study's folder holds a folder for each cell, `ROW/COLUMN`, with a run a seed and their
`evaluation/`, and the table as `table.md` and `table.json`. Everything that is there
already is kept; ended early, the same call goes on.
"""

import dataclasses
import fnmatch
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ring_rl.configs.datasets import open_datasets
from ring_rl.configs.evaluating import evaluate_runs
from ring_rl.configs.fitting import misfit
from ring_rl.configs.loading import check_spaces
from ring_rl.configs.random_policy import evaluate_random
from ring_rl.configs.run import RunConfig
from ring_rl.configs.running import train_run
from ring_rl.configs.saved import check_folder, digest
from ring_rl.configs.studies import Cell, Study
from ring_rl.evaluate.grid import Entry, write_grid
from ring_rl.mesh import ShardingRules, make_mesh

RANDOM = "random"

Change = Callable[[RunConfig], RunConfig]


def run_study(
    study: Study,
    directory: Path,
    *,
    seeds: Sequence[int] = (0,),
    rows: str = "*",
    columns: str = "*",
    change: Change = lambda config: config,
    device_bytes: int | None = None,
    show: bool = False,
    stop_on: Sequence[signal.Signals] = (),
) -> list[Entry]:
    """Trains and evaluates cells of a study, and writes its table of all that is there.

    Args:
      study: what is asked.
      directory: of the study.
      seeds: of training, one run each.
      rows: pattern of the rows that are run, as shells have it; all are in the table.
      columns: likewise.
      change: of each cell's configuration, such as fewer updates.
      device_bytes: memory of a device. A cell whose training step needs more, by the
        compiler's report, is not run and marked so. None does not look.
      show: run nothing, write the table of what is there.
      stop_on: signals that end a training after the update in progress, as of
        `running.train`.

    Returns:
      The table's entries, row by row.

    Raises:
      ValueError: no cell has such a row and column, or a cell's folder holds another
        configuration; nothing is run then.
      Stopped: one of the signals came; what was done is kept.
    """
    cells = [
        dataclasses.replace(cell, config=change(cell.config)) for cell in study.cells
    ]
    chosen = [
        cell
        for cell in cells
        if fnmatch.fnmatchcase(cell.row, rows)
        and fnmatch.fnmatchcase(cell.column, columns)
    ]
    of_random = study.random and fnmatch.fnmatchcase(RANDOM, columns)
    some_rows = any(fnmatch.fnmatchcase(cell.row, rows) for cell in cells)
    if not chosen and not (of_random and some_rows):
        raise ValueError(
            f"study: expected --rows among {_names(cell.row for cell in cells)} and "
            f"--columns among {_names(cell.column for cell in cells)}, found {rows!r} "
            f"and {columns!r}"
        )
    if not show:
        for cell in chosen:
            for seed, run in _runs(_place(directory, cell), seeds).items():
                check_folder(run, dataclasses.replace(cell.config, seed=seed))
        if of_random:
            _run_random(directory, cells, rows)
        for number, cell in enumerate(chosen, 1):
            where = f"{cell.row}, {cell.column}"
            print(
                f"study {study.name}: {number}/{len(chosen)} {where}", file=sys.stderr
            )
            place = _place(directory, cell)
            _run(cell.config, place, seeds, device_bytes, stop_on)
            write_grid(directory, study.question, _entries(study, directory, cells))
    entries = _entries(study, directory, cells)
    write_grid(directory, study.question, entries)
    return entries


def _run(
    config: RunConfig,
    place: Path,
    seeds: Sequence[int],
    device_bytes: int | None,
    stop_on: Sequence[signal.Signals],
) -> None:
    """Trains and evaluates the seeds of a cell that are missing.

    Of seeds that were evaluated before, none is lost from the evaluation.
    """
    before = _evaluated(place, config)
    if set(seeds) <= set(before):
        return
    seeds = sorted({*before, *seeds})
    rules = ShardingRules(make_mesh(config.mesh))
    stores = open_datasets(config)
    check_spaces(stores[0].spaces, config)
    note = place / "unfit.json"
    reason = device_bytes and misfit(config, stores, rules, device_bytes)
    if reason:
        place.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"reason": reason}) + "\n")
        return
    note.unlink(missing_ok=True)
    runs = _runs(place, seeds)
    for seed, run in runs.items():
        config = dataclasses.replace(config, seed=seed)
        train_run(config, run, stores, rules, stop_on=stop_on)
    evaluate_runs(list(runs.values()), place / "evaluation")


def _run_random(directory: Path, cells: Sequence[Cell], rows: str) -> None:
    """Evaluates uniform actions in the environment of each row's first cell."""
    for row, cell in _first_of_rows(cells).items():
        place = _place(directory, Cell(row, RANDOM, cell.config))
        if fnmatch.fnmatchcase(row, rows) and not _found(place):
            evaluate_random(cell.config, place / "evaluation", name=f"{row}, {RANDOM}")


def _entries(study: Study, directory: Path, cells: Sequence[Cell]) -> list[Entry]:
    """What there is of each cell, row by row; uniform actions first."""
    entries = []
    firsts = _first_of_rows(cells)
    for row, first in firsts.items():
        of_row = [cell for cell in cells if cell.row == row]
        if study.random:
            of_row = [Cell(row, RANDOM, first.config), *of_row]
        for cell in of_row:
            place = _place(directory, cell)
            note = place / "unfit.json"
            reason = json.loads(note.read_text())["reason"] if note.is_file() else ""
            entries.append(Entry(row, cell.column, _found(place), reason))
    return entries


def _first_of_rows(cells: Sequence[Cell]) -> dict[str, Cell]:
    firsts: dict[str, Cell] = {}
    for cell in cells:
        firsts.setdefault(cell.row, cell)
    return firsts


def _runs(place: Path, seeds: Sequence[int]) -> dict[int, Path]:
    return {seed: place / f"seed-{seed}" for seed in seeds}


def _place(directory: Path, cell: Cell) -> Path:
    """A cell's folder: its names in the letters that every file system takes."""

    def folder(name: str) -> str:
        return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-")

    return directory / folder(cell.row) / folder(cell.column)


def _found(place: Path) -> dict[str, Any] | None:
    path = place / "evaluation" / "evaluation.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _evaluated(place: Path, config: RunConfig) -> list[int]:
    """The seeds of which a cell's evaluation is there."""
    found = _found(place)
    if found is None or found["conditions"]["configuration"] != digest(config):
        return []
    return found["seeds"]


def _names(names: Any) -> str:
    return ", ".join(dict.fromkeys(names))
