"""The package d4rl beside ours; `test_interchange.py` runs this in one process."""

import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ring_rl.data.exporting import export_dataset
from ring_rl.data.formats.d4rl import open_d4rl
from ring_rl.data.formats.d4rl_names import d4rl_addresses
from ring_rl.data.importing import import_dataset
from ring_rl.data.interchange.packages import import_d4rl
from ring_rl.evaluate.scores import normalised_score, reference

d4rl = import_d4rl()

# What d4rl has and ring_rl does not.
OTHER_FAMILIES = ("bullet-", "carla-", "flow-", "minigrid-")
OTHER_MAZES = ("maze2d-open-", "maze2d-eval-")
DENSE_MAZES = {f"maze2d-{size}-dense-v1" for size in ("umaze", "medium", "large")}
UNSCORED = {"ant-random-expert-v0"}  # d4rl itself has no reference for it


def check_reference_scores_are_theirs(folder: Path) -> None:
    low, high = d4rl.infos.REF_MIN_SCORE, d4rl.infos.REF_MAX_SCORE
    assert low.keys() == high.keys()
    covered = {name for name in low if reference(name) is not None}
    assert low.keys() - covered == DENSE_MAZES | {
        name for name in low if name.startswith((*OTHER_FAMILIES, *OTHER_MAZES))
    }
    assert len(covered) == 110
    for name in covered:
        ours, theirs = np.array(reference(name)), np.array([low[name], high[name]])
        # Ours are written with six decimals.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-7, err_msg=name)
        returns = np.array([-100.0, 0.0, 3000.0])
        scores = [100 * d4rl.get_normalized_score(name, each) for each in returns]
        np.testing.assert_allclose(normalised_score(name, returns), scores, rtol=1e-8)


def check_addresses_are_theirs(folder: Path) -> None:
    theirs, ours = d4rl.infos.DATASET_URLS, d4rl_addresses()
    assert {name: theirs.get(name) for name in ours} == ours
    assert theirs.keys() - ours.keys() == UNSCORED | {
        name for name in theirs if name.startswith((*OTHER_FAMILIES, *OTHER_MAZES))
    }
    # Whatever can be fetched can be scored, but for the dense mazes.
    assert {name for name in ours if reference(name) is None} == DENSE_MAZES


STEPS, ENDS = 30, (4, 11, 12, 25)


def d4rl_file(path: Path) -> Path:
    """A file of five episodes, of which the last has neither flag."""
    random, row = np.random.default_rng(0), np.arange(STEPS)
    arrays = {
        "observations": random.normal(size=(STEPS, 3)).astype(np.float32),
        "next_observations": random.normal(size=(STEPS, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        "rewards": random.normal(size=STEPS).astype(np.float32),
        "terminals": np.isin(row, ENDS[::2]),
        "timeouts": np.isin(row, ENDS[1:]),  # one step is both
        "infos/qpos": random.normal(size=(STEPS, 4)),
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return path


def as_d4rl_reads(path: Path) -> dict[str, Any]:
    class Environment(d4rl.offline_env.OfflineEnv):
        observation_space = types.SimpleNamespace(shape=(3,))
        action_space = types.SimpleNamespace(shape=(2,))

    return Environment().get_dataset(str(path))


def check_d4rl_cuts_episodes_as_we_do(folder: Path) -> None:
    path = d4rl_file(folder / "file.hdf5")
    theirs = list(d4rl.sequence_dataset(None, as_d4rl_reads(path)))
    # d4rl leaves out what follows the last flag.
    *ours, rest = open_d4rl(path)[1]
    assert len(rest.rewards) == STEPS - 1 - ENDS[-1]
    for left, right in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(left["observations"], right.observations)
        np.testing.assert_array_equal(left["actions"], right.actions)
        np.testing.assert_array_equal(left["rewards"], right.rewards)
        np.testing.assert_array_equal(left["infos/qpos"], right.extras["infos/qpos"])
        final = left["next_observations"][-1]
        np.testing.assert_array_equal(final, right.final_observation)
        assert left["terminals"][-1] == right.terminated
        assert left["timeouts"][-1] == right.truncated


def check_d4rl_reads_what_we_export(folder: Path) -> None:
    path, back = d4rl_file(folder / "file.hdf5"), folder / "back.hdf5"
    import_dataset(path, "d4rl", folder / "dataset")
    export_dataset(folder / "dataset", "d4rl", back)
    ours, theirs = as_d4rl_reads(path), as_d4rl_reads(back)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], name, strict=True)


def check_the_import_leaves_no_traces(folder: Path) -> None:
    assert "mujoco_py" not in sys.modules
    assert "D4RL_SUPPRESS_IMPORT_ERROR" not in os.environ
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert import_d4rl() is d4rl
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "mine"
    sys.modules["mujoco_py"] = mine = types.ModuleType("mujoco_py")
    import_d4rl()
    assert os.environ.pop("D4RL_SUPPRESS_IMPORT_ERROR") == "mine"
    assert sys.modules.pop("mujoco_py") is mine
