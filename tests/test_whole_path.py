"""The whole path on a room small enough to take seconds: data, training, evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ring_rl
from ring_rl.cli import main
from ring_rl.configs.run import Gymnasium
from ring_rl.data.rlds import read_rlds
from ring_rl.envs import make_vector
from ring_rl.types import Discrete, Spaces

TINY = (
    "--environment.size 3 --environment.held-out 3 --environment.max-steps 6 "
    "--data.episodes 10 --agent.trunk.layers 1 --agent.trunk.width 16 "
    "--agent.trunk.heads 2 --loader.rows 2 --loader.row-steps 48 --loop.steps 4 "
    "--loop.log-every 2 --loop.checkpoint-every 2 --evaluation.trials 3 "
    "--evaluation.rollouts 2 --mesh.sequence 4"
).split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of the Agentic Transformer, trained and evaluated."""
    folder = tmp_path_factory.mktemp("whole")
    words = ["--runs", str(folder / "runs"), "--data.parent", str(folder / "data")]
    assert main(["train", "dark-room", "--seeds", "0,1", *words, *TINY]) == 0
    return folder / "runs"


@pytest.mark.smoke
def test_a_run_leaves_what_the_manual_says(runs):
    run = runs / "dark-room" / "seed-0"
    config = json.loads((run / "config.json").read_text())
    assert config["agent"]["kind"] == "AgenticTransformer"
    assert config["loop"]["steps"] == 4 and config["seed"] == 0
    records = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    assert set(records[0]) >= {"step", "loss", "accuracy", "gradient_norm"}
    assert "seconds" not in records[0]
    timing = json.loads((run / "timing.jsonl").read_text().splitlines()[0])
    assert timing["tokens_per_second"] > 0
    assert any((run / "tensorboard").iterdir())
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [2, 4]


def test_a_run_collects_a_dataset(runs, tmp_path):
    """In its own room of three cells a side, 16 rows of three trials at once."""
    words = ["data", "collect", "ring_rl/DarkRoom-v0", "--steps", "100"]
    words += ["--policy", str(runs / "dark-room" / "seed-0")]
    stores = []
    for name in ("one", "two"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        stores.append(read_rlds(tmp_path / name))
    one, two = stores
    assert one.spaces == Spaces(6, Discrete(5)) and len(one.rewards) == 102
    np.testing.assert_array_equal(one.actions, two.actions)
    # A row keeps its task for its trials, and the next one has the next.
    tasks = one.tasks.tolist()
    rows = [tasks[first : first + 3] for first in range(0, len(tasks) - 3, 3)]
    assert all(len(set(row)) == 1 for row in rows)
    assert len({row[0] for row in rows}) == min(len(rows), 6)


def test_an_evaluation_has_all_statistics_of_all_seeds(runs):
    folder = runs / "dark-room" / "evaluation"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for name in ("first", "mean", "last", "max_of_n", "gain"):
        entry = evaluation[name]
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["seeds"] == 2
    assert len(evaluation["return_by_trial"]) == 3
    assert evaluation["counts"] == {
        "seeds": 2,
        "tasks": 3,
        "rollouts": 12,
        "trials": 3,
        "episodes": 36,
    }
    assert evaluation["normalised"] is None
    assert (folder / "return_by_trial.png").read_bytes().startswith(b"\x89PNG")


def test_evaluating_again_gives_the_same_bytes(runs, capsys):
    before = (runs / "dark-room" / "evaluation" / "evaluation.json").read_bytes()
    assert main(["evaluate", str(runs / "dark-room"), "--json"]) == 0
    after = (runs / "dark-room" / "evaluation" / "evaluation.json").read_bytes()
    assert after == before
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(before)


def test_the_control_is_evaluated_beside_the_run(runs, capsys):
    words = ["evaluate", str(runs / "dark-room"), "--control", "other-task"]
    assert main([*words, "--trials", "2"]) == 0
    found = list((runs / "dark-room" / "evaluations").glob("*/evaluation.json"))
    assert len(found) == 1
    evaluation = json.loads(found[0].read_text())
    assert evaluation["conditions"]["control"] == "other-task"
    rollouts = json.loads((found[0].parent / "rollouts.json").read_text())
    own = json.loads((runs / "dark-room" / "evaluation" / "rollouts.json").read_text())
    # The last trial, which counts, is in the row's own task.
    assert rollouts[0]["tasks"] == own[0]["tasks"]
    capsys.readouterr()
    assert main([*words, "--trials", "1"]) == 2
    assert "at least 2 tasks and 2 trials" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_not_evaluated(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs / "dark-room" / "seed-0", run)
    shutil.rmtree(run / "checkpoints" / "4")
    assert main(["evaluate", str(run)]) == 2
    assert "2 of 4 updates" in capsys.readouterr().err


def test_seeds_and_a_single_run_do_not_share_a_folder(runs, tmp_path, capsys):
    shutil.copytree(runs / "dark-room" / "seed-0", tmp_path / "dark-room")
    words = ["--runs", str(tmp_path), "--data.parent", str(runs.parent / "data")]
    assert main(["train", "dark-room", "--seeds", "0,1", *words, *TINY]) == 2
    assert "holds a run of a single seed" in capsys.readouterr().err
    assert not list((tmp_path / "dark-room").glob("seed-*"))


def test_different_configurations_are_not_reported_as_seeds_of_one(
    runs, tmp_path, capsys
):
    run = tmp_path / "dark-room" / "seed-0"
    shutil.copytree(runs / "dark-room" / "seed-0", run)
    shutil.copytree(runs / "dark-room" / "seed-1", run.parent / "seed-1")
    config = run / "config.json"
    config.write_text(config.read_text().replace('"clip": 1.0', '"clip": 2.0'))
    assert main(["evaluate", str(run.parent), "--trials", "1"]) == 2
    assert "but for the seed" in capsys.readouterr().err


def test_an_environment_keeps_the_task_that_it_drew(runs, capsys):
    # By its own name it is the run's environment: held-out goals of a 3 x 3 room.
    run = runs / "dark-room" / "seed-0"
    words = ["evaluate", str(run), "--env", "ring_rl/DarkRoom-v0", "--trials", "2"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["tasks"] == 3
    drawing = Gymnasium("ring_rl/DarkRoom-v0").make(1, seed=0)
    first = drawing.reset(np.ones(1, bool)), drawing.tasks[0]
    drawing.reset(np.ones(1, bool))
    assert drawing.tasks[0] == first[1] != ""


def test_a_finished_run_is_not_trained_again(runs, tmp_path):
    checkpoints = runs / "dark-room" / "seed-0" / "checkpoints" / "4"
    before = checkpoints.stat().st_mtime_ns
    data = runs.parent / "data"
    words = ["--runs", str(runs), "--data.parent", str(data), "--no-evaluate"]
    assert main(["train", "dark-room", "--seeds", "0,1", *words, *TINY]) == 0
    assert checkpoints.stat().st_mtime_ns == before


def test_a_report_puts_runs_side_by_side(runs, tmp_path, capsys):
    assert main(["report", str(runs / "dark-room"), "--out", str(tmp_path)]) == 0
    assert "AgenticTransformer" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "return_by_trial.png").exists()
    assert "dark-room" in capsys.readouterr().out


def test_a_report_looks_at_what_an_agent_reads(runs, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(runs / "dark-room", run)
    words = ["report", str(run), "--out", str(out), "--attention"]
    assert main([*words, "2:3"]) == 0
    look = json.loads((run / "evaluation" / "attention.json").read_text())
    assert (look["seed"], look["trial"], look["step"]) == (0, 2, 3)
    assert look["steps_seen"] == [6, 3]
    assert sum(look["by_trial"]) == pytest.approx(1, abs=1e-5)
    # What comes after the acting token is not seen.
    assert [len(steps) for steps in look["by_trial_and_step"]] == [6, 6]
    assert look["by_trial_and_step"][1][3:] == [None] * 3
    with np.load(run / "evaluation" / "attention.npz") as arrays:
        assert arrays["masses"].shape == (6, 1, 2, 12)
        np.testing.assert_allclose(arrays["masses"].sum(-1), 1, atol=1e-5)
    assert (run / "evaluation" / "attention.png").exists()
    page = (out / "report.html").read_text()
    assert "Attention to past trajectories" in page
    assert any(out.glob("attention_1_dark-room*.png"))
    first = json.loads((run / "evaluation" / "attention.json").read_text())
    # Without it, what was looked at before is shown; what cannot be is said.
    capsys.readouterr()
    assert main([*words, "9:1"]) == 0
    assert "expected a trial from 1 to 3, found 9" in capsys.readouterr().err
    assert "found 9" in (out / "report.html").read_text()
    assert json.loads((run / "evaluation" / "attention.json").read_text()) == first


@pytest.mark.smoke
def test_a_loaded_policy_acts_in_a_loop_of_ones_own(runs):
    policy = ring_rl.load(str(runs / "dark-room" / "seed-0"))
    rows = make_vector("ring_rl/DarkRoom-v0", 3, seed=0, size=3, max_steps=6)
    assert policy.temperature == 1.0
    with pytest.raises(ValueError, match="reset first"):
        policy.act(np.zeros((3, 6), np.float32))
    policy.reset(3, trials=2, steps=6)
    # Compiled programs are shared with other rollouts of this configuration.
    compiled = policy._actor._advance._cache_size()
    every = np.ones(3, bool)
    for _ in range(2):
        observations = rows.reset(every)
        for _ in range(6):
            actions = policy.act(observations)
            assert actions.shape == (3,) and actions.dtype == np.int32
            observations, rewards, terminated, truncated = rows.step(actions)
            policy.observe(rewards, terminated, truncated)
        assert truncated.all()
    assert policy._actor._advance._cache_size() == compiled + 1, "acting compiles once"
    with pytest.raises(ValueError, match="expected act first"):
        policy.observe(rewards, terminated, truncated)
    with pytest.raises(ValueError, match="expected observations of shape"):
        policy.act(np.zeros((3, 5), np.float32))


@pytest.mark.parametrize("preset", ["dark-room-dt", "dark-room-bc"])
def test_the_other_agents_go_the_same_way(preset, tmp_path, runs):
    data = runs.parent / "data"
    words = ["--runs", str(tmp_path), "--data.parent", str(data)]
    assert main(["train", preset, *words, *TINY]) == 0
    evaluation = json.loads(
        (tmp_path / preset / "evaluation" / "evaluation.json").read_text()
    )
    assert evaluation["counts"]["trials"] == 3
