"""The picture of an evaluation: mean return by trial, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ring_rl.evaluate.figures import (
    GREY,
    WIDTH,
    Style,
    head,
    legend,
    new_figure,
    styles,
    tidy,
)
from ring_rl.evaluate.tables import labels, other_task_note, sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_return_by_trial(
    evaluations: Sequence[dict[str, Any]], given: Mapping[str, Style] | None = None
) -> Figure:
    """Draws one panel an environment, with one curve for each evaluation in it.

    Args:
      evaluations: from `protocol.summarise`.
      given: how each label is drawn; as `styles` has it if None.

    Raises:
      ValueError: there is nothing to draw.
    """
    if not evaluations:
        raise ValueError("return by trial: expected at least one evaluation to draw")
    names = labels(evaluations)
    panels: dict[str, list[int]] = {}
    for index, evaluation in enumerate(evaluations):
        panels.setdefault(evaluation["conditions"]["environment"], []).append(index)
    # A run keeps its colour in all panels.
    drawn = styles(names) if given is None else given
    columns = min(3, len(panels))
    height = math.ceil(len(panels) / columns)
    figure = new_figure(4.4 * height, WIDTH * columns)
    grid = figure.subplots(height, columns, squeeze=False).flatten()
    for axes, (environment, members) in zip(grid, panels.items(), strict=False):
        _panel(axes, environment, evaluations, members, names, drawn)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _panel(
    axes: Axes,
    environment: str,
    evaluations: Sequence[dict[str, Any]],
    members: Sequence[int],
    names: Sequence[str],
    drawn: Mapping[str, Style],
) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max(evaluations[i]["counts"]["trials"] for i in members)
    for index in members:
        _curve(axes, evaluations[index], names[index], drawn[names[index]])
    _target(axes, [evaluations[i]["conditions"]["target_return"] for i in members])
    margin = max(0.02 * longest, 0.5 if longest < 3 else 0.1)
    # There is no trial 0, and no tick for it.
    axes.set_xlim(1 - min(margin, 0.5), longest + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set_xlabel("trial (episode within one context)")
    axes.set_ylabel("return (undiscounted sum of rewards)")
    tidy(axes, grid="y")
    single = len(members) == 1
    who = f"{evaluations[members[0]]['conditions']['agent']} on " if single else ""
    run = f"{names[members[0]]}: " if single else ""
    shown = [
        evaluations[i]["counts"]["trials"] - evaluations[i]["other_task_trials"]
        for i in members
    ]
    band = "band" if max(shown) > 1 else "bar"
    head(
        axes,
        f"{who}{environment}: mean return by trial",
        f"{run}{sample([evaluations[i] for i in members])}; {band}: 95 % bootstrap "
        f"interval of the mean. {other_task_note([evaluations[i] for i in members])}",
    )
    if not single:
        legend(axes, len(members))


def _curve(axes: Axes, evaluation: dict[str, Any], name: str, style: Style) -> None:
    before = evaluation["other_task_trials"]
    curve = evaluation["return_by_trial"][before:]
    trials = range(before + 1, before + len(curve) + 1)
    value, low, high = ([e[k] for e in curve] for k in ("value", "low", "high"))
    line = {
        "color": style.colour,
        "linewidth": 1.8,
        "linestyle": "-" if evaluation["conditions"]["control"] == "none" else "--",
        "marker": style.marker if len(curve) <= 40 else None,
        "markersize": 5,
    }
    axes.plot(trials, value, label=name, zorder=3, **line)
    if len(curve) > 1:
        axes.fill_between(
            trials, low, high, color=style.colour, alpha=0.18, linewidth=0
        )
    else:
        # A band over a single trial has no width.
        axes.vlines(trials, low, high, color=style.colour, linewidth=1.8)


def _target(axes: Axes, targets: Sequence[float]) -> None:
    """A line at the told target, unless it would squeeze the curves flat."""
    bottom, top = axes.get_ylim()
    target = targets[0]
    if len(set(targets)) == 1 and bottom <= target <= top + (top - bottom):
        axes.axhline(target, color="0.45", linewidth=1, linestyle=":")
        axes.annotate(
            f"target return {target:g}",
            (1.0, target),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            color=GREY,
        )
