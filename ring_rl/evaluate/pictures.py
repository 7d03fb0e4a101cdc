"""All pictures of a report, each with its file's name, and a text for who cannot see.

The same bytes are in the page and in the files.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ring_rl.evaluate.attention_picture import (
    draw_attention_course,
    draw_attention_layers,
    draw_attention_map,
)
from ring_rl.evaluate.contents import Contents, by_task, trained_for
from ring_rl.evaluate.distribution_picture import draw_by_task, draw_distribution
from ring_rl.evaluate.figures import Style, png, styles
from ring_rl.evaluate.histories import History
from ring_rl.evaluate.learning_picture import CURVES, draw_learning
from ring_rl.evaluate.picture import draw_return_by_trial
from ring_rl.evaluate.tables import labels, number, other_task_note
from ring_rl.types import Rollouts


class Picture(NamedTuple):
    """One chart.

    Attributes:
      file: name of its file.
      alt: what it shows, in words and numbers.
      content: the bytes of the PNG.
    """

    file: str
    alt: str
    content: bytes


class Names(NamedTuple):
    """What everything is called, and how it is drawn, in the whole report.

    Attributes:
      evaluated: a label for each evaluation.
      histories: a label for each training run; its seeds share one, which is that of
        its evaluation where it has one.
      given: how each label is drawn.
    """

    evaluated: list[str]
    histories: list[str]
    given: dict[str, Style]


def name_all(contents: Contents) -> Names:
    """Labels and styles; a run keeps its own in every picture."""
    found = labels([one.evaluation for one in contents.evaluated])
    trained: dict[int, str] = {}
    for one, label in zip(contents.evaluated, found, strict=True):
        for history in trained_for(one, contents.histories):
            # Without a control, if there is one such.
            if one.evaluation["conditions"]["control"] == "none":
                trained[id(history)] = label
            else:
                trained.setdefault(id(history), label)
    histories = [trained.get(id(one), one.name) for one in contents.histories]
    return Names(found, histories, styles([*found, *histories]))


def of_environment(
    environment: str, members: Sequence[int], contents: Contents, names: Names
) -> list[Picture]:
    """Returns by trial, their distribution, and by task, of some of the evaluations."""
    where = _slug(environment)
    evaluated = [contents.evaluated[index] for index in members]
    called = [names.evaluated[index] for index in members]
    evaluations = [one.evaluation for one in evaluated]
    returns = [_all_returns(one.rollouts) for one in evaluated]
    curves = [
        f"{name}{_start(one)} {number(one['last']['value'])} in trial "
        f"{one['counts']['trials']}"
        for name, one in zip(called, evaluations, strict=True)
    ]
    other = other_task_note(evaluations)
    made = [
        Picture(
            f"return_by_trial_{where}.png",
            f"Line chart: mean return by trial on {environment}. {'; '.join(curves)}. "
            f"{other}".rstrip(),
            png(draw_return_by_trial(evaluations, names.given)),
        ),
        Picture(
            f"distribution_{where}.png",
            f"Dots and boxes: distribution of the returns of single rollouts on "
            f"{environment}, first and last trial, of {', '.join(called)}. "
            + " ".join([*map(_quartiles, called, returns), other]).rstrip(),
            png(draw_distribution(evaluations, called, returns, names.given)),
        ),
    ]
    tasks = [by_task(one) for one in evaluated]
    if any(len(one) > 1 for one in tasks):
        made.append(
            Picture(
                f"by_task_{where}.png",
                f"Dots: mean return by task on {environment}, first and last trial, of "
                f"{', '.join(called)}. The numbers are in the table of tasks. "
                f"{other}".rstrip(),
                png(draw_by_task(evaluations, called, tasks, names.given)),
            )
        )
    return made


def of_training(
    title: str, members: Sequence[int], contents: Contents, names: Names
) -> list[Picture]:
    """Learning curves of some of the training runs."""
    made = []
    for metric, (what, axis) in CURVES.items():
        have = [
            index
            for index in members
            if any(metric in record for record in contents.histories[index].records)
        ]
        if not have:
            continue
        histories = [contents.histories[index] for index in have]
        called = [names.histories[index] for index in have]
        ends = "; ".join(
            f"{name}, seed {one.seed}: {_last(one, metric):.3g} at update {one.made}"
            for name, one in zip(called, histories, strict=True)
        )
        unit = " ".join(axis.split())
        made.append(
            Picture(
                f"learning_{metric}_{_slug(title)}.png",
                f"Line chart: {what} by update, {unit}, one line a seed. {ends}.",
                png(draw_learning(title, metric, histories, called, names.given)),
            )
        )
    return made


def of_attention(
    label: str, number: int, look: Mapping[str, Any], style: Style
) -> list[Picture]:
    """What an acting token reads, of one run."""
    shares = ", ".join(
        f"trial {trial} (return {value:.4g}): {100 * mass:.1f} %"
        for trial, (value, mass) in enumerate(
            zip(look["returns"], look["by_trial"], strict=True), 1
        )
    )
    where = f"trial {look['trial']}, step {look['step']}"
    name = f"{number}_{_slug(label)}"
    made = [
        Picture(
            f"attention_{name}.png",
            f"Heat map and bars: attention of the token of {label} that acts in "
            f"{where}, mean over layers and heads. {shares}.",
            png(draw_attention_map(label, style.colour, look)),
        ),
    ]
    if sum(map(bool, look["steps_seen"])) == 1:
        # All of it goes to the trial that is being played.
        return made
    made.append(
        Picture(
            f"attention_layers_{name}.png",
            f"Heat map: the same by layer, mean over heads, of {label} in {where}.",
            png(draw_attention_layers(label, look)),
        )
    )
    if len(look["moments"]) > 1:
        made.append(
            Picture(
                f"attention_course_{name}.png",
                f"Heat map: attention of {label} to each trial in the course of trial "
                f"{look['trial']}, mean over layers and heads.",
                png(draw_attention_course(label, look)),
            )
        )
    return made


def _all_returns(rollouts: Sequence[Rollouts]) -> Float[np.ndarray, "rows trials"]:
    return np.concatenate([one.returns for one in rollouts])


def _start(evaluation: Mapping[str, Any]) -> str:
    """Where a curve begins, unless it is a single point."""
    if evaluation["other_task_trials"]:
        return " at"
    return f" from {number(evaluation['first']['value'])} in trial 1 to"


def _quartiles(name: str, returns: Float[np.ndarray, "rows trials"]) -> str:
    low, middle, high = np.percentile(returns[:, -1], [25, 50, 75])
    return (
        f"{name}, last trial: median {number(middle)}, quartiles {number(low)} and "
        f"{number(high)}."
    )


def _last(history: History, metric: str) -> float:
    return [record[metric] for record in history.records if metric in record][-1]


def _slug(text: str) -> str:
    """Letters, digits, - and _ alone, for a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "run"
