"""Pictures of single rollouts: how returns are spread, and how tasks differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ring_rl.evaluate.figures import Style, head, new_figure, tidy
from ring_rl.evaluate.tables import other_task_note, sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of one distribution; more dots are a blot.
_DOTS = 400
# Of one picture; all of them are in the page's table.
_TASK_LINES = 60


def draw_distribution(
    members: Sequence[dict[str, Any]],
    names: Sequence[str],
    returns: Sequence[Float[np.ndarray, "_rows _trials"]],
    given: Mapping[str, Style],
) -> Figure:
    """Draws the returns of the first and of the last trial, a dot a rollout.

    Where the first is played in another task, the last alone.

    Args:
      members: evaluations in one environment.
      names: a label each.
      returns: of all rollouts of each, those of its seeds one after the other.
      given: how each label is drawn.
    """
    figure = new_figure(1.9 + 0.95 * len(members))
    axes = figure.subplots()
    ticks: list[tuple[float, str]] = []
    for index, (member, name, one) in enumerate(
        zip(members, names, returns, strict=True)
    ):
        top = 3.0 * index
        ends = [(0, "first trial"), (-1, "last trial")]
        if one.shape[1] == 1:
            ends = [(0, "only trial")]
        elif member["other_task_trials"]:
            ends = [(-1, "last trial")]
        for offset, (trial, word) in enumerate(ends):
            _spread(axes, one[:, trial], top + offset, given[name], filled=trial != 0)
            ticks.append((top + offset, word))
        where = {"xycoords": axes.get_yaxis_transform(), "fontsize": 9, "va": "center"}
        mark = {"textcoords": "offset points", **where}
        # A mark in the run's colour: as text, some colours are too light.
        axes.annotate(
            "\u25a0", (0, top - 0.7), (5, 0), color=given[name].colour, **mark
        )
        axes.annotate(
            name, (0, top - 0.7), (17, 0), color="0.15", fontweight="bold", **mark
        )
    axes.set_yticks([y for y, _ in ticks], [word for _, word in ticks])
    axes.set_ylim(3.0 * len(members) - 1.4, -1.1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("return of one episode (undiscounted sum of rewards)")
    tidy(axes, grid="x")
    environment = members[0]["conditions"]["environment"]
    most = max(len(one) for one in returns)
    some = f" (at most {_DOTS} drawn)" if most > _DOTS else ""
    head(
        axes,
        f"{environment}: distribution of returns over rollouts",
        f"{sample(members)}; dot: a rollout{some}, box: the middle half, line in it: "
        "median, whiskers: 5th to 95th percentile, diamond: mean. "
        f"{other_task_note(members)}",
    )
    return figure


def _spread(
    axes: Axes, values: Float[np.ndarray, " rows"], y: float, style: Style, filled: bool
) -> None:
    chosen = np.linspace(0, len(values) - 1, min(len(values), _DOTS)).astype(int)
    # Multiples of the golden ratio: spread evenly, and the same every time.
    jitter = (np.arange(len(chosen)) * 0.618034 % 1 - 0.5) * 0.5
    face = style.colour if filled else "none"
    axes.scatter(
        values[chosen], y + jitter, s=11, facecolors=face, edgecolors=style.colour,
        linewidths=0.7, alpha=0.45, zorder=2,
    )  # fmt: skip
    low, left, middle, right, high = np.percentile(values, [5, 25, 50, 75, 95])
    box = {"color": "0.15", "zorder": 3}
    axes.plot([low, left], [y, y], linewidth=1.2, **box)
    axes.plot([right, high], [y, y], linewidth=1.2, **box)
    axes.fill_between(
        [left, right], y - 0.2, y + 0.2, facecolor="none", edgecolor="0.15",
        linewidth=1.2, zorder=3,
    )  # fmt: skip
    axes.plot([middle, middle], [y - 0.2, y + 0.2], linewidth=2.2, **box)
    axes.plot(
        values.mean(), y, marker="D", markersize=6, markerfacecolor="white",
        markeredgecolor="0.15", zorder=4, linestyle="none",
    )  # fmt: skip


def draw_by_task(
    members: Sequence[dict[str, Any]],
    names: Sequence[str],
    tasks: Sequence[Mapping[str, tuple[float | None, float, int]]],
    given: Mapping[str, Style],
) -> Figure:
    """Draws each task's mean return in the first trial and in the last.

    Args:
      members: evaluations in one environment.
      names: a label each.
      tasks: for each, by task, what `by_task` says.
      given: how each label is drawn.
    """
    every = list(dict.fromkeys(task for one in tasks for task in one))
    most = max(2, _TASK_LINES // len(members))
    chosen = np.linspace(0, len(every) - 1, min(len(every), most)).astype(int)
    shown = [every[index] for index in chosen]
    step = 1.0 / (len(members) + 1)
    figure = new_figure(1.9 + len(shown) * (0.12 + 0.14 * len(members)))
    axes = figure.subplots()
    for index, (name, one) in enumerate(zip(names, tasks, strict=True)):
        style = given[name]
        places = [y for y, task in enumerate(shown) if task in one]
        first = [mean for y in places if (mean := one[shown[y]][0]) is not None]
        last = [one[shown[y]][1] for y in places]
        y = np.array(places) + step * (index + 1) - 0.5
        dots = {"color": style.colour, "s": 30, "zorder": 3, "marker": style.marker}
        if len(first) == len(last):
            axes.hlines(y, first, last, color=style.colour, linewidth=1.2, alpha=0.6)
            axes.scatter(first, y, **{**dots, "facecolors": "white", "linewidths": 1.3})
        axes.scatter(last, y, label=name, **dots)
    axes.set_yticks(range(len(shown)), [_short(task) for task in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_ylabel("task")
    axes.set_xlabel("mean return (undiscounted sum of rewards)")
    tidy(axes, grid="x")
    left_out = len(every) - len(shown)
    some = f"; {left_out} of {len(every)} tasks are not drawn" if left_out else ""
    head(
        axes,
        f"{members[0]['conditions']['environment']}: mean return by task",
        f"means over a task's rollouts and seeds ({sample(members)}); hollow: first "
        f"trial, filled: last{some}. {other_task_note(members)}",
        # Names of tasks stand beside the axes.
        share=1 - max(len(_short(task)) for task in shown) / 84,
    )
    if len(members) > 1:
        figure.legend(
            *axes.get_legend_handles_labels(), frameon=False, fontsize=9,
            loc="outside lower center", ncols=2,
        )  # fmt: skip
    return figure


def _short(task: str) -> str:
    return task if len(task) <= 24 else f"{task[:23]}…"
