"""The distribution of returns and lengths of a dataset, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ring_rl.data.episodes import EpisodeStore


def text_histogram(
    returns: Float64[np.ndarray, " episodes"], *, bins: int = 10, width: int = 40
) -> str:
    """A histogram of returns, a line a bin: its edges, its count, a bar.

    Bins are half-open except the last one; the longest bar has `width` characters.
    """
    counts, edges = np.histogram(returns, bins=bins, range=_range(returns))
    labels = [f"{edge:.6g}" for edge in edges]
    label_width = max(map(len, labels))
    count_width = len(str(counts.max()))
    return "\n".join(
        f"{low:>{label_width}} to {high:>{label_width}}  {count:>{count_width}}  "
        f"{'#' * -(-count * width // max(counts.max(), 1))}".rstrip()
        for low, high, count in zip(labels[:-1], labels[1:], counts, strict=True)
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    """What bins are to cover: values that differ by rounding alone are one value."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        half = 0.5 * max(1.0, abs(low) * 1e-3)
        return low - half, high + half
    return low, high


def write_histograms(path: Path, store: EpisodeStore, *, title: str) -> None:
    """Writes a PNG with histograms of return and of length, in episodes a bin.

    Raises:
      ValueError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, label in (
        (left, store.returns, "return, undiscounted"),
        (right, store.lengths, "length, environment steps"),
    ):
        axes.hist(values, bins=30, range=_range(values), color="#0072B2")
        axes.axvline(float(np.median(values)), color="#D55E00", label="median")
        axes.set(xlabel=label, ylabel="episodes")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    steps = int(store.offsets[-1])
    figure.suptitle(f"{title}: {len(store)} episodes, {steps} steps")
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise ValueError(
            f"{path}: expected a place to write a picture to, found {error.strerror}"
        ) from error
