"""Where a dataset is from, as a line of text, and files that go with its records."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ring_rl.data.manifest import MANIFEST_NAME, sha256
from ring_rl.data.store import ARRAYS_NAME


def provenance(source: Path) -> str:
    """The name of a source and its hash; no path of the machine.

    A folder's hash is over the names and the hashes of all files below it, but for the
    arrays that ring_rl has made of a dataset's records: the SHA-256 of what `sha256sum`
    prints about them, sorted by name.

    Raises:
      ValueError: if there is nothing at that path.
    """
    if source.is_file():
        return f"{source.name} sha256 {sha256(source)}"
    if not source.is_dir():
        raise ValueError(f"{source}: expected a file or a folder, found nothing")
    files = {
        path.relative_to(source).as_posix(): path
        for path in source.rglob("*")
        if path.is_file() and source / ARRAYS_NAME not in path.parents
    }
    lines = "".join(f"{sha256(files[name])}  {name}\n" for name in sorted(files))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return f"{source.resolve().name} ({len(files)} files) sha256 {digest}"


def add_to_manifest(directory: Path, files: Sequence[Path]) -> None:
    """Lists further files of a dataset in its manifest, so that they are checked too.

    Raises:
      ValueError: if the dataset has no manifest.
    """
    with _changed_manifest(directory) as manifest:
        for file in files:
            entry = {"bytes": file.stat().st_size, "sha256": sha256(file)}
            manifest["files"][file.name] = entry


def describe_in_manifest(directory: Path, key: str, value: dict[str, Any]) -> None:
    """Adds what is to be known about a dataset to its manifest, as JSON has it.

    Raises:
      ValueError: if the dataset has no manifest.
    """
    with _changed_manifest(directory) as manifest:
        manifest[key] = value


@contextlib.contextmanager
def _changed_manifest(directory: Path) -> Iterator[dict[str, Any]]:
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(f"{path}: expected a manifest, found none")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    yield manifest
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
