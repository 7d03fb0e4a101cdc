"""The first and the last trial of some rows, as moving pictures and as strips.

A folder gets, for each row r, `row-r_trial-1.gif` and that of the last trial (trials
are counted from 1, rows from 0), and `strip_row-r.png`: pictures of both trials at
equal distances in time, one trial above the other.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from ring_rl.evaluate.report import write_bytes

# Of an episode at most, and of a strip's line; rows of pixels at most.
_PICTURES, _IN_STRIP, _HEIGHT = 60, 8, 200
_MILLISECONDS = 100  # that a moving picture shows each


class Drawn(Protocol):
    """An environment whose rows can be drawn, such as `envs.GymnasiumRows`."""

    max_episode_steps: int

    def show(self, rows: Sequence[int]) -> None:
        """Makes ready to draw these rows, before their first reset."""
        ...

    def render(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of a row."""
        ...


class _Shot(NamedTuple):
    """A picture, and how many steps its episode had by then."""

    step: int
    picture: UInt8[np.ndarray, "height width 3"]


class Film:
    """Takes pictures as `rollout` goes on, whose `watch` it is."""

    def __init__(self, environment: Any, rows: Sequence[int], *, trials: int) -> None:
        """Of rows of an environment that is a `Drawn` and was not reset yet.

        Raises:
          ValueError: it draws no pictures.
        """
        environment.show(rows)
        self._environment, self._rows = environment, list(rows)
        # By row and number of the trial, counted from 0.
        self._shots: dict[tuple[int, int], list[_Shot]] = {
            (row, trial): [] for row in rows for trial in sorted({0, trials - 1})
        }
        self._steps = dict.fromkeys(self._shots, -1)
        self._every = math.ceil(environment.max_episode_steps / _PICTURES)

    def __call__(
        self,
        trial: Int[np.ndarray, " B"],
        rows: Bool[np.ndarray, " B"],
        ended: Bool[np.ndarray, " B"],
    ) -> None:
        """Draws what is due: the start and the end of an episode, and some between.

        Raises:
          ValueError: there is nothing that can draw.
        """
        for row in self._rows:
            key = row, int(trial[row])
            if not rows[row] or key not in self._shots:
                continue
            self._steps[key] += 1
            if self._steps[key] % self._every == 0 or ended[row]:
                picture = _smaller(self._environment.render(row))
                self._shots[key].append(_Shot(self._steps[key], picture))

    def write(self, folder: Path, returns: Float[np.ndarray, "rows trials"]) -> None:
        """Writes the files; `returns` are told beside the strips."""
        folder.mkdir(parents=True, exist_ok=True)
        for (row, trial), shots in self._shots.items():
            write_bytes(folder / f"row-{row}_trial-{trial + 1}.gif", _moving(shots))
        for row in self._rows:
            lines = [
                (f"trial {trial + 1}, return {returns[row, trial]:.4g}", shots)
                for (other, trial), shots in self._shots.items()
                if other == row
            ]
            write_bytes(folder / f"strip_row-{row}.png", _strip(lines))


def _smaller(
    picture: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "lower narrower 3"]:
    height, width = picture.shape[:2]
    if height <= _HEIGHT:
        return picture
    size = round(width * _HEIGHT / height), _HEIGHT
    return np.asarray(Image.fromarray(picture).resize(size))


def _moving(shots: Sequence[_Shot]) -> bytes:
    """An animated GIF that repeats."""
    images = [Image.fromarray(shot.picture).quantize(64) for shot in shots]
    file = io.BytesIO()
    images[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=_MILLISECONDS,
        loop=0,
    )
    return file.getvalue()


def _strip(lines: Sequence[tuple[str, Sequence[_Shot]]]) -> bytes:
    """A PNG: one line of pictures an episode, with the step below each."""
    # A figure of its own: pyplot would keep it, and choose a window to show it in.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * _IN_STRIP, 2.1 * len(lines)), layout="constrained")
    parts = figure.subfigures(len(lines), 1, squeeze=False)[:, 0]
    for part, (title, shots) in zip(parts, lines, strict=True):
        part.suptitle(title, fontsize="medium")
        chosen = np.unique(
            np.linspace(0, len(shots) - 1, _IN_STRIP).round().astype(int)
        )
        axes = part.subplots(1, _IN_STRIP, squeeze=False)[0]
        for axis in axes:
            axis.set_axis_off()
        for axis, index in zip(axes, chosen, strict=False):
            axis.imshow(shots[index].picture)
            axis.set_title(f"step {shots[index].step}", fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
