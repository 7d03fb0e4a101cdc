"""What of a D4RL file is not in its episodes, kept so that an export gives it back.

The template of a file is the file without its rows: every dataset that has a row a step
with its name, type, chunks and attributes, and no rows; all others, `metadata/*` among
them, and the attributes of the file as they are. It also holds, in a group of ring_rl's
own, the rows whose timeouts differ from the truncated ends of the episodes: a last
episode that no flag ends, for one; and the names of texts a step, which are lost.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool

from ring_rl.data.formats.d4rl_layout import read_boundaries, read_layout, timeout_rows
from ring_rl.data.formats.hdf5 import (
    dataset,
    datasets_below,
    mismatch,
    naming_damage,
    open_hdf5,
)

TEMPLATE_NAME = "d4rl_template.hdf5"
_OWN = "ring_rl"
_TIMEOUTS = f"{_OWN}/differing_timeouts"
_LARGEST_OTHER = 1 << 26  # bytes of a dataset that is copied as it is


def write_template(
    source: Path, template: Path, *, max_episode_steps: int | None = None
) -> None:
    """Writes the template of a D4RL file that was cut up with that limit.

    Raises:
      ValueError: if the file is not in D4RL's schema, or holds what cannot be kept:
        references to objects, data of a type of its own.
    """
    with open_hdf5(source) as file:
        layout = read_layout(file)
        boundaries = read_boundaries(file, layout, max_episode_steps)
        cut = boundaries.ends[boundaries.truncated] - 1
        differing = np.setxor1d(cut, timeout_rows(file, layout))
        per_step = ["observations", "actions", "rewards", "terminals", *layout.extras]
        if layout.has_timeouts:
            per_step.append("timeouts")
        if layout.has_next_observations:
            per_step.append("next_observations")
        with naming_damage(file, "attributes"), h5py.File(template, "w") as out:
            _copy_attributes(file, out)
            for name in per_step:
                with naming_damage(file, name):
                    _copy_without_rows(dataset(file, name), out, name)
            for name in layout.others:
                _check_other(file, name)
                with naming_damage(file, name):
                    file.copy(file[name], out, name=name)
            _copy_group_attributes(file, out, [*per_step, *layout.others])
            out[_TIMEOUTS] = differing
            out[_TIMEOUTS].attrs["steps"] = layout.steps
            out[_TIMEOUTS].attrs["datasets"] = per_step
            out[_TIMEOUTS].attrs["left_out"] = layout.texts


def start_from_template(template: Path, out: h5py.File) -> dict[str, h5py.Dataset]:
    """Copies a template into a new file; the datasets with no rows yet, by name.

    Raises:
      ValueError: if the template cannot be read.
    """
    with open_hdf5(template) as file, naming_damage(file, "template"):
        for name in datasets_below(file):
            dataset(file, name)  # refuses what would be copied from elsewhere
        _copy_attributes(file, out)
        for name in file:
            if name != _OWN:
                file.copy(file[name], out, name=name)
        names: Any = dataset(file, _TIMEOUTS).attrs["datasets"]
        return {str(name): dataset(out, str(name)) for name in names}


def left_out(template: Path) -> list[str]:
    """The names of the file's datasets that neither template nor dataset has.

    Raises:
      ValueError: if the template cannot be read.
    """
    with open_hdf5(template) as file, naming_damage(file, _TIMEOUTS):
        names: Any = dataset(file, _TIMEOUTS).attrs.get("left_out", ())
        return [str(name) for name in names]


def restore_timeouts(
    template: Path, truncated: Bool[np.ndarray, " steps"]
) -> Bool[np.ndarray, " steps"]:
    """The file's own timeouts, from the flags of the steps that ended cut episodes.

    Raises:
      ValueError: if the template is of a file with another number of steps.
    """
    with open_hdf5(template) as file:
        with naming_damage(file, _TIMEOUTS):
            item: Any = dataset(file, _TIMEOUTS)
            steps, rows = item.attrs["steps"], item[()]
        if steps != len(truncated) or (len(rows) and rows.max() >= steps):
            raise mismatch(file, _TIMEOUTS, f"{len(truncated)} steps", f"{steps}")
    timeouts = truncated.copy()
    timeouts[rows] ^= True
    return timeouts


def _copy_without_rows(item: h5py.Dataset, out: h5py.File, name: str) -> None:
    """Creates a dataset that can grow, like another one but for its rows."""
    new = out.create_dataset(
        name,
        shape=(0, *item.shape[1:]),
        maxshape=(None, *item.shape[1:]),
        dtype=item.dtype,
        chunks=item.chunks or True,
        compression=item.compression,
        compression_opts=item.compression_opts,
        shuffle=item.shuffle,
    )
    _copy_attributes(item, new)


def _copy_attributes(source: Any, target: Any) -> None:
    """Copies the attributes of a file, group or dataset."""
    for name in source.attrs:
        kind = source.attrs.get_id(name)
        target.attrs.create(name, source.attrs[name], dtype=kind.dtype)


def _copy_group_attributes(file: h5py.File, out: h5py.File, names: list[str]) -> None:
    """Copies the attributes of the groups that these datasets lie in."""
    groups = {name.rpartition("/")[0] for name in names} - {""}
    parents = {
        "/".join(group.split("/")[:depth])
        for group in groups
        for depth in range(1, group.count("/") + 2)
    }
    for group in sorted(parents):
        _copy_attributes(file[group], out[group])


def _check_other(file: h5py.File, name: str) -> None:
    """Refuses a dataset that cannot be copied as it is, or is too large for that."""
    item = dataset(file, name)
    text = h5py.check_string_dtype(item.dtype) is not None
    if not text and item.dtype.kind not in "biufc":
        raise mismatch(file, name, "numbers or text", item)
    if item.nbytes > _LARGEST_OTHER:
        raise mismatch(file, name, f"{_LARGEST_OTHER} bytes at most", item)
    if name.split("/")[0] == _OWN:
        raise mismatch(file, name, "another name", "one that ring_rl uses itself")
