"""The picture of training: one number by update, one line a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ring_rl.evaluate.figures import Style, head, legend, new_figure, tidy
from ring_rl.evaluate.histories import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name in the metrics: what it is called, and its axis.
CURVES = {
    "loss": ("training loss", "loss (nats per action component)"),
    "accuracy": (
        "training accuracy",
        "accuracy (share of action components,\nlikeliest choice is the data's)",
    ),
    "gradient_norm": (
        "norm of the gradient",
        "norm of the gradient before clipping\n(nats per unit of parameters)",
    ),
}


def draw_learning(
    title: str,
    metric: str,
    histories: Sequence[History],
    names: Sequence[str],
    given: Mapping[str, Style],
) -> Figure:
    """Draws one metric of several runs.

    Args:
      title: what the runs have in common.
      metric: one of `CURVES`.
      histories: runs that have it on record.
      names: the label of each; several seeds share one.
      given: how each label is drawn.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(4.2)
    axes = figure.subplots()
    said: set[str] = set()
    stopped = False
    for history, name in zip(histories, names, strict=True):
        records = [record for record in history.records if metric in record]
        updates = [record["step"] for record in records]
        values = [record[metric] for record in records]
        colour = given[name].colour
        axes.plot(
            updates, values, color=colour, linewidth=1.4, alpha=0.85,
            marker=given[name].marker, markersize=5, markevery=max(1, len(values) // 6),
            label=None if name in said else name,
        )  # fmt: skip
        said.add(name)
        if not history.finished:
            stopped = True
            axes.plot(
                updates[-1], values[-1], marker="x", color=colour, markersize=11,
                markeredgewidth=2.5, zorder=4,
            )  # fmt: skip
    what, axis = CURVES[metric]
    axes.set_xlabel("update (optimiser steps made)")
    axes.set_ylabel(axis)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    tidy(axes, grid="y")
    every = sorted({history.every for history in histories})
    over = f"{every[0]}" if len(every) == 1 else f"{every[0]} to {every[-1]}"
    cross = "; cross: the run stopped there, before its end" if stopped else ""
    seeds = len(histories)
    head(
        axes,
        f"{title}: {what}",
        f"one line a seed ({seeds} in all); each point: mean over the {over} updates "
        f"before it{cross}",
    )
    legend(axes, len(said))
    return figure
