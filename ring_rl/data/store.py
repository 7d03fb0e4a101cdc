"""Datasets as flat arrays in files that are mapped, not read.

`open_store` maps the arrays of an RLDS dataset, which lie in a folder beside its
records, and makes them in one pass over the records where there are none yet. Opening
costs the same for any size; memory holds what is looked at. In a dataset that cannot be
written to, the arrays go to `$RING_RL_CACHE`, by default `~/.cache/ring_rl`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.array_files import ArrayFile, file_name, map_array
from ring_rl.data.episodes import EpisodeStore, StoreBuilder
from ring_rl.data.manifest import (
    MANIFEST_NAME,
    check_sizes,
    read_manifest,
    sha256,
    spaces_from_json,
    spaces_to_json,
)
from ring_rl.data.moments import Moments
from ring_rl.data.rlds import open_rlds
from ring_rl.data.staging import staged_directory
from ring_rl.types import Discrete, Episode, Spaces

ARRAYS_NAME = "arrays"
_INDEX, _OFFSETS = "index.json", "offsets.npy"
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
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeStore:
    """The episodes of an RLDS dataset, their arrays mapped from files.

    Args:
      directory: of the dataset.
      action_bounds: as `open_rlds`.
      task: as `open_rlds`.
      verify: compare the arrays with the hashes that were taken when they were made;
        this reads them all. Without it sizes, types and offsets are checked.
      progress: called with the episodes and steps read so far while arrays are made.

    Raises:
      ValueError: as `open_rlds` where arrays are made; or naming the array that is not
        what it should be, or the record file that is gone.
    """
    directory = Path(directory)
    identity = _identity(directory, action_bounds, task)
    places = [directory / ARRAYS_NAME, _cache() / identity[:32]]
    for place in places:
        if _index_of(place, identity) is not None:
            return _map(place, identity, verify)
    spaces, episodes = open_rlds(directory, action_bounds=action_bounds, task=task)
    place = places[0] if os.access(directory, os.W_OK) else places[1]
    if (place / _OFFSETS).exists() and not (place / _INDEX).exists():
        raise ValueError(
            f"{place}: expected {_INDEX} beside the arrays, found none; remove the "
            "folder, it is made again"
        )
    try:
        with staged_directory(place, overwrite=True, marker=_INDEX) as staging:
            _fill(staging, spaces, episodes, identity, progress)
    except ValueError:
        # Another process may have made the same meanwhile, which is as good.
        if _index_of(place, identity) is None:
            raise
    return _map(place, identity, verify)


def _fill(
    folder: Path,
    spaces: Spaces,
    episodes: Iterator[Episode],
    identity: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Makes the arrays of these episodes in an empty folder."""
    builder = StoreBuilder(spaces, lambda name, like: ArrayFile(folder, name, like))
    steps = 0
    for count, episode in enumerate(episodes):
        builder.add(episode)
        steps += len(episode.rewards)
        if progress is not None:
            progress(count + 1, steps)
    _write_index(folder, builder.build(), identity)


def _identity(
    directory: Path, action_bounds: tuple[float, float] | None, task: str | None
) -> str:
    """Hash of what the arrays depend on: the records, by manifest or by their files.

    A manifest has the hash of every record file. Without one, names, sizes and times
    of change must do.
    """
    manifest = read_manifest(directory)
    if manifest is not None:
        check_sizes(directory, manifest)
        text = (directory / MANIFEST_NAME).read_bytes()
        records: Any = hashlib.sha256(text).hexdigest()
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
        np.save(folder / file_name(name), getattr(store, name), allow_pickle=False)
    index = {
        "identity": identity,
        "steps": int(store.offsets[-1]),
        "episodes": len(store),
        "spaces": spaces_to_json(store.spaces),
        "extras": sorted(store.extras),
        "sha256": {path.name: sha256(path) for path in sorted(folder.glob("*.npy"))},
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


def _map(folder: Path, identity: str, verify: bool) -> EpisodeStore:
    """The store of a folder of arrays, compared with their hashes if so asked.

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
        hashes = {str(name): str(value) for name, value in index["sha256"].items()}
        moments = Moments(
            steps,
            np.asarray(index["observation_mean"], np.float64),
            np.asarray(index["observation_variance"], np.float64),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / _INDEX}: expected the index of a store, found {error!r}; "
            "remove the folder, it is made again"
        ) from error
    for name, expected in hashes.items() if verify else ():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise ValueError(
                f"{path}: expected the array that was made, found another or none; "
                "remove the folder, it is made again"
            )
    arrays: dict[str, Any] = {}
    for name, (dtype, shape) in _expected(spaces, steps, episodes).items():
        values = arrays[name] = map_array(folder / file_name(name))
        if values.shape != shape or (dtype and values.dtype != dtype):
            raise _odd(folder, name, f"{dtype or 'text'} {list(shape)}",
                       f"{values.dtype} {list(values.shape)}")  # fmt: skip
    if arrays["tasks"].dtype.kind != "U":
        raise _odd(folder, "tasks", "text", arrays["tasks"].dtype)
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != steps or (np.diff(offsets) < 1).any():
        raise _odd(folder, "offsets", f"increasing from 0 to {steps}", "others")
    others = {name: map_array(folder / file_name(f"extras/{name}")) for name in extras}
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
        f"{folder / file_name(name)}: expected {expected}, found {found}; remove the "
        "folder, it is made again"
    )
