"""From an RLDS dataset to a file or folder in another format."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.formats.array_fields import EXTRAS
from ring_rl.data.formats.d4rl_export import export_d4rl
from ring_rl.data.formats.exorl_export import write_exorl
from ring_rl.data.staging import staged_directory
from ring_rl.data.store import open_store
from ring_rl.types import Discrete

EXPORT_FORMATS = ("d4rl", "npz", "exorl")
_STORE_FIELDS = (
    "observations",
    "actions",
    "rewards",
    "discounts",
    "offsets",
    "final_observations",
    "has_final_observation",
    "terminated",
    "truncated",
    "tasks",
    "episode_ids",
)


def export_dataset(
    directory: Path,
    format: str,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes a dataset to a file or folder that appears complete or not at all.

    `d4rl` gives the file that a dataset was imported from back, dataset by dataset,
    except that observations, actions and rewards were rounded to float32; of any other
    dataset it makes D4RL's schema. `npz` holds the arrays of `EpisodeStore`, which
    `import --format npz` reads without a map of keys; nothing is lost. `exorl` is a
    folder of episode files.

    Args:
      directory: of the dataset.
      format: one of `EXPORT_FORMATS`.
      out: the file; of `exorl` a new folder, or an empty one.
      overwrite: replace the file that stands at `out`.
      progress: called with the episodes and environment steps done so far.

    Returns:
      What the format could not hold, a readable line each.

    Raises:
      ValueError: if there is no such format, something stands at `out`, the dataset
        cannot be read, or the format cannot hold it.
    """
    if format not in EXPORT_FORMATS:
        known = ", ".join(EXPORT_FORMATS)
        raise ValueError(f"format: expected one of {known}, found {format!r}")
    out = Path(out)
    if format == "exorl":
        # Nothing in such a folder says that it is ours to replace.
        if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
            raise ValueError(
                f"{out}: expected a new folder, found an existing one; choose another, "
                "or remove it"
            )
        with staged_directory(out, overwrite=False, marker="") as staging:
            return write_exorl(Path(directory), staging, progress=progress)
    with staged_file(out, overwrite=overwrite) as staging:
        if format == "d4rl":
            return export_d4rl(Path(directory), staging, progress=progress)
        _write_npz(open_store(Path(directory), progress=progress), staging)
        return []


@contextlib.contextmanager
def staged_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields the path of a new file that becomes `path` if the block succeeds.

    It lies beside `path`, so that the last step is one rename. If the block fails it is
    removed.

    Raises:
      ValueError: if something stands at `path` that is not to be replaced, or nothing
        can be written there.
    """
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        kind = "a folder" if path.is_dir() else "one"
        raise ValueError(
            f"{path}: expected no file yet, found {kind}; choose another name, or ask "
            "to overwrite it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ValueError(
            f"{path}: expected a place to write to, found {error.strerror}"
        ) from error
    os.close(handle)
    staging = Path(name)
    try:
        yield staging
        mask = os.umask(0)
        os.umask(mask)
        staging.chmod(0o666 & ~mask)  # as of a file that was simply opened
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def _write_npz(store: EpisodeStore, path: Path) -> None:
    """Writes a store's arrays, as `ring_rl.data.formats.array_fields` has them."""
    action = store.spaces.action
    spaces = (
        {"action_count": np.asarray([action.size])}
        if isinstance(action, Discrete)
        else {
            "action_low": np.asarray(action.low, np.float32),
            "action_high": np.asarray(action.high, np.float32),
        }
    )
    arrays = {name: getattr(store, name) for name in _STORE_FIELDS}
    extras = {f"{EXTRAS}{name}": values for name, values in store.extras.items()}
    arrays |= spaces | extras
    for name, values in arrays.items():
        if values.dtype.hasobject:  # NumPy would pickle it
            raise ValueError(f"{name}: expected numbers or text, found {values.dtype}")
    with path.open("wb") as file:
        np.savez(file, **arrays)
