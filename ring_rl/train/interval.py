"""The metrics of updates that no line of `metrics.jsonl` holds yet.

They stay on the devices until a line or a checkpoint needs them, so that no update
waits for the one before. A checkpoint between two lines keeps them, value by value: a
mean of a line is then over the same numbers whether the run was stopped or not.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SKIPPED = "skipped"


class Interval:
    """Metrics of consecutive updates, in their order."""

    def __init__(self, first: int, kept: Sequence[dict[str, float]] = ()):
        """`first` is the number of its first update; `kept` are those known already."""
        self.first = first
        self._metrics: list[dict[str, Any]] = [dict(one) for one in kept]

    def __len__(self) -> int:
        """Updates in it."""
        return len(self._metrics)

    def add(self, metrics: dict[str, Any]) -> None:
        """Takes the metrics of the next update; does not wait for them."""
        self._metrics.append(metrics)

    def values(self) -> list[dict[str, float]]:
        """All metrics as numbers; waits for the updates that they are of.

        Of an update that was skipped only that is left: its numbers mean nothing.
        """
        for index, metrics in enumerate(self._metrics):
            found = {name: float(np.float64(metrics[name])) for name in sorted(metrics)}
            if found.get(SKIPPED):
                found = {SKIPPED: 1.0}
            self._metrics[index] = found
        return list(self._metrics)

    def broken(self) -> tuple[int, list[str]] | None:
        """The first update with a metric that is no finite number, and which are not.

        None where there is none; updates that were skipped do not count.
        """
        for index, metrics in enumerate(self.values()):
            names = [name for name in metrics if not math.isfinite(metrics[name])]
            if names:
                return self.first + index, names
        return None

    def skipped(self) -> list[int]:
        """Numbers of the updates that were skipped."""
        found = enumerate(self.values())
        return [self.first + i for i, metrics in found if metrics.get(SKIPPED)]

    def means(self) -> dict[str, float]:
        """Means in f64 over the updates that were applied, by name.

        `skipped` is a number, not a mean; where all were, it is the only entry.
        """
        values = self.values()
        names = sorted({name for metrics in values for name in metrics})
        found = {}
        for name in names:
            numbers = [metrics[name] for metrics in values if name in metrics]
            of = np.sum if name == SKIPPED else np.mean
            found[name] = float(of(np.array(numbers, np.float64)))
        return found
