"""RLDS datasets opened for reading: ring_rl's own, and those of others.

What they have in common is TFDS's form (array_record); a manifest only ring_rl's have.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.checks import check_episode
from ring_rl.data.manifest import check_files, read_manifest, spaces_from_json
from ring_rl.data.rlds_records import decode_episode, decode_steps
from ring_rl.types import Continuous, Discrete, Episode, Spaces

DATASET_MARKER = "dataset_info.json"
_FEATURES = "features.json"


def open_rlds(
    directory: Path,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces of a dataset, and its episodes one at a time, all splits in turn.

    With a manifest the record files are checked against its hashes first. Without one
    the spaces are worked out from the features; text and images are left out.

    Args:
      directory: where `dataset_info.json` and the record files are.
      action_bounds: bounds of continuous actions, where there is no manifest (then
        -1 to 1 unless given).
      task: replaces the episodes' own; the directory's name where they have none.

    Raises:
      ValueError: naming the file that is missing, altered or not RLDS; also while
        iterating, at a record that cannot be read.
    """
    directory = Path(directory)
    for name in (DATASET_MARKER, _FEATURES):
        if not (directory / name).is_file():
            raise ValueError(
                f"{directory / name}: expected an RLDS dataset's file, found none"
            )
    manifest = read_manifest(directory)
    if manifest is not None:
        check_files(directory, manifest)
    sources, features = _open_sources(directory)
    if manifest is None:
        spaces = _infer_spaces(directory, sources, features, action_bounds)
    elif action_bounds is not None:
        raise ValueError(
            f"{directory}: expected no action bounds, since its manifest has them; "
            f"found {action_bounds}"
        )
    else:
        spaces = spaces_from_json(manifest["spaces"])

    def episodes() -> Iterator[Episode]:
        indices = itertools.count()
        for record in _records(directory, sources):
            index = next(indices)
            episode = _naming_record(
                directory, index, decode_episode, record, features, spaces, index
            )
            if episode is not None:
                _naming_record(directory, index, check_episode, episode, spaces, index)
                yield episode._replace(task=task or episode.task or directory.name)

    return spaces, episodes()


def _open_sources(directory: Path) -> tuple[list[Any], dict[str, Any]]:
    """TFDS's data source of each split, and the numeric features of a step."""
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(directory)
        features = builder.info.features
        splits = [builder.info.splits[name] for name in sorted(builder.info.splits)]
        paths = [Path(path) for split in splits for path in split.filepaths]
        file_format = builder.info.file_format.value
    except Exception as error:  # TFDS raises whatever its JSON and protobufs raise
        raise ValueError(
            f"{directory}: expected {DATASET_MARKER} and {_FEATURES} of TFDS, found "
            f"{_one_line(error)}"
        ) from error
    if file_format != "array_record":
        raise ValueError(
            f"{directory}: expected records in array_record form, found {file_format}"
        )
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: expected a record file, found none")
    if "steps" not in features or not isinstance(
        features["steps"], tfds.features.Dataset
    ):
        raise ValueError(
            f"{directory / _FEATURES}: expected episodes with the feature 'steps', "
            f"found {sorted(features)}"
        )
    steps = _numeric_features(features["steps"].feature)
    for name in ("observation", "action", "reward", "is_last", "is_terminal"):
        if name not in steps:
            raise ValueError(
                f"{directory / _FEATURES}: expected the numeric step feature {name!r}, "
                f"found {sorted(steps)}"
            )
    try:
        sources = [
            builder.as_data_source(
                split=split.name, decoders={"steps": tfds.decode.SkipDecoding()}
            )
            for split in splits
        ]
    except Exception as error:
        raise ValueError(
            f"{directory}: expected readable record files, found {_one_line(error)}"
        ) from error
    return sources, steps


def _numeric_features(features: Any, prefix: str = "") -> dict[str, Any]:
    """Numeric features of fixed shape by name, nested names joined with slashes.

    Text, images and ragged sequences are left out: `Episode.extras` cannot hold them.
    """
    import tensorflow_datasets as tfds

    kinds: Any = tfds.features  # whose annotations are wider than what is there
    found: dict[str, Any] = {}
    for name, feature in features.items():
        if isinstance(feature, kinds.FeaturesDict):
            found |= _numeric_features(feature, f"{prefix}{name}/")
        elif (
            isinstance(feature, kinds.Tensor)
            and np.dtype(feature.np_dtype).kind in "biuf"
            and None not in feature.shape
        ):
            found[prefix + name] = feature
    return found


def _infer_spaces(
    directory: Path,
    sources: list[Any],
    features: dict[str, Any],
    action_bounds: tuple[float, float] | None,
) -> Spaces:
    """Spaces of a dataset without a manifest; discrete actions are counted."""
    observation, action = features["observation"], features["action"]
    discrete = action.shape == () and np.dtype(action.np_dtype).kind in "iu"
    if len(observation.shape) != 1 or not (len(action.shape) == 1 or discrete):
        raise ValueError(
            f"{directory / _FEATURES}: expected a step's observation [O] and action "
            f"[A] or one integer, found {list(observation.shape)} and "
            f"{list(action.shape)} {np.dtype(action.np_dtype)}"
        )
    if not discrete:
        low, high = action_bounds or (-1.0, 1.0)
        width = action.shape[0]
        return Spaces(observation.shape[0], Continuous((low,) * width, (high,) * width))
    largest = max(
        (
            int(decode_steps(record["steps"], {"action": action})["action"].max())
            for record in _records(directory, sources)
        ),
        default=0,
    )
    return Spaces(observation.shape[0], Discrete(largest + 1))


def _records(directory: Path, sources: list[Any]) -> Iterator[dict[str, Any]]:
    """The records of all splits, as TFDS decodes them."""
    indices = itertools.count()
    for source in sources:
        for position in range(len(source)):
            yield _naming_record(directory, next(indices), source.__getitem__, position)


def _naming_record(
    directory: Path, index: int, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Calls a function; whatever it raises becomes one line that names the record."""
    try:
        return function(*arguments)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{directory}: record {index}: {reason}") from error
    except Exception as error:  # protobuf and array_record have their own kinds
        raise ValueError(
            f"{directory}: record {index}: expected an RLDS episode, found "
            f"{_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    """The type and the text of an exception, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
