"""What episodes' extras were at their resets, in a file beside a dataset's records.

Row i of an extra is what was there after action i; what was there before the first
action has no row. ExoRL's files have one for it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.formats.archives import open_npz

RESETS_NAME = "resets.npz"


def write_resets(directory: Path, resets: Sequence[dict[str, np.ndarray]]) -> Path:
    """Writes the file, one entry an episode in their order; returns its path."""
    path = directory / RESETS_NAME
    arrays: dict[str, Any] = {
        name: np.array([reset[name] for reset in resets]) for name in resets[0]
    }
    np.savez(path, **arrays)
    return path


def read_resets(directory: Path, episodes: int) -> dict[str, np.ndarray]:
    """`[episodes ...]` by the extra's name; empty where there is no file.

    Raises:
      ValueError: it is not of so many episodes.
    """
    path = directory / RESETS_NAME
    if not path.is_file():
        return {}
    with open_npz(path) as archive:
        for name, header in archive.headers.items():
            if header.shape[:1] != (episodes,):
                raise archive.mismatch(name, f"{episodes} rows, one an episode", header)
        return {name: archive.read(name) for name in archive.headers}


def copy_resets(source: Path, directory: Path) -> list[Path]:
    """Copies the file, if there is one, to a dataset of the same episodes."""
    if not (source / RESETS_NAME).is_file():
        return []
    return [Path(shutil.copyfile(source / RESETS_NAME, directory / RESETS_NAME))]
