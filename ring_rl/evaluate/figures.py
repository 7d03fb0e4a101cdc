"""What all pictures share: size, colours, titles, and how they become PNG files.

No global state of matplotlib is used: a figure can be saved, or shown by a notebook,
and needs no closing. matplotlib is imported when the first one is made.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart with any colour vision. Source: Okabe and Ito 2008; without the yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Inches. Narrow enough to be read on a telephone, and two beside each other.
WIDTH = 6.0
GREY = "0.38"


class Style(NamedTuple):
    """How one run is drawn, everywhere."""

    colour: str
    marker: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name; the first 49 differ."""
    different = dict.fromkeys(names)
    count = len(_COLOURS)
    return {
        name: Style(_COLOURS[index % count], _MARKERS[(index + index // count) % count])
        for index, name in enumerate(different)
    }


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure of this size in inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes, *, grid: str) -> None:
    """A light grid along `x` or `y` behind the data, and no box round it."""
    axes.grid(axis="x" if grid == "x" else "y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def head(axes: Axes, title: str, below: str, *, share: float = 1.0) -> None:
    """A title, and under it in smaller type what one needs to know to judge it.

    `share`: of the usual width, where the axes are narrower.
    """
    lines = textwrap.wrap(below, round(84 * share))
    axes.set_title(
        "\n".join(textwrap.wrap(title, round(60 * share))),
        loc="left", fontsize=11, fontweight="bold", pad=6 + 11.5 * len(lines),
    )  # fmt: skip
    text = axes.text(
        0.0, 1.0, "\n".join(lines), transform=axes.transAxes, fontsize=8.5,
        color=GREY, va="bottom", linespacing=1.25,
    )  # fmt: skip
    # Its height is the title's padding; its width may be more than the axes'.
    text.set_in_layout(False)


def legend(axes: Axes, entries: int, **options) -> None:
    """Below the axes, where it can hide nothing."""
    axes.legend(
        frameon=False, fontsize=9, loc="upper center", handlelength=2.6,
        bbox_to_anchor=(0.5, -0.15), ncols=1 if entries == 1 else 2, **options,
    )  # fmt: skip


def png(figure: Figure) -> bytes:
    """The bytes of a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
