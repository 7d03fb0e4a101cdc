"""Every command and every program of README.md is run."""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from ring_rl.cli import main
from ring_rl.envs.exorl import make_exorl

README = Path(__file__).parents[1] / "README.md"

# Installing is for .ci/run, which does it in environments of its own. Training and
# benchmarks are cut short here; test_quickstart.py trains the first preset.
INSTALLING = ("pip install", "python -m pytest")
SHORT = {
    "dark-room": "--environment.size 9 --data.episodes 4 --loader.rows 2",
    "point-mass": "--environment.goals 4 --environment.held-out 4 --data.episodes 2 "
    "--data.relabelled 1 --loader.rows 1",
    "hopper": "--loader.row-steps 80 --environment.id Hopper-v5",
    "offline": "--loader.row-steps 80",
}
SHORT["point-mass-dt"] = SHORT["point-mass"]
TOKENS = {
    "attention": "--tokens 512",
    "decode": "--tokens 2048",
    "memory": "--tokens 2048,4096",
}
SHORTER = (
    "--agent.trunk.layers 1 --agent.trunk.width 8 --agent.trunk.heads 1 --loop.steps 2 "
    "--loop.log-every 1 --loop.checkpoint-every 1 --evaluation.rollouts 1 "
    "--evaluation.trials 2"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


def write_d4rl(path: Path, observation: int, action: int) -> None:
    """Thirty random steps in D4RL's form."""
    random = np.random.default_rng(0)
    ends = np.arange(30) % 10 == 9
    following = random.standard_normal((31, observation)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = following[:-1], following[1:]
        file["actions"] = random.uniform(-1, 1, (30, action)).astype(np.float32)
        file["rewards"] = random.random(30).astype(np.float32)
        file["terminals"] = ends
        file["timeouts"] = np.zeros(30, bool)


def write_actor(path: Path, observation: int, action: int) -> None:
    """A network of two layers with random weights, as `data collect` reads it."""
    random = np.random.default_rng(0)
    widths = {"latent_pi.0": (8, observation), "latent_pi.2": (8, 8), "mu": (action, 8)}
    arrays = {}
    for name, shape in widths.items():
        arrays[f"{name}.weight"] = random.standard_normal(shape).astype(np.float32)
        arrays[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    np.savez(path, **arrays)


def write_exorl(folder: Path) -> None:
    """Two episodes of the walker in ExoRL's form."""
    folder.mkdir(parents=True)
    for index in range(2):
        environment = make_exorl("walker_walk", seed=index)
        random = np.random.default_rng(index)
        action = np.zeros(6, np.float32)
        steps, rows = [environment.reset()], []
        for number in range(31):
            step = steps[-1]
            observation = np.concatenate(
                [np.ravel(x) for x in step.observation.values()]
            )
            rows.append({
                "observation": observation.astype(np.float32), "action": action,
                "reward": np.array([step.reward or 0], np.float32),
                "discount": np.ones(1, np.float32),
                "physics": environment.physics.get_state(),
            })  # fmt: skip
            action = random.uniform(-1, 1, 6).astype(np.float32)
            if number < 30:
                steps.append(environment.step(action))
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        np.savez(folder / f"episode_{index:06d}_30.npz", **arrays)


@pytest.mark.slow
def test_every_command_and_program_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_d4rl(tmp_path / "my_data.hdf5", 11, 3)
    write_d4rl(tmp_path / "maze2d.hdf5", 4, 2)
    write_exorl(tmp_path / "exorl" / "walker" / "rnd" / "buffer")
    write_actor(tmp_path / "actor.npz", 11, 3)
    ran = 0
    for command in commands():
        words = shlex.split(command)
        if command.startswith(INSTALLING):
            continue
        assert words[0] == "ring-rl", command
        if words[1] == "train" and "--help" not in words:
            words += f"{SHORT[words[2]]} {SHORTER}".split()
        if "--steps" in words and words[2] == "collect":
            words[words.index("--steps") + 1] = "1200"
        if words[1] == "bench" and "--help" not in words:
            words += TOKENS.get(words[2], "").split()
        assert main(words[1:]) == 0, (command, capsys.readouterr().err)
        ran += 1
    assert ran >= 15
    assert (tmp_path / "report" / "report.html").exists()
    for program in blocks("python"):
        exec(compile(program, str(README), "exec"), {})
    assert "trial 3: mean return" in capsys.readouterr().out


def test_pictures_and_folders_exist():
    text = README.read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text) + ["RESULTS.md"]:
        assert (README.parent / name).exists(), name
    for folder in re.findall(r"^\| `(.*?)/` \|", text, re.MULTILINE):
        assert (README.parent / folder).is_dir(), folder
