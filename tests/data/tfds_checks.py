"""TFDS's own builders beside ours; `test_interchange.py` runs this in one process."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets import d4rl

from ring_rl.data.formats.d4rl import open_d4rl
from ring_rl.data.formats.d4rl_names import d4rl_addresses, d4rl_name_of_tfds
from ring_rl.data.importing import import_dataset
from ring_rl.data.interchange.from_tf import open_tf_dataset
from ring_rl.data.rlds import open_rlds, read_rlds
from ring_rl.data.rlds.tfds_names import open_tfds, resolve_tfds

NAME = "tfds:d4rl_mujoco_hopper/v2-random"
ENDS = (4, 7, 12)  # a terminal, a timeout, and what the end of the file cuts


def d4rl_file(path: Path) -> Path:
    """A file in the schema of hopper-random-v2, of three episodes."""
    random = np.random.default_rng(0)
    steps = ENDS[-1]
    observations = random.normal(size=(steps, 11)).astype(np.float32)
    following = np.roll(observations, -1, axis=0)
    following[np.array(ENDS) - 1] = random.normal(size=(len(ENDS), 11))
    arrays = {
        "observations": observations,
        "next_observations": following,
        "actions": random.uniform(-1, 1, (steps, 3)).astype(np.float32),
        "rewards": random.normal(size=steps).astype(np.float32),
        "terminals": np.arange(steps) == ENDS[0] - 1,
        "timeouts": np.arange(steps) == ENDS[1] - 1,
        "infos/qpos": random.normal(size=(steps, 6)),
        "infos/qvel": random.normal(size=(steps, 6)),
        "infos/action_log_probs": random.normal(size=steps),
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return path


def prepare(path: Path, data_dir: Path, file_format: str) -> Any:
    """What TFDS's own builder makes of a file, as if it had downloaded it."""
    builder = tfds.builder(
        NAME.removeprefix("tfds:"), data_dir=data_dir, file_format=file_format
    )
    builder._split_generators = lambda manager: {
        "train": builder._generate_examples({"file_path": str(path)})
    }
    builder.download_and_prepare()
    return builder


def check_last_observations_are_wrong_in_tfds_and_right_here(folder: Path) -> None:
    path = d4rl_file(folder / "hopper_random-v2.hdf5")
    with h5py.File(path) as file:
        following = file["next_observations"][:]
    right = following[np.array(ENDS) - 1]

    builder = prepare(path, folder / "tfds", "tfrecord")
    last = []
    for whole in builder.as_dataset(split="train", shuffle_files=False):
        *_, step = whole["steps"].as_numpy_iterator()
        assert step["is_last"]
        last.append(step["observation"])
    # TFDS takes the whole file's last one, which is right for the last episode only.
    np.testing.assert_array_equal(last, following[[-1, -1, -1]])
    assert not np.isin(right[:2], last).any()

    import_dataset(path, "d4rl", folder / "ours")
    store = read_rlds(folder / "ours")
    assert store.has_final_observation.all()
    np.testing.assert_array_equal(store.final_observations, right)


def check_what_tfds_prepared_is_found_and_its_error_left_out(folder: Path) -> None:
    path = d4rl_file(folder / "hopper_random-v2.hdf5")
    builder = prepare(path, folder / "tfds", "array_record")
    directory = resolve_tfds(NAME, folder / "tfds")
    assert directory == Path(builder.data_dir)
    assert resolve_tfds(f"{NAME}:{builder.version}", folder / "tfds") == directory
    expected = {len(each.rewards): each for each in open_d4rl(path)[1]}
    _, theirs = open_rlds(directory)
    assert not any(each.has_final_observation for each in theirs)
    _, episodes = open_tfds(NAME, folder / "tfds")
    found = list(episodes)
    assert len(found) == 3
    for each in found:
        made = expected[len(each.rewards)]  # TFDS shuffles
        assert each.task == "hopper-random-v2"
        assert not each.has_final_observation
        assert not each.final_observation.any()
        assert each.terminated == made.terminated
        for name in ("observations", "actions", "rewards", "discounts"):
            np.testing.assert_array_equal(getattr(each, name), getattr(made, name))
        assert each.extras.keys() == made.extras.keys()


def check_tfrecord_through_tensorflow_is_what_we_read(folder: Path) -> None:
    path = d4rl_file(folder / "hopper_random-v2.hdf5")
    builder = prepare(path, folder / "tfds", "tfrecord")
    dataset = builder.as_dataset(split="train", shuffle_files=False)
    spaces, through_tensorflow = open_tf_dataset(dataset, task="hop")
    ours, read_here = open_rlds(Path(builder.data_dir), task="hop")
    assert spaces == ours
    for left, right in zip(through_tensorflow, read_here, strict=True):
        assert left.has_final_observation and not right.has_final_observation
        for name, value in left._asdict().items():
            # TFDS's last observations are wrong, and its Dataset does not say whose.
            if name not in ("extras", "final_observation", "has_final_observation"):
                np.testing.assert_array_equal(value, getattr(right, name), name)
        assert left.extras.keys() == right.extras.keys()
        for name, values in left.extras.items():
            np.testing.assert_array_equal(values, right.extras[name], name)


def check_addresses_are_those_that_tfds_would_fetch(folder: Path) -> None:
    class Manager:
        def download_and_extract(self, files: dict[str, str]) -> dict[str, str]:
            self.address = files["file_path"]
            return files

    checked = 0
    for module in pkgutil.iter_modules(d4rl.__path__):
        if not module.ispkg:
            continue
        importlib.import_module(f"tensorflow_datasets.d4rl.{module.name}")
        for config in tfds.builder_cls(module.name).builder_configs:
            name = f"{module.name}/{config}"
            manager = Manager()
            tfds.builder(name, data_dir=folder)._split_generators(manager)
            ours = d4rl_addresses()[d4rl_name_of_tfds(name)]
            assert ours == manager.address, name
            try:
                resolve_tfds(f"tfds:{name}", folder)
            except ValueError as error:
                assert f"fetch {manager.address} and run" in str(error)
            checked += 1
    assert checked == 4 * 17 + 4 * 6 + 12  # MuJoCo, Adroit, AntMaze
