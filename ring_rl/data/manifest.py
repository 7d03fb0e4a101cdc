"""The manifest beside a dataset's record files: where it is from and what is in it."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ring_rl.types import Continuous, Discrete, Spaces
from ring_rl.version import __version__

MANIFEST_NAME = "ring_rl_manifest.json"
_LARGEST_BYTES = 16 << 20  # a manifest is a few kB, and 150 bytes a record file
_LIBRARIES = ("array-record", "numpy", "tensorflow-datasets")
_QUANTILES = {
    "min": 0.0,
    "5%": 0.05,
    "25%": 0.25,
    "50%": 0.5,
    "75%": 0.75,
    "95%": 0.95,
    "max": 1.0,
}


def write_manifest(
    directory: Path,
    *,
    name: str,
    source: str,
    reader: str,
    spaces: Spaces,
    returns: Float64[np.ndarray, " episodes"],
    lengths: Int64[np.ndarray, " episodes"],
    records: list[Path],
) -> None:
    """Writes the manifest of a dataset whose record files are `records`.

    No time of day and no path of the machine: the same source gives the same bytes.
    """
    manifest = {
        "format": 1,
        "name": name,
        "source": source,
        "reader": reader,
        "versions": {
            "ring_rl": __version__,
            "python": platform.python_version(),
            **{library: importlib.metadata.version(library) for library in _LIBRARIES},
        },
        "steps": int(lengths.sum()),
        "episodes": len(lengths),
        "spaces": spaces_to_json(spaces),
        "return_quantiles": quantiles(returns),
        "length_quantiles": quantiles(lengths),
        "files": {
            record.name: {"bytes": record.stat().st_size, "sha256": sha256(record)}
            for record in records
        },
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> dict | None:
    """The manifest of a dataset, or None where it has none (it is someone else's).

    Raises:
      ValueError: if the manifest is not what `write_manifest` writes.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    size = path.stat().st_size
    if size > _LARGEST_BYTES:
        raise ValueError(f"{path}: expected {_LARGEST_BYTES} bytes at most, {size=}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # nested too deep for the parser
        raise ValueError(f"{path}: expected JSON, found {error}") from error
    keys = manifest.keys() if isinstance(manifest, dict) else ()
    missing = [key for key in ("format", "spaces", "files") if key not in keys]
    if missing:
        raise ValueError(f"{path}: expected the keys {missing}, found {sorted(keys)}")
    if manifest["format"] != 1:
        raise ValueError(
            f"{path}: expected format 1, found {manifest['format']!r}; a newer ring_rl "
            "may have written it"
        )
    try:
        spaces_from_json(manifest["spaces"])
        for name, entry in manifest["files"].items():
            if not entry.keys() >= {"bytes", "sha256"}:
                raise ValueError(f"{name}: expected bytes and sha256, found {entry}")
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return manifest


def check_sizes(directory: Path, manifest: dict) -> None:
    """Compares the files with the manifest's sizes; none is opened.

    Raises:
      ValueError: naming the first file that is missing or of another size.
    """
    for name, expected in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise ValueError(
                f"{path}: expected {expected['bytes']} bytes, found no file"
            )
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ValueError(
                f"{path}: expected {expected['bytes']} bytes, found {size}; copy or "
                "import the dataset again"
            )


def check_files(directory: Path, manifest: dict) -> None:
    """Compares the files with the manifest's sizes and hashes.

    Raises:
      ValueError: naming the first file that is missing or altered.
    """
    check_sizes(directory, manifest)
    for name, expected in manifest["files"].items():
        path = directory / name
        found = sha256(path)
        if found != expected["sha256"]:
            raise ValueError(
                f"{path}: expected sha256 {expected['sha256']}, found {found}; copy or "
                "import the dataset again"
            )


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quantiles(
    values: Float64[np.ndarray, " episodes"] | Int64[np.ndarray, " episodes"],
) -> dict[str, float]:
    """Minimum, 5, 25, 50, 75 and 95 %, and maximum, interpolated linearly."""
    points = np.quantile(values, tuple(_QUANTILES.values()))
    return {name: float(point) for name, point in zip(_QUANTILES, points, strict=True)}


def spaces_to_json(spaces: Spaces) -> dict:
    """Spaces as JSON values; `spaces_from_json` is the inverse."""
    action = spaces.action
    if isinstance(action, Discrete):
        return {
            "observation": spaces.observation,
            "action": {"kind": "discrete", "size": action.size},
        }
    return {
        "observation": spaces.observation,
        "action": {
            "kind": "continuous",
            "size": action.size,
            "low": list(action.low),
            "high": list(action.high),
        },
    }


def spaces_from_json(value: dict) -> Spaces:
    """Spaces from what `spaces_to_json` made.

    Raises:
      ValueError: if it is something else.
    """
    try:
        action = value["action"]
        if action["kind"] == "discrete":
            return Spaces(int(value["observation"]), Discrete(int(action["size"])))
        if action["kind"] == "continuous":
            low, high = (tuple(map(float, action[side])) for side in ("low", "high"))
            if len(low) == len(high):
                return Spaces(int(value["observation"]), Continuous(low, high))
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"spaces: expected {error}, found {value!r}") from error
    raise ValueError(
        "spaces: expected a discrete or continuous action with bounds of one length, "
        f"found {value!r}"
    )
