"""Pictures of what an acting token reads of its context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ring_rl.evaluate.figures import head, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From light to dark, for any colour vision; what is not seen is grey.
_MAP, _UNSEEN = "Blues", "0.8"


def draw_attention_map(label: str, colour: str, look: Mapping[str, Any]) -> Figure:
    """Draws the attention of one acting token, trials by steps and summed by trial.

    Args:
      label: of the run.
      colour: of the run.
      look: what `attention.json` holds.
    """
    from matplotlib.ticker import MaxNLocator

    rows = look["by_trial_and_step"]
    grid = np.full((len(rows), max(map(len, rows))), np.nan)
    for trial, masses in enumerate(rows):
        # A step that is not seen is None, which becomes NaN.
        grid[trial, : len(masses)] = 100 * np.array(masses, float)
    figure = new_figure(2.6 + 0.27 * min(len(rows), 40))
    axes, bars = figure.subplots(1, 2, sharey=True, width_ratios=(1.9, 1))
    _map(figure, axes, grid, "attention to a step (% of the token's)", look)
    axes.plot(
        look["step"], look["trial"], marker="*", color="#D55E00", markersize=11,
        markeredgecolor="white", linestyle="none", clip_on=False,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("step read (environment steps)")
    total, seen = 100 * np.array(look["by_trial"]), np.array(look["steps_seen"])
    places = np.arange(1, len(total) + 1)
    bars.barh(places, total, color=colour, height=0.7)
    bars.plot(
        100 * seen / seen.sum(), places, color="0.25", marker="|", markersize=9,
        markeredgewidth=1.8, linestyle="none",
    )  # fmt: skip
    bars.set_xlabel("attention to a trial\n(% of the token's)")
    bars.set_xlim(left=0)
    bars.tick_params(axis="y", length=0)
    tidy(bars, grid="x")
    head(
        axes,
        f"{label}: what the token reads that acts in trial {look['trial']}, step "
        f"{look['step']}",
        f"{_statistic(look)}; star: the acting token, grey: not in its context, tick "
        "mark: if all steps were read alike",
    )
    return figure


def draw_attention_course(label: str, look: Mapping[str, Any]) -> Figure:
    """Draws how the attention to each trial changes in the course of one trial."""
    masses = 100 * np.array(look["by_moment_and_trial"]).T
    figure = new_figure(2.3 + 0.27 * min(len(masses), 40))
    axes = figure.subplots()
    _map(figure, axes, masses, "attention to a trial (% of the acting token's)", look)
    moments = look["moments"]
    shown = np.unique(
        np.linspace(0, len(moments) - 1, min(len(moments), 10)).astype(int)
    )
    axes.set_xticks(shown + 1, [str(moments[index]) for index in shown])
    axes.set_xlabel(f"step of trial {look['trial']} that acts (environment steps)")
    head(
        axes,
        f"{label}: which trial is read in the course of trial {look['trial']}",
        _statistic(look),
    )
    return figure


def draw_attention_layers(label: str, look: Mapping[str, Any]) -> Figure:
    """Draws the attention of one acting token to each trial, layer by layer."""
    masses = 100 * np.array(look["by_layer_and_trial"]).T
    figure = new_figure(2.3 + 0.27 * min(len(masses), 40))
    axes = figure.subplots()
    _map(figure, axes, masses, "attention to a trial (% of the acting token's)", look)
    axes.set_xticks(range(1, masses.shape[1] + 1))
    axes.set_xlabel("layer of the transformer (1: next to the input)")
    if masses.size <= 160:
        for (trial, layer), value in np.ndenumerate(masses):
            axes.text(
                layer + 1, trial + 1, f"{value:.0f}", ha="center", va="center",
                fontsize=8.5, color="white" if value > 0.6 * masses.max() else "black",
            )  # fmt: skip
    head(
        axes,
        f"{label}: what each layer reads in trial {look['trial']}, step {look['step']}",
        f"{_statistic(look, layers=False)}",
    )
    return figure


def _map(
    figure: Figure,
    axes: Axes,
    values: Float[np.ndarray, "trials columns"],
    title: str,
    look: Mapping[str, Any],
) -> None:
    """Trials downwards, with their returns; columns are counted from 1."""
    trials, columns = values.shape
    image = axes.imshow(
        values, aspect="auto", cmap=_MAP, vmin=0, interpolation="nearest",
        extent=(0.5, columns + 0.5, trials + 0.5, 0.5),
    )  # fmt: skip
    axes.set_facecolor(_UNSEEN)
    returns = look["returns"]
    places = range(1, trials + 1, max(1, trials // 20))
    axes.set_yticks(
        places, [f"{trial}  ({returns[trial - 1]:.4g})" for trial in places]
    )
    axes.set_ylabel("trial read (its return)")
    axes.tick_params(axis="y", length=0)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.03)
    bar.set_label(title)


def _statistic(look: Mapping[str, Any], layers: bool = True) -> str:
    over = f"{look['layers']} layers and {look['heads']} heads"
    over = over if layers else f"{look['heads']} heads"
    task = f", task {look['task']}" if look["task"] else ""
    return f"mean over {over}; one rollout of seed {look['seed']}{task}"
