"""The two JSON files of a prepared TFDS dataset, read without `tensorflow_datasets`.

`features.json` says what a record holds, `dataset_info.json` which record files there
are. TFDS's own classes for them take half a second to import, and raise anything.
"""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.rlds.record_files import READERS

DATASET_MARKER = "dataset_info.json"
FEATURES_NAME = "features.json"
_LARGEST_FILE = 4 << 20  # bytes; TFDS writes a few kB, and a few per record file
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_ENCODINGS = ("none", "bytes", "zlib")
_TYPES = {
    name: np.dtype(name)
    for name in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "float16 float32 float64".split()
}


@dataclasses.dataclass(frozen=True)
class Feature:
    """A numeric array of one shape in every step, or every episode.

    Attributes:
      shape: of one step's.
      dtype: in native byte order.
      encoding: `none` (numbers), or a string a step: its `bytes`, or these by `zlib`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    encoding: str

    @functools.cached_property
    def size(self) -> int:
        """Numbers in one step."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A record file and how many records it has."""

    path: Path
    records: int


def read_features(directory: Path) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """The numeric features of a step, and of an episode, by name.

    Nested names are joined with slashes. Text, images, and arrays whose shape differs
    from step to step are left out.

    Raises:
      ValueError: if the file is not what TFDS writes for episodes of steps.
    """
    path = directory / FEATURES_NAME
    with _naming(path):
        top = _children(_read_json(path))
        if top is None or "steps" not in top:
            raise ValueError(
                "expected episodes with the feature 'steps', found "
                f"{None if top is None else sorted(top)}"
            )
        kind, steps = _kind(top.pop("steps"))
        length = steps.get("length") if kind == "sequence" else 0
        if length is not None and _integer(length) != -1:
            raise ValueError(
                f"steps: expected a dataset of any length, found {kind} of {length}"
            )
        return dict(_numeric(steps["feature"])), dict(_numeric(top))


def _numeric(node: Any, prefix: str = "") -> Iterator[tuple[str, Feature]]:
    """The numeric features at and below a node."""
    children = _children(node)
    if children is not None:
        for name, child in sorted(children.items()):
            yield from _numeric(child, f"{prefix}/{name}" if prefix else name)
        return
    kind, content = _kind(node)
    if kind == "classLabel":
        yield prefix, Feature((), np.dtype(np.int64), "none")
    elif kind == "tensor":
        shape = content.get("shape", ())
        if isinstance(shape, dict):
            shape = shape.get("dimensions", ())
        shape = tuple(-1 if size is None else _integer(size) for size in shape)
        dtype = _TYPES.get(content["dtype"])
        encoding = content.get("encoding", "none").lower()
        if dtype is not None and min(shape, default=1) > 0 and encoding in _ENCODINGS:
            yield prefix, Feature(shape, dtype, encoding)


def _children(node: Any) -> dict[str, Any] | None:
    """The features in a dict of features, else None; a new dict."""
    kind, content = _kind(node)
    if kind != "featuresDict":
        return None
    return dict(content.get("features", content))


def _kind(node: Any) -> tuple[str, Any]:
    """What a feature is, and what is said of it; also as TFDS before 4.6 wrote it."""
    if "type" not in node or "content" not in node:
        for kind in ("featuresDict", "tensor", "sequence", "classLabel"):
            if kind in node:
                return kind, node[kind]
        return "other", None
    name, content = node["type"].rpartition(".")[2], node["content"]
    if isinstance(content, str):
        content = json.loads(content)
    kinds = {
        "FeaturesDict": "featuresDict",
        "Tensor": "tensor",
        "Scalar": "tensor",
        "Sequence": "sequence",
        "Dataset": "sequence",
        "ClassLabel": "classLabel",
    }
    return kinds.get(name, "other"), content


def read_shards(directory: Path) -> tuple[str, str, list[Shard]]:
    """The builder's name, the form of the record files, and the files of all splits.

    Splits are in alphabetical order.

    Raises:
      ValueError: if the file is not what TFDS writes, the record files are of a form
        that is not read here, or one is missing.
    """
    path = directory / DATASET_MARKER
    with _naming(path):
        info = _read_json(path)
        form = info.get("fileFormat", "tfrecord")  # TFDS's default, not always written
        if form not in READERS:
            raise ValueError(
                f"fileFormat: expected one of {', '.join(READERS)}, found {form!r}"
            )
        name = info["name"]
        if not isinstance(name, str):
            raise ValueError(f"name: expected text, found {str(name)[:50]}")
        shards = [
            Shard(directory / file, records)
            for split in sorted(info["splits"], key=lambda split: split["name"])
            for file, records in _files(name, form, split)
        ]
    for shard in shards:
        if not shard.path.is_file():
            raise ValueError(f"{shard.path}: expected a record file, found none")
    return name, form, shards


def _files(name: str, form: str, split: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The names of a split's record files, by its template, and the records in each."""
    lengths = [_integer(length) for length in split.get("shardLengths", ())]
    if min(lengths, default=0) < 0:
        raise ValueError(f"shardLengths: expected none below 0, found {min(lengths)}")
    for index, records in enumerate(lengths):
        number, count = f"{index:05}", f"{len(lengths):05}"
        file = split.get("filepathTemplate") or _TEMPLATE
        for variable, text in {
            "{DATASET}": name,
            "{SPLIT}": split["name"],
            "{FILEFORMAT}": form,
            "{SHARD_INDEX}": number,
            "{NUM_SHARDS}": count,
            "{SHARD_X_OF_Y}": f"{number}-of-{count}",
        }.items():
            file = file.replace(variable, text)
        if Path(file).is_absolute() or ".." in Path(file).parts or "\0" in file:
            raise ValueError(
                "filepathTemplate: expected files in the directory, found "
                f"{file[:100]!r}"
            )
        yield file, records


def _read_json(path: Path) -> Any:
    """The value in a JSON file."""
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise ValueError(f"expected {_LARGEST_FILE} bytes at most, found {size}")
    return json.loads(path.read_text(encoding="utf-8"))


def _integer(value: Any) -> int:
    """An integer, which JSON of protobuf has as a string."""
    try:
        if isinstance(value, int | str):
            return int(value)
    except ValueError:
        pass
    raise ValueError(f"expected an integer, found {str(value)[:50]!r}")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says which file it is that is not as TFDS writes it."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: expected JSON, found {reason}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: expected what TFDS writes there, found {type(error).__name__}: "
            f"{reason}"
        ) from error
