"""The picture of an evaluation: mean return by trial, with its 95 % interval."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ring_rl.evaluate.tables import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart with any colour vision. Source: Okabe and Ito 2008; without the yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_return_by_trial(evaluations: Sequence[dict[str, Any]]) -> Figure:
    """Draws one panel an environment, with one curve for each evaluation in it.

    No global state of matplotlib is used: the figure can be saved, or shown by a
    notebook, and needs no closing.

    Raises:
      ValueError: there is nothing to draw.
    """
    from matplotlib.figure import Figure

    if not evaluations:
        raise ValueError("return by trial: expected at least one evaluation to draw")
    names = labels(evaluations)
    panels: dict[str, list[int]] = {}
    for index, evaluation in enumerate(evaluations):
        panels.setdefault(evaluation["conditions"]["environment"], []).append(index)
    # A run keeps its colour in all panels.
    styles = {name: style for style, name in enumerate(dict.fromkeys(names))}
    columns = min(3, len(panels))
    height = math.ceil(len(panels) / columns)
    width = 7.2 if columns == 1 else 5.4 * columns
    figure = Figure(figsize=(width, 4.6 * height), layout="constrained")
    grid = figure.subplots(height, columns, squeeze=False).flatten()
    for axes, (environment, members) in zip(grid, panels.items(), strict=False):
        _panel(axes, environment, evaluations, members, names, styles)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def png(evaluations: Sequence[dict[str, Any]]) -> bytes:
    """The same picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    draw_return_by_trial(evaluations).savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _panel(
    axes: Axes,
    environment: str,
    evaluations: Sequence[dict[str, Any]],
    members: Sequence[int],
    names: Sequence[str],
    styles: dict[str, int],
) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max(evaluations[i]["counts"]["trials"] for i in members)
    for index in members:
        _curve(axes, evaluations[index], names[index], styles[names[index]])
    _target(axes, [evaluations[i]["conditions"]["target_return"] for i in members])
    margin = max(0.02 * longest, 0.5 if longest < 3 else 0.1)
    # There is no trial 0, and no tick for it.
    axes.set_xlim(1 - min(margin, 0.5), longest + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set_xlabel("trial (episode within one context)")
    axes.set_ylabel("return (undiscounted sum of rewards)")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    single = len(members) == 1
    who = f"{evaluations[members[0]]['conditions']['agent']} on " if single else ""
    run = f"{names[members[0]]}: " if single else ""
    band = "band" if longest > 1 else "bar"
    axes.set_title(
        f"{who}{environment}: mean return by trial",
        loc="left",
        fontsize=11,
        fontweight="bold",
        pad=24,
    )
    # Under the title: what one needs to know to judge the band.
    axes.text(
        0.0,
        1.02,
        f"{run}{_sample(evaluations, members)}; {band}: 95 % bootstrap interval",
        transform=axes.transAxes,
        fontsize=9,
        color="0.35",
        va="bottom",
    )
    if not single:
        # Below the axes, where it can hide neither a curve nor the target.
        axes.legend(
            frameon=False,
            fontsize=9,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
            ncols=min(2, len(members)),
            handlelength=2.6,
        )


def _curve(axes: Axes, evaluation: dict[str, Any], name: str, style: int) -> None:
    curve = evaluation["return_by_trial"]
    trials = range(1, len(curve) + 1)
    value, low, high = ([e[k] for e in curve] for k in ("value", "low", "high"))
    colour = _COLOURS[style % len(_COLOURS)]
    line = {
        "color": colour,
        "linewidth": 1.8,
        "linestyle": "-" if evaluation["conditions"]["control"] == "none" else "--",
        "marker": _MARKERS[style % len(_MARKERS)] if len(curve) <= 40 else None,
        "markersize": 5,
    }
    axes.plot(trials, value, label=name, zorder=3, **line)
    if len(curve) > 1:
        axes.fill_between(trials, low, high, color=colour, alpha=0.18, linewidth=0)
    else:
        # A band over a single trial has no width.
        axes.vlines(trials, low, high, color=colour, linewidth=1.8)


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
            fontsize=8,
            color="0.35",
        )


def _sample(evaluations: Sequence[dict[str, Any]], members: Sequence[int]) -> str:
    """How many seeds, tasks and rollouts; a range where the curves differ."""
    parts = []
    for name, one in (("seeds", "seed"), ("tasks", "task"), ("rollouts", "rollout")):
        found = sorted({evaluations[i]["counts"][name] for i in members})
        low, high = found[0], found[-1]
        text = f"{low}" if low == high else f"{low}-{high}"
        parts.append(f"{text} {one if high == 1 else name}")
    return ", ".join(parts)
