import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ring_rl.data.formats.d4rl_names import d4rl_addresses, d4rl_name_of_tfds
from ring_rl.data.rlds import open_rlds, write_rlds
from ring_rl.data.rlds.tfds_names import open_tfds, resolve_tfds


@pytest.fixture
def prepare(tmp_path, spaces, make_episode):
    """Puts datasets where TFDS would, each with one episode, and returns the folder."""

    def prepare(*places, **fields):
        for place in places:
            episode = make_episode(4, seed=1, **fields)
            name = place.split("/")[0]
            write_rlds([episode], spaces, tmp_path / place, name=name, source="a test")
            (tmp_path / place / "ring_rl_manifest.json").unlink()  # TFDS writes none
        return tmp_path

    return prepare


def test_a_prepared_dataset_is_found(prepare):
    names = ("1.9.0", "1.10.0", "0.9.12")
    data_dir = prepare(*(f"d4rl_mujoco_hopper/v2-medium/{name}" for name in names))
    place = data_dir / "d4rl_mujoco_hopper" / "v2-medium"
    (place / "2.0.0").mkdir()  # TFDS was killed before it wrote anything
    (place / "1.9.1.incompleteABC").mkdir()
    name = "tfds:d4rl_mujoco_hopper/v2-medium"
    assert resolve_tfds(name, data_dir) == place / "1.10.0"
    assert resolve_tfds(f"{name}:1.9.0", data_dir) == place / "1.9.0"
    assert resolve_tfds(f"{name}:0.*.*", data_dir) == place / "0.9.12"
    # The only config need not be named.
    assert resolve_tfds("tfds:d4rl_mujoco_hopper", data_dir) == place / "1.10.0"
    with pytest.raises(ValueError, match=r"version 3\.\*\.\* in .*, found 0.9.12, 1.9"):
        resolve_tfds(f"{name}:3.*.*", data_dir)


def test_datasets_with_several_configs_or_none(prepare):
    data_dir = prepare("robots/lift/1.0.0", "robots/push/1.0.0", "plain/1.0.0")
    assert resolve_tfds("tfds:plain", data_dir) == data_dir / "plain" / "1.0.0"
    with pytest.raises(ValueError, match="found several: lift, push$"):
        resolve_tfds("tfds:robots", data_dir)


def test_where_tfds_keeps_its_datasets(prepare, monkeypatch):
    data_dir = prepare("plain/1.0.0", "tensorflow_datasets/other/1.0.0")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert resolve_tfds("tfds:plain") == data_dir / "plain" / "1.0.0"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(data_dir))
    there = data_dir / "tensorflow_datasets" / "other" / "1.0.0"
    assert resolve_tfds("tfds:other") == there
    assert resolve_tfds("tfds:plain", Path("~")) == data_dir / "plain" / "1.0.0"


@pytest.mark.parametrize(
    ("name", "file", "task"),
    [
        ("mujoco_hopper/v2-medium", "gym_mujoco_v2/hopper_medium-v2", "hopper-medium"),
        (
            "mujoco_walker2d/v0-mixed:1.2.0",
            "gym_mujoco/walker_mixed",
            "walker2d-medium-replay",
        ),
        ("adroit_pen/v0-cloned", "hand_dapg/pen-demos-v0-bc-combined", "pen-cloned"),
        (
            "antmaze/large-play-v2",
            "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False"
            "_sparse_fixed",
            "antmaze-large-play",
        ),
    ],
)
def test_a_set_of_d4rl_that_is_not_there_says_what_to_fetch(tmp_path, name, file, task):
    with pytest.raises(ValueError, match="found none; fetch http://") as error:
        resolve_tfds(f"tfds:d4rl_{name}", tmp_path)
    message = str(error.value)
    assert message.startswith(f"tfds:d4rl_{name}: expected a dataset that TFDS has")
    assert (
        f"rail.eecs.berkeley.edu/datasets/offline_rl/{file}.hdf5 and run: " in message
    )
    assert f"ring-rl data import {file.split('/')[1]}.hdf5 --format d4rl" in message
    assert f" --task {task}-v" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["mujoco_hopper", "mujoco_hopper/v9-x", "antmaze"])
def test_what_d4rl_does_not_have(tmp_path, name):
    with pytest.raises(
        ValueError, match="D4RL has no such dataset; one that it has is"
    ):
        resolve_tfds(f"tfds:d4rl_{name}", tmp_path)


def test_other_datasets_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="none; run `tfds build mt_opt/rlds` where"):
        resolve_tfds("tfds:mt_opt/rlds:1.0.0", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "mt_opt",
        "tfds:",
        "tfds:../secret",
        "tfds:/etc",
        "tfds:mt_opt/..",
        "tfds:mt_opt/a/b",
        "tfds:mt_opt:1.0",
        "tfds:mt_opt:latest",
        "tfds:mt opt",
    ],
)
def test_what_is_no_name(tmp_path, name):
    with pytest.raises(ValueError, match="expected tfds:BUILDER, tfds:BUILDER/CONFIG"):
        resolve_tfds(name, tmp_path)


def test_final_observations_of_d4rl_sets_are_not_believed(prepare, make_episode):
    data_dir = prepare("d4rl_mujoco_hopper/v2-medium/1.2.0", "robots/lift/1.0.0")
    name = "tfds:d4rl_mujoco_hopper"
    for _, (hopper,) in (
        open_tfds(name, data_dir),
        open_rlds(resolve_tfds(name, data_dir)),
    ):
        assert not hopper.has_final_observation and not hopper.final_observation.any()
        assert hopper.task == "reach"  # the episode's own
    _, (lift,) = open_tfds("tfds:robots/lift", data_dir)
    whole = make_episode(4, seed=1)
    assert lift.has_final_observation
    np.testing.assert_array_equal(lift.final_observation, whole.final_observation)


def test_final_observations_that_we_wrote_are_believed(tmp_path, spaces, make_episode):
    name = "d4rl_mujoco_hopper"
    write_rlds([make_episode(4)], spaces, tmp_path / "x", name=name, source="a test")
    _, (episode,) = open_rlds(tmp_path / "x")
    assert episode.has_final_observation


def test_episodes_without_a_task_get_the_name_of_the_dataset(prepare):
    places = "d4rl_mujoco_hopper/v2-medium/1.2.0", "robots/lift/1.0.0", "plain/1.0.0"
    data_dir = prepare(*places, task="")
    names = ("d4rl_mujoco_hopper", "robots", "plain")
    found = [next(open_tfds(f"tfds:{name}", data_dir)[1]).task for name in names]
    assert found == ["hopper-medium-v2", "robots/lift", "plain"]
    _, (episode,) = open_tfds("tfds:plain", data_dir, task="stand")
    assert episode.task == "stand"


def test_names_and_addresses_of_d4rl():
    addresses = d4rl_addresses()
    assert len(set(addresses.values())) == len(addresses) == 113
    assert d4rl_name_of_tfds("d4rl_adroit_door/v1-human") == "door-human-v1"
    assert (
        d4rl_name_of_tfds("d4rl_antmaze/umaze-diverse-v0") == "antmaze-umaze-diverse-v0"
    )
    assert d4rl_name_of_tfds("robots/lift") is None


def test_it_takes_neither_tensorflow_nor_tfds(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from ring_rl.data.rlds.tfds_names import resolve_tfds\n"
        "try: resolve_tfds('tfds:mt_opt', Path(sys.argv[1]))\n"
        "except ValueError: pass\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
