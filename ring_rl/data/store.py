"""Datasets as flat arrays in files that are mapped, not read.

`open_store` maps the arrays of an RLDS dataset, which lie in a folder beside its
records, and makes them in one pass over the records where there are none yet. Opening
costs the same for any size; memory holds what is looked at. In a dataset that cannot be
written to, the arrays go to `$RING_RL_CACHE`, by default `~/.cache/ring_rl`.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.episodes import EpisodeStore, StoreBuilder
from ring_rl.data.manifest import MANIFEST_NAME, spaces_from_json, spaces_to_json
from ring_rl.data.moments import Moments
from ring_rl.data.rlds import open_rlds
from ring_rl.data.staging import staged_directory
from ring_rl.types import Discrete, Spaces

ARRAYS_NAME = "arrays"
_INDEX = "index.json"
_FORMAT = 1
_PER_EPISODE = (
    "offsets",
    "final_observations",
    "has_final_observation",
    "terminated",
    "truncated",
    "tasks",
    "episode_ids",
)


def open_store(
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeStore:
    """The episodes of an RLDS dataset, their arrays mapped from files.

    Args:
      directory: of the dataset.
      action_bounds: as `open_rlds`.
      task: as `open_rlds`.
      progress: called with the episodes and steps read so far while arrays are made.

    Raises:
      ValueError: as `open_rlds`, or naming the array that is not what it should be.
    """
    directory = Path(directory)
    identity = _identity(directory, action_bounds, task)
    places = [directory / ARRAYS_NAME, _cache() / identity[:32]]
    for place in places:
        if _index_of(place, identity) is not None:
            return _map(place, identity)
    spaces, episodes = open_rlds(directory, action_bounds=action_bounds, task=task)
    place = places[0] if os.access(directory, os.W_OK) else places[1]
    with staged_directory(place, overwrite=True, marker=_INDEX) as staging:
        builder = StoreBuilder(spaces, lambda name, like: _OnDisk(staging, name, like))
        steps = 0
        for count, episode in enumerate(episodes):
            builder.add(episode)
            steps += len(episode.rewards)
            if progress is not None:
                progress(count + 1, steps)
        _write_index(staging, builder.build(), identity)
    return _map(place, identity)


class _OnDisk:
    """A column that is a .npy file from the start."""

    def __init__(self, folder: Path, name: str, like: np.ndarray):
        self._path = folder / _file_name(name)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._row, self._dtype, self._count = like.shape[1:], like.dtype, 0
        self._file = self._path.open("w+b")
        self._write_header()

    def _write_header(self) -> None:
        """The header; NumPy leaves room in it for the number of rows to grow."""
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._row),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values).data)
        self._count += len(values)

    def finish(self) -> np.ndarray:
        end = self._file.tell()
        self._write_header()
        self._file.close()
        assert self._path.stat().st_size == end
        return _mapped(self._path)


def _file_name(name: str) -> str:
    """Of the array of that name; slashes of an extra array are no folders."""
    return name.replace("%", "%25").replace("/", "%2F") + ".npy"


def _mapped(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped, as a plain array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a NumPy array, found {reason}") from error


def _identity(
    directory: Path, action_bounds: tuple[float, float] | None, task: str | None
) -> str:
    """Hash of what the arrays depend on: the records, by manifest or by their files.

    A manifest has the hash of every record file. Without one, names, sizes and times
    of change must do.
    """
    manifest = directory / MANIFEST_NAME
    if manifest.is_file():
        records: Any = hashlib.sha256(manifest.read_bytes()).hexdigest()
    else:
        files = sorted(path for path in directory.glob("*") if path.is_file())
        records = [str(directory.resolve())]
        records += [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    text = json.dumps([_FORMAT, records, action_bounds, task])
    return hashlib.sha256(text.encode()).hexdigest()


def _cache() -> Path:
    given = os.environ.get("RING_RL_CACHE")
    base = Path(given) if given else Path.home() / ".cache" / "ring_rl"
    return base / "stores"


def _write_index(folder: Path, store: EpisodeStore, identity: str) -> None:
    """Writes the per-episode arrays and the file that says what there is."""
    for name in _PER_EPISODE:
        np.save(folder / _file_name(name), getattr(store, name), allow_pickle=False)
    index = {
        "identity": identity,
        "steps": int(store.offsets[-1]),
        "episodes": len(store),
        "spaces": spaces_to_json(store.spaces),
        "extras": sorted(store.extras),
        "observation_mean": store.moments.mean.tolist(),
        "observation_variance": store.moments.variance.tolist(),
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _index_of(folder: Path, identity: str) -> dict[str, Any] | None:
    """The index of a folder, or None where it is not of these records."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = isinstance(index, dict) and index.get("identity") == identity
    return index if fits else None


def _map(folder: Path, identity: str) -> EpisodeStore:
    """The store of a folder of arrays.

    Raises:
      ValueError: an array is missing, or is not what the index and the others say.
    """
    index = _index_of(folder, identity)
    if index is None:
        raise ValueError(f"{folder}: expected the arrays just made, found others")
    try:
        spaces = spaces_from_json(index["spaces"])
        steps, episodes = int(index["steps"]), int(index["episodes"])
        extras = [str(name) for name in index["extras"]]
        moments = Moments(
            steps,
            np.asarray(index["observation_mean"], np.float64),
            np.asarray(index["observation_variance"], np.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / _INDEX}: expected the index of a store, found {error!r}; "
            "remove the folder, it is made again"
        ) from error
    arrays: dict[str, Any] = {}
    for name, (dtype, shape) in _expected(spaces, steps, episodes).items():
        values = arrays[name] = _mapped(folder / _file_name(name))
        if values.shape != shape or (dtype and values.dtype != dtype):
            raise _odd(folder, name, f"{dtype or 'text'} {list(shape)}",
                       f"{values.dtype} {list(values.shape)}")  # fmt: skip
    if arrays["tasks"].dtype.kind != "U":
        raise _odd(folder, "tasks", "text", arrays["tasks"].dtype)
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != steps or (np.diff(offsets) < 1).any():
        raise _odd(folder, "offsets", f"increasing from 0 to {steps}", "others")
    others = {name: _mapped(folder / _file_name(f"extras/{name}")) for name in extras}
    for name, values in others.items():
        if values.shape[:1] != (steps,):
            expected, found = f"{steps} rows", list(values.shape)
            raise _odd(folder, f"extras/{name}", expected, found)
    return EpisodeStore(spaces=spaces, **arrays, extras=others, kept_moments=moments)


def _expected(
    spaces: Spaces, steps: int, episodes: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of a store's arrays by name; texts may be of any width."""
    width, action = spaces.observation, spaces.action
    discrete = isinstance(action, Discrete)
    return {
        "observations": ("float32", (steps, width)),
        "actions": (
            ("int32", (steps,)) if discrete else ("float32", (steps, action.size))
        ),
        "rewards": ("float32", (steps,)),
        "discounts": ("float32", (steps,)),
        "past_rewards": ("float64", (steps,)),
        "offsets": ("int64", (episodes + 1,)),
        "final_observations": ("float32", (episodes, width)),
        "has_final_observation": ("bool", (episodes,)),
        "terminated": ("bool", (episodes,)),
        "truncated": ("bool", (episodes,)),
        "tasks": ("", (episodes,)),
        "episode_ids": ("int64", (episodes,)),
    }


def _odd(folder: Path, name: str, expected: object, found: object) -> ValueError:
    return ValueError(
        f"{folder / _file_name(name)}: expected {expected}, found {found}; remove the "
        "folder, it is made again"
    )
