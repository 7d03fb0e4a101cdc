"""Recordings of rollouts that an evaluation has beside it: films, strips of pictures.

`ring-rl evaluate --video` writes them into the folder `video` of the evaluation: a GIF
of a trial, `row-R_trial-T.gif`, and a PNG of a row, `strip_row-R.png`. Rows are counted
from 0 in these names, trials from 1.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Of all recordings in one page: beyond it a page is slow to open and hard to send.
LIMIT = 12 * 1024**2
_KINDS = {".gif": "image/gif", ".png": "image/png"}


class Recording(NamedTuple):
    """One recording.

    Attributes:
      path: the file.
      title: what it shows, in words.
      kind: its media type.
      size: in bytes.
    """

    path: Path
    title: str
    kind: str
    size: int

    @property
    def moves(self) -> bool:
        """Whether it is a film; strips stand still."""
        return self.kind == "image/gif"


def find_recordings(evaluation: Path) -> list[Recording]:
    """All recordings of an evaluation's folder: strips first, then films."""
    found = [
        Recording(path, _title(path), _KINDS[path.suffix], path.stat().st_size)
        for path in (evaluation / "video").rglob("*")
        if path.suffix in _KINDS and path.is_file()
    ]
    return sorted(
        found, key=lambda recording: (recording.moves, _order(recording.path))
    )


def within(
    recordings: Sequence[Recording], limit: int
) -> tuple[list[Recording], list[Recording]]:
    """Those that fit into so many bytes, in their order, and those that are left."""
    taken: list[Recording] = []
    left: list[Recording] = []
    for recording in recordings:
        fits = sum(one.size for one in taken) + recording.size <= limit
        (taken if fits else left).append(recording)
    return taken, left


def _order(path: Path) -> tuple[int | str, ...]:
    """Numbers in a name by their size: row-2 before row-10."""
    words = re.split(r"(\d+)", str(path))
    return tuple(int(word) if word.isdecimal() else word for word in words)


def _title(path: Path) -> str:
    """In words, as far as the name says."""
    row, trial = (
        re.search(r"row-(\d+)", path.stem),
        re.search(r"trial-(\d+)", path.stem),
    )
    parts = ["film" if path.suffix == ".gif" else "pictures"]
    parts += [f"rollout {int(row[1]) + 1}"] if row else [path.stem]
    parts += [f"trial {int(trial[1])}"] if trial else []
    return ", ".join(parts)
