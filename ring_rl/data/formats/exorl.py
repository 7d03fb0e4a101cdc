"""ExoRL's folders of episode files as episodes.

`{domain}/{explorer}/buffer/episode_{index:06d}_{length}.npz` holds arrays of length + 1
rows. Row 0 is the reset; row i + 1 of `action`, `reward` and `discount` is what
happened between rows i and i + 1 of `observation`.

Source: Yarats et al. 2022, ExoRL, arXiv 2201.13425.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ring_rl.data.formats.archives import Archive, open_npz
from ring_rl.types import Continuous, Episode, Spaces

_FILE_NAME = re.compile(r"episode_(\d{1,12})_(\d{1,9})\.npz")
_CORE = ("observation", "action", "reward", "discount")


class _File(NamedTuple):
    """An episode's file and what its name says."""

    number: int
    length: int
    path: Path


class _Layout(NamedTuple):
    """Widths, and type and shape of a row of every further array."""

    observation: int
    action: int
    extras: dict[str, tuple[np.dtype, tuple[int, ...]]]


def open_exorl(
    folder: Path,
    *,
    action_bounds: tuple[float, float] = (-1.0, 1.0),
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a folder, and its episodes by index, a file at a time.

    An episode is `terminated` iff its last discount is 0, else `truncated`. Its id is
    the file's index. `physics` and further arrays become extras: row i is what was
    there *after* action i, which is what a reward reads. Numbers stored as float64
    are rounded to float32, but for the extras.

    Args:
      folder: `buffer`, or the folder that it lies in.
      action_bounds: of every action column; dm_control's are -1 to 1.
      task: name of the task; the domain's, two folders above `buffer`, unless given.

    Raises:
      ValueError: if there is no episode, the first one's file is not in that layout,
        or no folder names the domain; for the other files when they are reached.
    """
    folder = Path(folder)
    buffer = folder / "buffer" if (folder / "buffer").is_dir() else folder
    files = _files(buffer)
    with open_npz(files[0].path) as archive:
        layout = _layout(archive, files[0].length)
    low, high = action_bounds
    spaces = Spaces(
        layout.observation,
        Continuous((float(low),) * layout.action, (float(high),) * layout.action),
    )
    where = buffer.resolve()
    above = where.parent.parent if where.name == "buffer" else where
    name = task or above.name
    if not name:
        raise ValueError(
            f"{where}: expected a folder above that names the task, as in "
            "DOMAIN/EXPLORER/buffer, found none; give the task"
        )
    return spaces, (_episode(file, layout, name) for file in files)


def _files(buffer: Path) -> list[_File]:
    """The episode files of a folder by index."""
    if not buffer.is_dir():
        found = "a file" if buffer.exists() else "nothing"
        raise ValueError(f"{buffer}: expected a folder of episodes, found {found}")
    files = [
        _File(int(match[1]), int(match[2]), path)
        for path in buffer.iterdir()
        if (match := _FILE_NAME.fullmatch(path.name))
    ]
    if not files:
        raise ValueError(
            f"{buffer}: expected files episode_INDEX_LENGTH.npz, found none"
        )
    files.sort()
    for file, following in zip(files[:-1], files[1:], strict=True):
        if file.number == following.number:
            raise ValueError(
                f"{following.path}: expected one file of index {file.number}, found "
                f"{file.path.name} too"
            )
    return files


def _layout(archive: Archive, length: int) -> _Layout:
    """Checks the headers of an episode's file; no array is unpacked."""
    headers = archive.headers
    for name in _CORE:
        if name not in headers:
            found = f"only {', '.join(sorted(headers))}"
            raise archive.mismatch(name, "an array", found)
    rows = length + 1
    for name, header in headers.items():
        if header.dtype.kind not in ("f" if name in _CORE else "biuf"):
            raise archive.mismatch(name, "floating-point numbers", header)
        if header.shape[:1] != (rows,) or length < 1:
            expected = f"{rows} rows, from 2, as the file's name says"
            raise archive.mismatch(name, expected, header)
    for name in ("observation", "action"):
        if len(headers[name].shape) != 2 or not headers[name].shape[1]:
            raise archive.mismatch(name, f"[{rows} width] numbers", headers[name])
    for name in ("reward", "discount"):
        if headers[name].shape not in ((rows,), (rows, 1)):
            raise archive.mismatch(name, f"[{rows} 1] numbers", headers[name])
    return _Layout(
        observation=headers["observation"].shape[1],
        action=headers["action"].shape[1],
        extras={
            name: (header.dtype.newbyteorder("="), header.shape[1:])
            for name, header in sorted(headers.items())
            if name not in _CORE
        },
    )


def _episode(file: _File, layout: _Layout, task: str) -> Episode:
    """Reads an episode's file, which must be laid out as the first one."""
    with open_npz(file.path) as archive:
        found = _layout(archive, file.length)
        if found != layout:
            raise ValueError(
                f"{file.path}: expected arrays as in the first episode, "
                f"{_text(layout)}, found {_text(found)}"
            )
        values = {name: _finite(archive, name) for name in _CORE}
        extras = {name: archive.read(name)[1:] for name in layout.extras}
    discounts = values["discount"].reshape(-1)[1:]
    terminated = bool(discounts[-1] == 0)
    return Episode(
        observations=values["observation"][:-1],
        actions=values["action"][1:],
        rewards=values["reward"].reshape(-1)[1:],
        discounts=discounts,
        final_observation=values["observation"][-1],
        has_final_observation=True,
        terminated=terminated,
        truncated=not terminated,
        task=task,
        episode_id=file.number,
        extras=extras,
    )


def _finite(archive: Archive, name: str) -> np.ndarray:
    """An array as float32, all of it finite."""
    with np.errstate(over="ignore"):  # too large for float32: not finite, and so found
        values = archive.read(name).astype(np.float32, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        found = f"{values[tuple(where)]} in row {where[0]}"
        raise archive.mismatch(name, "finite float32 numbers", found)
    return values


def _text(layout: _Layout) -> str:
    extras = [
        f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in layout.extras.items()
    ]
    widths = [f"observation [{layout.observation}]", f"action [{layout.action}]"]
    return ", ".join(widths + extras)
