"""The description of a Minari dataset, `metadata.json`, read without the library."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ring_rl.types import ActionSpace, Continuous, Discrete

_LARGEST_BYTES = 1 << 26  # of the file
_MOST_ACTIONS = 1 << 16


class Metadata(NamedTuple):
    """What of the description is needed: ids, counts, and the space of the actions."""

    dataset_id: str
    episodes: int
    action: ActionSpace


def read_metadata(
    path: Path, action_bounds: tuple[float, float] | None = None
) -> Metadata:
    """Reads a description; the bounds replace those of continuous actions.

    Raises:
      ValueError: if it is not that of a dataset in HDF5 form, or the actions are
        neither discrete from 0 nor made of boxes with finite bounds.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a Minari dataset's file, found none")
    size = path.stat().st_size
    if size > _LARGEST_BYTES:
        raise ValueError(
            f"{path}: expected {_LARGEST_BYTES} bytes at most, found {size}"
        )
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        space = json.loads(metadata["action_space"])
        episodes = int(metadata["total_episodes"])
        form = metadata.get("data_format", "hdf5")
        dataset_id = str(metadata.get("dataset_id") or "")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"{path}: expected JSON with total_episodes and action_space, found "
            f"{reason}"
        ) from error
    if form != "hdf5":
        raise ValueError(f"{path}: data_format: expected hdf5, found {form!r}")
    return Metadata(dataset_id, episodes, _action_space(space, action_bounds, path))


def _action_space(
    space: Any, given: tuple[float, float] | None, path: Path
) -> ActionSpace:
    """The space of the actions as `metadata.json` describes it.

    Raises:
      ValueError: if it is neither discrete from 0 nor made of boxes, or has no bounds.
    """
    try:
        if space["type"] == "Discrete":
            if space["start"] == 0 and 1 <= space["n"] <= _MOST_ACTIONS:
                return Discrete(int(space["n"]))
            raise ValueError(f"{space['n']!r} actions from {space['start']!r}")
        low, high = np.concatenate(_boxes(space), axis=1)
    except (AttributeError, KeyError, OverflowError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: action_space: expected a space, {found}") from error
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: action_space: expected boxes, or at most {_MOST_ACTIONS} actions "
            f"from 0, found {reason}"
        ) from error
    if given is not None:
        low, high = (np.full(len(low), bound) for bound in given)
    with np.errstate(over="ignore"):
        low, high = low.astype(np.float32), high.astype(np.float32)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(
            f"{path}: action_space: expected finite bounds low < high (give them with "
            f"action bounds), found {low.tolist()} and {high.tolist()}"
        )
    return Continuous(tuple(low.tolist()), tuple(high.tolist()))


def _boxes(space: Any) -> list[Float64[np.ndarray, "2 width"]]:
    """The bounds of every box of a space, in the order in which they are flattened."""
    if space["type"] == "Box":
        bounds = [np.ravel(space["low"]), np.ravel(space["high"])]
        return [np.asarray(bounds, np.float64)]
    if space["type"] == "Dict":
        below = [space["subspaces"][name] for name in sorted(space["subspaces"])]
    elif space["type"] == "Tuple":
        below = list(space["subspaces"])
    else:
        raise ValueError(str(space["type"]))
    return [box for one in below for box in _boxes(one)]
