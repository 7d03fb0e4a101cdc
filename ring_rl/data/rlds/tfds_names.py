"""TFDS's names of datasets, `tfds:BUILDER[/CONFIG][:VERSION]`, found on the disk.

A dataset that TFDS has prepared lies in `DATA_DIR/BUILDER/[CONFIG/]VERSION`. Nothing is
downloaded or prepared here: that takes TensorFlow, and for D4RL's sets TFDS's builders
get the last observations wrong, so their files are better imported as they are.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ring_rl.data.formats.d4rl_names import d4rl_addresses, d4rl_name_of_tfds
from ring_rl.data.rlds import open_rlds
from ring_rl.data.rlds.source import DATASET_MARKER
from ring_rl.types import Episode, Spaces

_NAME = re.compile(
    r"tfds:(?P<builder>[a-z]\w*)"
    r"(?:/(?P<config>\w[\w.+-]*))?"
    r"(?::(?P<version>(?:\d+|\*)\.(?:\d+|\*)\.(?:\d+|\*)))?",
    re.ASCII,
)
_TFDS_OF_D4RL = ("d4rl_mujoco_", "d4rl_adroit_", "d4rl_antmaze")
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)


def resolve_tfds(name: str, data_dir: Path | None = None) -> Path:
    """The folder of a dataset that TFDS has prepared, for `open_rlds`.

    Args:
      name: `tfds:d4rl_mujoco_hopper/v2-medium`, with `:1.2.0` or `:1.*.*` where it is
        to be that version; the newest that is there unless given. The config may be
        left out where one only is there.
      data_dir: where TFDS keeps its datasets; the environment's TFDS_DATA_DIR, else
        ~/tensorflow_datasets, unless given.

    Raises:
      ValueError: if this is no such name, or the dataset is not prepared there: then
        with what to fetch or to do.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name}: expected tfds:BUILDER, tfds:BUILDER/CONFIG or either with a "
            "version as :1.2.0"
        )
    place = _data_dir(data_dir) / match["builder"]
    if match["config"]:
        place /= match["config"]
    elif not _versions(place):
        configs = [path for path in _folders(place) if _versions(path)]
        if len(configs) > 1:
            names = ", ".join(path.name for path in configs)
            raise ValueError(
                f"{name}: expected a config after the name, found several: {names}"
            )
        place = configs[0] if configs else place
    versions = _versions(place)
    wanted = match["version"] or "*.*.*"
    pattern = re.compile(re.escape(wanted).replace(r"\*", r"\d+"), re.ASCII)
    fitting = [path for path in versions if pattern.fullmatch(path.name)]
    if fitting:
        return fitting[-1]
    if versions:
        there = ", ".join(path.name for path in versions)
        raise ValueError(f"{name}: expected version {wanted} in {place}, found {there}")
    raise ValueError(
        f"{name}: expected a dataset that TFDS has prepared in {place}, found none; "
        f"{_advice(match['builder'], match['config'])}"
    )


def open_tfds(
    name: str,
    data_dir: Path | None = None,
    *,
    action_bounds: tuple[float, float] | None = None,
    task: str | None = None,
) -> tuple[Spaces, Iterator[Episode]]:
    """The spaces and the episodes of a dataset that TFDS has prepared.

    Episodes that name no task get D4RL's name of the dataset, or `BUILDER/CONFIG`.

    Arguments and errors of `resolve_tfds` and `open_rlds`.
    """
    directory = resolve_tfds(name, data_dir)
    whole = directory.parent.relative_to(_data_dir(data_dir)).as_posix()
    name_of_task = d4rl_name_of_tfds(whole) or whole
    spaces, episodes = open_rlds(directory, action_bounds=action_bounds, task=task)

    def named() -> Iterator[Episode]:
        for episode in episodes:
            # The folder's name is a version here, and what `open_rlds` calls the task
            # of episodes that name none.
            if task is None and episode.task == directory.name:
                episode = episode._replace(task=name_of_task)
            yield episode

    return spaces, named()


def _data_dir(data_dir: Path | None) -> Path:
    """Where TFDS keeps its datasets."""
    if data_dir is None:
        data_dir = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return Path(data_dir).expanduser()


def _advice(builder: str, config: str | None) -> str:
    """What to do about a dataset that is not there."""
    d4rl_name = d4rl_name_of_tfds(f"{builder}/{config}")
    address = d4rl_addresses().get(d4rl_name or "")
    if address is not None:
        file = address.rsplit("/", 1)[1]
        return (
            f"fetch {address} and run: ring-rl data import {file} --format d4rl --task "
            f"{d4rl_name} --out {d4rl_name}"
        )
    whole = f"{builder}/{config}" if config else builder
    if d4rl_name is not None or whole.startswith(_TFDS_OF_D4RL):
        return (
            "D4RL has no such dataset; one that it has is d4rl_mujoco_hopper/v2-medium"
        )
    return (
        f"run `tfds build {whole}` where TensorFlow is installed, or name the folder "
        "that it is in with --data-dir"
    )


def _versions(place: Path) -> list[Path]:
    """Folders of whole datasets by version, the newest last."""
    found = [
        path
        for path in _folders(place)
        if _VERSION.fullmatch(path.name) and (path / DATASET_MARKER).is_file()
    ]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _folders(place: Path) -> list[Path]:
    """The folders in a folder by name, none where there is no such folder."""
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir())
