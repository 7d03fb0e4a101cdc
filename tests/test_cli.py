import dataclasses
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ring_rl
from ring_rl.cli import main
from ring_rl.runtime import prepare
from ring_rl.train.stopping import Stopped


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """An agent.

    Attributes:
      width: of the model.
    """

    width: int = 64
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run.

    Attributes:
      name: of the run's folder.
      agent: what is trained.
      seed: of everything random.
      steps: updates.
    """

    name: str
    agent: AgentConfig = AgentConfig()
    seed: int = 5
    steps: int = 100
    clip: float | None = None
    shape: tuple[int, ...] = (1, 2)
    zigzag: bool = True

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")


@pytest.fixture
def calls(monkeypatch):
    """Stands in for `ring_rl.configs`; collects what its functions were given."""
    found = []
    configs = types.ModuleType("ring_rl.configs")
    # The real folder: `overrides` in it is what is tested here.
    configs.__path__ = [str(Path(ring_rl.__file__).parent / "configs")]
    configs.presets = lambda: {"dark_room": TrainConfig("dark_room")}
    configs.describe = lambda: {"dark_room": "hidden goals, minutes on a laptop"}
    running = types.ModuleType("ring_rl.configs.running")
    running.train = lambda config, **options: found.append((config, options))
    monkeypatch.setitem(sys.modules, "ring_rl.configs", configs)
    monkeypatch.setitem(sys.modules, "ring_rl.configs.running", running)
    evaluating = types.ModuleType("ring_rl.configs.evaluating")
    evaluating.evaluate = lambda run, asked: found.append((run, asked)) or {"a": 1}
    monkeypatch.setitem(sys.modules, "ring_rl.configs.evaluating", evaluating)
    asked = types.ModuleType("ring_rl.configs.asked")
    asked.Asked = dict
    monkeypatch.setitem(sys.modules, "ring_rl.configs.asked", asked)
    monkeypatch.setattr(ring_rl, "configs", configs, raising=False)
    monkeypatch.delitem(sys.modules, "ring_rl.configs.overrides", raising=False)
    # Flags and devices of the process that runs the tests are not to be touched.
    monkeypatch.setattr("ring_rl.runtime.prepare", lambda: found.append("prepared"))
    monkeypatch.setattr("ring_rl.runtime.keep_compilations", lambda: None)
    yield found
    sys.modules.pop("ring_rl.configs.overrides", None)


def fails(capsys, *words, code=2):
    """Runs a command that must fail; returns its one line."""
    assert main(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ring-rl: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("train",),
        ("evaluate",),
        ("report",),
        ("data",),
        ("data", "import"),
        ("data", "export"),
        ("data", "inspect"),
        ("list",),
        ("plan",),
    ],
)
def test_every_command_has_help(capsys, words):
    assert main([*words, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(" ".join(["usage: ring-rl", *words]))
    assert captured.err == ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ring-rl {ring_rl.__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "COMMAND"),
        (("tarin",), "'tarin'"),
        (("train",), "PRESET"),
        (("evaluate",), "RUN"),
        (("evaluate", "x", "--trials", "0"), "--trials"),
        (("evaluate", "x", "--trials", "two"), "'two'"),
        (("evaluate", "x", "--temperature", "-1"), "--temperature"),
        (("evaluate", "x", "--processes", "0"), "above 0 or auto"),
        (("evaluate", "x", "--trails", "3"), "--trails 3"),
        (("evaluate", "x", "--tri", "3"), "--tri"),
        (("report",), "RUN"),
        (("data",), "ACTION"),
        (("data", "import", "x", "--out", "y"), "--format"),
        (
            ("data", "import", "x", "--format", "d4rl", "--out", "y")
            + ("--action-bounds", "1"),
            "low,high",
        ),
        (
            ("data", "import", "x", "--format", "npz", "--out", "y")
            + ("--keys", "observations=a,observations=b"),
            "observations=obs",
        ),
        (("data", "export", "x", "--format", "npz"), "--out"),
        (("list", "agents"), "'agents'"),
        (("train", "dark_room", "--seeds", "0,0"), "0,1,2"),
        (("train", "dark_room", "--seeds", "zero"), "'zero'"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, expected):
    assert expected in fails(capsys, *words)


def test_train_hands_on_the_preset(calls):
    assert main(["train", "dark_room"]) == 0
    prepared, (config, options) = calls
    assert prepared == "prepared"
    assert config == TrainConfig("dark_room")
    assert options == {
        "directory": Path("runs/dark_room"),
        "seeds": (5,),
        "evaluate": True,
        "stop_on": (signal.SIGTERM,),
        "profile": False,
    }


def test_train_applies_fields_wherever_its_own_options_stand(calls):
    words = "--agent.width 8 --seeds 0,1 --clip -0.5 --shape 3 4 --no-zigzag"
    words += " --runs out --name=try --agent.dropout 0.1 --no-evaluate --seed 9"
    assert main(["train", "dark_room", *words.split()]) == 0
    config, options = calls[1]
    assert config == TrainConfig(
        "try", AgentConfig(8, 0.1), seed=9, clip=-0.5, shape=(3, 4), zigzag=False
    )
    assert options == {
        "directory": Path("out/try"),
        "seeds": (0, 1),
        "evaluate": False,
        "stop_on": (signal.SIGTERM,),
        "profile": False,
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--seed x", "--seed: expected INT, found 'x'"),
        ("--seed=x", "--seed: expected INT, found 'x'"),
        ("--clip x", "--clip: expected {None}|FLOAT, found 'x'"),
        ("--agent.widht 8", "no field --agent.widht; did you mean --agent.width?"),
        ("--qqq", "no field --qqq (ring-rl train dark_room --help"),
        ("--seed", "'--seed'. Expected 1 value"),
        ("--seed 1 2", "found the word '2' without a field"),
        ("--zigzag False", "--no-field"),
        ("--steps 0", "steps: expected at least 1, found 0"),
    ],
)
def test_a_wrong_field_is_one_line(capsys, calls, words, expected):
    assert expected in fails(capsys, "train", "dark_room", *words.split())
    assert calls == ["prepared"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_wrong_field_is_one_line_whatever_the_output_can_show(
    capsys, monkeypatch, calls, encoding
):
    # The parser of the fields draws its boxes differently.
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    for words, expected in (
        (["--seed", "x"], "--seed: expected INT, found 'x'"),
        (["--steps", "0"], "TrainConfig: steps: expected at least 1, found 0"),
    ):
        assert main(["train", "dark_room", *words]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"ring-rl: error: {expected} (")
        assert line.count("\n") == 1


def test_an_unknown_preset_names_the_nearest(capsys, calls):
    assert "nearest is dark_room" in fails(capsys, "train", "darkroom")
    assert "there are dark_room" in fails(capsys, "train", "xyz")


def test_help_of_a_preset_shows_fields_and_defaults(capsys, calls):
    assert main(["train", "dark_room", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--seeds", "--agent.width", "(default: 64)", "--steps", "updates"):
        assert word in text


def test_evaluate_prints_json_and_nothing_else(capsys, calls, tmp_path):
    words = ["evaluate", str(tmp_path), "--env", "Hopper-v5", "--trials", "4"]
    assert main([*words, "--control", "other-task", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    run, options = calls[1]
    assert run == tmp_path
    assert options == {
        "environment": "Hopper-v5",
        "trials": 4,
        "episodes": None,
        "control": "other-task",
        "recall": None,
        "temperature": None,
        "target": None,
        "demonstrations": None,
        "demonstrations_per_row": None,
        "processes": "auto",
        "video": False,
    }


def test_a_missing_run_is_one_line(capsys, calls, tmp_path):
    path = tmp_path / "missing"
    for words in (("evaluate",), ("report",), ("data", "inspect")):
        line = fails(capsys, *words, str(path))
        assert line == f"ring-rl: error: {path}: expected a folder, found nothing\n"
    (tmp_path / "file").touch()
    assert "found a file" in fails(capsys, "evaluate", str(tmp_path / "file"))


def test_report_of_a_folder_without_evaluations(capsys, tmp_path):
    assert "expected an evaluation.json" in fails(capsys, "report", str(tmp_path))


def test_report_writes_picture_and_page(capsys, tmp_path):
    protocol = importlib.import_module("ring_rl.evaluate.protocol")
    report = importlib.import_module("ring_rl.evaluate.report")
    types_ = importlib.import_module("ring_rl.types")
    np = importlib.import_module("numpy")
    returns = np.arange(12.0).reshape(4, 3)
    one = types_.Rollouts(
        returns, np.ones((4, 3), int), returns > 5, ("task",) * 4, 1.0, 1.0
    )
    conditions = protocol.Conditions("run", "bc", "Hopper-v5", 3600.0, "given", 1.0)
    evaluation = protocol.summarise([one], conditions, seeds=[0])
    run, out = tmp_path / "run", tmp_path / "out"
    report.write_evaluation(run, evaluation, protocol.timing([one], [0]), [one])
    assert main(["report", str(run), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [evaluation]
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        "return_by_trial.png",
        "return_by_trial_Hopper-v5.png",
        "distribution_Hopper-v5.png",
    }
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "max of n" in capsys.readouterr().out


def test_report_takes_a_moment_to_look_at(capsys, tmp_path):
    for word in ("1", "0:1", "last:0", "last:x", str(tmp_path)):
        line = fails(capsys, "report", str(tmp_path), "--attention", word)
        assert "expected TRIAL:STEP such as 8:1 or last:1" in line


def test_data_import_hands_on_its_options(capsys, monkeypatch, tmp_path):
    found = []
    importing = types.ModuleType("ring_rl.data.importing")
    importing.import_dataset = lambda *a, **k: found.append((a, k)) or {"steps": 3}
    monkeypatch.setitem(sys.modules, "ring_rl.data.importing", importing)
    words = ["data", "import", "a.hdf5", "--format", "d4rl", "--out", str(tmp_path)]
    words += ["--action-bounds", "-2,1.5", "--max-episode-steps", "1000", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"steps": 3}
    ((source, format_, directory), options) = found[0]
    assert (source, format_, directory) == (Path("a.hdf5"), "d4rl", tmp_path)
    progress = options.pop("progress")
    assert options == {
        "action_bounds": (-2.0, 1.5),
        "task": None,
        "max_episode_steps": 1000,
        "keys": None,
        "discrete": None,
        "data_dir": None,
        "processes": 1,
        "overwrite": False,
    }
    progress(1, 1000)


def test_list_as_json(capsys, calls, tmp_path):
    (tmp_path / "set" / "1.0.0").mkdir(parents=True)
    (tmp_path / "set" / "1.0.0" / "dataset_info.json").touch()
    assert main(["list", "datasets", "--root", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"datasets": {str(tmp_path / "set" / "1.0.0"): "RLDS"}}
    assert main(["list", "presets"]) == 0
    assert "dark_room  hidden goals" in capsys.readouterr().out


def crash(error):
    def train(*args, **options):
        raise error

    return train


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FileNotFoundError("no x"), 2, "ring-rl: error: no x\n"),
        (FileExistsError("runs/x"), 2, "ring-rl: error: runs/x\n"),
        (OSError("disk\nfull"), 1, "ring-rl: error: disk full\n"),
        (ModuleNotFoundError("pip install x"), 1, "ring-rl: error: pip install x\n"),
        (KeyboardInterrupt(), 130, "ring-rl: interrupted\n"),
    ],
)
def test_exit_codes(capsys, monkeypatch, calls, error, code, line):
    monkeypatch.setattr(sys.modules["ring_rl.configs.running"], "train", crash(error))
    assert main(["train", "dark_room"]) == code
    assert capsys.readouterr().err == line


def test_a_run_that_stops_when_told_has_not_failed(capsys, monkeypatch, calls):
    stopped = Stopped("train dark_room", 137, 400)
    monkeypatch.setattr(sys.modules["ring_rl.configs.running"], "train", crash(stopped))
    assert main(["train", "dark_room"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "ring-rl: train dark_room: stopped at update 137 of 400, its checkpoint is "
        "complete; the same command goes on from there\n"
    )


@pytest.mark.parametrize("error", [RuntimeError("boom"), ValueError("not ours")])
def test_a_failure_of_the_program_keeps_its_traceback(
    capsys, monkeypatch, calls, error
):
    monkeypatch.setattr(sys.modules["ring_rl.configs.running"], "train", crash(error))
    assert main(["train", "dark_room"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.splitlines()[-1] == f"ring-rl: error: {type(error).__name__}: {error}"


def test_a_traceback_of_a_mistake_on_request(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RING_RL_TRACEBACK", "1")
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("Traceback")


def test_prepare_leaves_what_the_user_set(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("PJRT_NPROC", "3")
    flag = "--xla_cpu_collective_call_terminate_timeout_seconds"
    monkeypatch.setenv("XLA_FLAGS", f"{flag}=7")
    prepare()
    assert os.environ["MUJOCO_GL"] == "egl"
    assert os.environ["XLA_FLAGS"] == f"{flag}=7"
    assert os.environ["PJRT_NPROC"] == "3"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("XLA_FLAGS", "--xla_x=1")
    prepare()
    assert os.environ["MUJOCO_GL"] == "disabled"
    assert os.environ["XLA_FLAGS"] == f"--xla_x=1 {flag}=600"


def test_help_imports_nothing_heavy_and_jax_starts_with_four_devices():
    program = (
        "import sys\n"
        "from ring_rl.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'rich', 'tyro', 'gymnasium'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from ring_rl.runtime import prepare\n"
        "prepare()\n"
        "import jax\n"
        "assert len(jax.devices()) == 4, jax.devices()\n"
        "import os\n"
        "assert int(os.environ['PJRT_NPROC']) == 4 + os.cpu_count()\n"
    )
    unset = {"JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "MUJOCO_GL", "PJRT_NPROC"}
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment["JAX_PLATFORMS"] = "cpu"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        cwd=Path(ring_rl.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
