"""Bad input: one line that says what was expected, exit code 2, nothing left behind."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from ring_rl.cli import main

STEPS = 30
TINY = (
    "--agent.trunk.layers 1 --agent.trunk.width 8 --agent.trunk.heads 1 "
    "--loop.steps 2 --loop.log-every 1 --loop.checkpoint-every 1"
).split()


def hdf5(path: Path, **changes: np.ndarray | None) -> Path:
    """A file in D4RL's form with Hopper's spaces; None leaves a dataset out."""
    random = np.random.default_rng(0)
    ends = np.zeros(STEPS, bool)
    ends[9::10] = True
    arrays = {
        "observations": random.standard_normal((STEPS, 11)).astype(np.float32),
        "actions": random.uniform(-1, 1, (STEPS, 3)).astype(np.float32),
        "rewards": random.random(STEPS).astype(np.float32),
        "terminals": np.zeros(STEPS, bool),
        "timeouts": ends,
    }
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, **changes}.items():
            if values is not None:
                file.create_dataset(name, data=values)
    return path


def one_line(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Runs a command that must fail as the user's mistake; its one line of error."""
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("ring-rl: error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], lines
    assert "Traceback" not in "\n".join(lines)
    return errors[0]


def missing(folder: Path) -> Path:
    return folder / "nothing.hdf5"


def truncated(folder: Path) -> Path:
    path = hdf5(folder / "truncated.hdf5")
    path.write_bytes(path.read_bytes()[:3000])
    return path


def without_rewards(folder: Path) -> Path:
    return hdf5(folder / "no_rewards.hdf5", rewards=None)


def unequal(folder: Path) -> Path:
    return hdf5(folder / "unequal.hdf5", rewards=np.zeros(STEPS - 1, np.float32))


def nan_rewards(folder: Path) -> Path:
    rewards = np.zeros(STEPS, np.float32)
    rewards[7] = np.nan
    return hdf5(folder / "nan.hdf5", rewards=rewards)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ["nothing.hdf5"]),
        (truncated, ["truncated.hdf5", "HDF5"]),
        (without_rewards, ["no_rewards.hdf5", "rewards"]),
        (unequal, ["unequal.hdf5", "rewards", "29", "30"]),
        (nan_rewards, ["nan.hdf5", "rewards", "nan"]),
    ],
)
def test_a_bad_file_is_refused_whole(tmp_path, capsys, make, words):
    source, out = make(tmp_path), tmp_path / "out" / "dataset"
    line = one_line(capsys, "data", "import", source, "--format", "d4rl", "--out", out)
    for word in words:
        assert word in line
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path != source]
    assert not left


@pytest.fixture
def dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "dataset"
    source = hdf5(tmp_path / "good.hdf5")
    words = ["data", "import", source, "--format", "d4rl", "--out", out]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    return out


def train(runs: Path, *words: str | Path) -> list[str | Path]:
    return ["train", *words, "--runs", runs, "--no-evaluate", *TINY]


def test_an_unknown_preset_names_the_nearest(tmp_path, capsys):
    line = one_line(capsys, *train(tmp_path / "runs", "dark-rom"))
    assert "'dark-rom'" in line and "dark-room" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("--environment.id", "Hoper-v5", ["Hoper-v5", "Hopper-v5"]),
        ("--environment.id", "Pendulum-v1", ["Pendulum-v1", "observation=11"]),
        ("--mesh.sequence", "64", ["64", "found 8"]),
    ],
    ids=["unknown environment", "other spaces", "too many devices"],
)
def test_what_does_not_fit_is_refused_before_training(
    tmp_path, capsys, dataset, field, value, words
):
    preset = train(tmp_path / "runs", "hopper", "--data.path", dataset)
    line = one_line(capsys, *preset, field, value)
    for word in words:
        assert word in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("--evaluation.trials", "0", "evaluation: trials"),
        ("--evaluation.temperature", "-1", "temperature"),
        ("--seed", "-1", "seed must be at least 0"),
        ("--loader.rows", "0", "loader: rows"),
        ("--mesh.data", "2", "mesh.fsdp x loop.accumulate=2"),
        ("--agent.bins", "1", "bins must be at least 2"),
        ("--optimiser.learning-rate", "0", "learning_rate must be above 0"),
        ("--agent.chains.trajectories", "0", "trajectories must be at least 1"),
        ("--loop.checkpoint-every", "0", "checkpoint_every must be at least 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_once(
    tmp_path, capsys, field, value, found
):
    words = ["train", "hopper", "--runs", tmp_path / "runs", "--data.path", "none"]
    assert found in one_line(capsys, *words, field, value)
    assert not (tmp_path / "runs").exists()


def test_a_dataset_that_is_not_there(tmp_path, capsys):
    line = one_line(
        capsys, *train(tmp_path / "runs", "hopper", "--data.path", tmp_path / "none")
    )
    assert "none" in line
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_with_another_configuration(tmp_path, capsys, dataset):
    runs = tmp_path / "runs"
    words = [
        *train(runs, "offline", "--data.path", dataset),
        "--loader.row-steps",
        "40",
    ]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    before = {
        path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()
    }
    line = one_line(capsys, *words, "--optimiser.learning-rate", "0.5")
    assert "optimiser.learning_rate" in line and "0.5" in line
    after = {
        path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()
    }
    assert after == before


def test_a_folder_that_holds_something_else(tmp_path, capsys, dataset):
    (tmp_path / "runs" / "offline").mkdir(parents=True)
    note = tmp_path / "runs" / "offline" / "thesis.txt"
    note.write_text("mine")
    line = one_line(
        capsys, *train(tmp_path / "runs", "offline", "--data.path", dataset)
    )
    assert "other files" in line
    assert note.read_text() == "mine" and len(list(note.parent.iterdir())) == 1


def test_a_run_that_is_none(tmp_path, capsys):
    assert "config.json" in one_line(capsys, "evaluate", tmp_path)
