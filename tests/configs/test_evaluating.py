"""Evaluations: what is kept when they end early, demonstrations, controls, films."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.cli import main
from ring_rl.collect import DarkRoomBehaviour, record
from ring_rl.configs import asked as asked_module
from ring_rl.configs import evaluating
from ring_rl.configs.asked import Asked
from ring_rl.configs.controls import Control
from ring_rl.configs.datasets import Derived, derive, write_derived
from ring_rl.configs.demonstrations import open_demonstrations
from ring_rl.configs.evaluating import evaluate
from ring_rl.configs.run import DarkRoom, EvaluationConfig, RunConfig
from ring_rl.configs.saved import claim_folder, digest
from ring_rl.configs.sources import Collected
from ring_rl.data.chains import ChainConfig
from ring_rl.data.rlds import write_rlds
from ring_rl.envs import DarkRoomEnv
from ring_rl.evaluate import report
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Discrete, Scaling, Spaces

ROOM = DarkRoom(size=3, max_steps=4, held_out=2)
CONFIG = RunConfig(
    name="room",
    agent=AgenticTransformer(
        trunk=TrunkConfig(layers=1, width=8, heads=2),
        chains=ChainConfig(trajectories=3),
    ),
    data=Collected(),
    environment=ROOM,
    evaluation=EvaluationConfig(trials=3, rollouts=2),
)
SPACES = Spaces(6, Discrete(5))
DERIVED = Derived(
    SPACES, Scaling((0.0,) * 6, (1.0,) * 6, 2.0, 1.0), 2.0, "given", 100, 25
)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """Two seeds whose models are as they were drawn."""
    for seed in (0, 1):
        folder = tmp_path / "room" / f"seed-{seed}"
        claim_folder(folder, dataclasses.replace(CONFIG, seed=seed))
        write_derived(folder / "data.json", DERIVED)

    def load_model(folder):
        seed = int(folder.name.removeprefix("seed-"))
        rules = ShardingRules(make_mesh(MeshConfig()))
        model = CONFIG.agent.build(SPACES, DERIVED.scaling, rules, seed=seed)
        return dataclasses.replace(CONFIG, seed=seed), DERIVED, model

    monkeypatch.setattr(evaluating, "load_model", load_model)
    return tmp_path / "room"


@pytest.fixture
def rolled_out(monkeypatch):
    """Counts rollouts; after as many as `allowed`, Ctrl-C."""
    real, done = evaluating.rollout, []

    def rollout(*arguments, **options):
        if len(done) == rollout.allowed:
            raise KeyboardInterrupt
        done.append(options)
        return real(*arguments, **options)

    rollout.allowed = 99
    rollout.done = done
    monkeypatch.setattr(evaluating, "rollout", rollout)
    return rollout


def result(folder: Path) -> bytes:
    return (folder / "evaluation.json").read_bytes()


def test_what_was_rolled_out_before_ctrl_c_is_gone_on_from(run, rolled_out, capsys):
    evaluate(run)
    whole, folder = result(run / "evaluation"), run / "evaluation"
    assert not (folder / "unfinished").exists()
    (folder / "evaluation.json").unlink()
    rolled_out.allowed = 3
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 130
    error = capsys.readouterr().err
    assert "1 of 2 seeds are rolled out and kept in" in error
    assert [path.name for path in (folder / "unfinished").iterdir()] == ["seed-0.json"]
    assert not (folder / "evaluation.json").exists()
    # Other conditions have no use for it.
    rolled_out.allowed = 99
    evaluate(run, Asked(trials=2))
    assert len(rolled_out.done) == 5
    assert main(["evaluate", str(run)]) == 0
    assert len(rolled_out.done) == 6
    assert "seed 0: was rolled out before, kept" in capsys.readouterr().err
    assert result(folder) == whole
    assert not (folder / "unfinished").exists()


@pytest.mark.parametrize("change", ["target", "seed", "broken", "weights"])
def test_what_is_of_something_else_is_not_gone_on_from(run, rolled_out, change):
    rolled_out.allowed = 1
    weights = run / "seed-0" / "checkpoints" / str(CONFIG.loop.steps) / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1234")
    with pytest.raises(KeyboardInterrupt):
        evaluate(run)
    file = run / "evaluation" / "unfinished" / "seed-0.json"
    if change == "broken":
        file.write_bytes(file.read_bytes()[:-9])
    elif change == "weights":
        weights.write_bytes(b"1235")
    else:
        content = json.loads(file.read_text())
        identity = content["identity"]
        if change == "target":
            identity["conditions"]["target_return"] += 1
        else:
            identity["seed"] = 1
        file.write_text(json.dumps(content))
    rolled_out.allowed = 99
    evaluate(run)
    assert len(rolled_out.done) == 3


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_an_environment_that_fails_is_one_line(run, monkeypatch, capsys, fault):
    real, steps = DarkRoomEnv.step, []

    def step(self, action):
        steps.append(1)
        observation, reward, *rest = real(self, action)
        # In the second seed's rollouts: the first's are 4 rows of 3 trials of 4 steps.
        if len(steps) == 48 + 7:
            if fault == "raise":
                raise OSError("the door is shut")
            reward = float("nan")
        return observation, reward, *rest

    monkeypatch.setattr(DarkRoomEnv, "step", step)
    # One process: what is patched here is not in others.
    assert main(["evaluate", str(run), "--processes", "1"]) == 2
    *_, kept, line = capsys.readouterr().err.splitlines()
    assert "1 of 2 seeds are rolled out and kept" in kept
    assert line.startswith("ring-rl: error: ring_rl/DarkRoom-v0, row 2: ")
    expected = {"raise": "OSError at step 2 of an episode: the door", "nan": "NaN"}
    assert expected[fault] in line
    files = [path for path in (run / "evaluation").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["seed-0.json"]


def test_a_full_disk_leaves_nothing_that_looks_complete(run, monkeypatch, capsys):
    real = report.os.replace

    def replace(here, there):
        if there.name == "evaluation.json":
            raise OSError(28, "No space left on device")
        real(here, there)

    monkeypatch.setattr(report.os, "replace", replace)
    assert main(["evaluate", str(run)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    folder = run / "evaluation"
    assert "No space left on device" in error
    assert str(folder / "evaluation.json") in error
    assert not (folder / "evaluation.json").exists()
    assert not list(folder.rglob("*.tmp"))
    kept = sorted(path.name for path in (folder / "unfinished").iterdir())
    assert kept == ["seed-0.json", "seed-1.json"]


def test_processes_and_films_change_nothing(run, capsys):
    evaluate(run)
    before = result(run / "evaluation")
    assert main(["evaluate", str(run), "--processes", "2", "--video"]) == 0
    assert result(run / "evaluation") == before
    video = run / "evaluation" / "video"
    # Of two tasks with two rows each, the first of both; the first and the last trial.
    assert sorted(path.name for path in video.iterdir()) == [
        *("row-0_trial-1.gif", "row-0_trial-3.gif"),
        *("row-2_trial-1.gif", "row-2_trial-3.gif"),
        *("strip_row-0.png", "strip_row-2.png"),
    ]
    with Image.open(video / "row-0_trial-1.gif") as image:
        durations = []
        for picture in ImageSequence.Iterator(image):
            assert picture.size == (72, 72)
            durations.append(picture.info["duration"])
    # The start and four steps; what does not move is one picture for longer.
    assert sum(durations) == 5 * 100


def test_what_draws_no_pictures_says_so(run, monkeypatch, capsys):
    monkeypatch.setitem(DarkRoomEnv.metadata, "render_modes", ["ansi"])
    assert main(["evaluate", str(run), "--video"]) == 2
    assert "expected rgb_array among its render modes" in capsys.readouterr().err
    monkeypatch.setitem(DarkRoomEnv.metadata, "render_modes", ["rgb_array"])

    def render(self):
        raise RuntimeError("no screen")

    monkeypatch.setattr(DarkRoomEnv, "render", render)
    assert main(["evaluate", str(run), "--video"]) == 2
    error = capsys.readouterr().err
    assert "cannot be drawn on this machine (RuntimeError: no screen)" in error
    assert not (run / "evaluation").exists()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Six episodes of each held-out goal."""
    folder = tmp_path_factory.mktemp("demonstrations") / "room"
    rows = ROOM.make(4, seed=1)
    tasks = [task for task in ROOM.evaluation_tasks for _ in range(6)]
    episodes = record(rows, DarkRoomBehaviour(3, 0.5), tasks=tasks, seed=1)
    write_rlds(episodes, rows.spaces, folder, name="room", source="a test")
    return folder


def test_demonstrations_are_of_the_rows_task_and_ascend(dataset):
    demonstrations = open_demonstrations(dataset, 4)
    config, names = CONFIG.agent.chains, [*ROOM.evaluation_tasks] * 5
    drawn = demonstrations.draw(names, config, seed=0, unsorted=False)
    again = demonstrations.draw(names[:3], config, seed=0, unsorted=False)
    mixed = demonstrations.draw(names, config, seed=0, unsorted=True)
    store = demonstrations.store
    orders = []
    for name, chain, other in zip(names, drawn, mixed, strict=True):
        rewards = chain.rewards.reshape(4, 4).tolist()
        returns = chain.rewards.reshape(4, 4).sum(axis=1)
        assert (np.diff(returns) >= 0).all()
        np.testing.assert_array_equal(chain.target_returns[::4], returns.max())
        known = store.select(store.by_task()[name]).rewards.reshape(-1, 4).tolist()
        assert all(episode in known for episode in rewards)
        # The same episodes.
        shuffled = other.rewards.reshape(4, 4).tolist()
        assert sorted(shuffled) == sorted(rewards)
        orders.append(shuffled == rewards)
    assert not all(orders)
    for one, same in zip(drawn, again, strict=False):
        np.testing.assert_array_equal(one.observations, same.observations)


def test_demonstrations_are_read_and_recorded(run, rolled_out, dataset):
    asked = Asked(demonstrations=dataset)
    conditions = evaluate(run, asked)["conditions"]
    # One less than in the longest chains.
    assert conditions["demonstrations"].startswith("2 a row of room (")
    one, two = (done["demonstrations"] for done in rolled_out.done)
    assert [len(chain.rewards) for chain in one] == [8] * 4
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.actions, second.actions)
    evaluate(run, dataclasses.replace(asked, control="other-task"))
    other = rolled_out.done[-1]
    assert [tasks[-1] for tasks in other["tasks"]] == [
        name for name in ROOM.evaluation_tasks for _ in "ab"
    ]
    own, wrong = (
        np.stack([c.rewards for c in x]) for x in (two, other["demonstrations"])
    )
    assert not np.array_equal(own, wrong)
    assert len(list((run / "evaluations").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "cleared:3"}, "more than 3 trials, found 3"),
        ({"control": "cleared:x"}, "found 'cleared:x'"),
        ({"control": "unsorted"}, "at least 2 a row, found none"),
        ({"control": "other-task", "trials": 1}, "found 2 and 1"),
        ({"control": "cleared", "demonstrations": True}, "would be cleared too"),
        ({"demonstrations": True, "demonstrations_per_row": 7}, "found 6"),
        ({"target": "many"}, "target: expected a number"),
        ({"target": "120%"}, "percentile such as 95%, found '120%'"),
        ({"target": "nan"}, "target: expected a number"),
        ({"control": "cleared:0"}, "cleared:K or unsorted, found 'cleared:0'"),
        ({"control": "any"}, "expected none, other-task"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(run, dataset, options, message):
    if options.get("demonstrations"):
        options = {**options, "demonstrations": dataset}
    with pytest.raises(ValueError, match=message):
        evaluate(run, Asked(**options))
    assert not list(run.glob("evaluation*"))


def test_a_dataset_of_other_tasks_or_spaces_is_refused(run, tmp_path, dataset):
    for size, task, message in ((3, ROOM.training_tasks[0], "of the task"),
                                (4, "0,0", "expected a dataset of")):  # fmt: skip
        folder = tmp_path / f"other-{size}"
        rows = dataclasses.replace(ROOM, size=size).make(1, seed=0)
        episodes = record(rows, DarkRoomBehaviour(size, 0.5), tasks=[task] * 3, seed=0)
        write_rlds(episodes, rows.spaces, folder, name="room", source="a test")
        with pytest.raises(ValueError, match=f"demonstrations: .*{message}"):
            evaluate(run, Asked(demonstrations=folder))
    draw = open_demonstrations(dataset, 1).draw
    with pytest.raises(ValueError, match="of a single task"):
        draw([""], CONFIG.agent.chains, seed=0, unsorted=False)


def test_a_cleared_context_is_that_of_an_agent_that_clears_it():
    agent = Control.parse("cleared:2").agent(CONFIG.agent)
    assert agent == dataclasses.replace(CONFIG.agent, trials_in_context=2)
    assert str(Control.parse("cleared")) == "cleared:1"
    decision = DecisionTransformer()
    with pytest.raises(ValueError, match="clears its context after every trial"):
        Control("cleared", 1).check(decision, tasks=1, trials=4, demonstrations=0)


FORGETS = dataclasses.replace(CONFIG.agent, trials_in_context=3)
SORTS = dataclasses.replace(CONFIG.agent, recall="ascending")
SHUFFLED = dataclasses.replace(CONFIG.agent, chains=ChainConfig(order="shuffled"))


@pytest.mark.parametrize(
    ("control", "agent", "trials", "demonstrations", "message"),
    [
        ("other-task", DecisionTransformer(), 4, 0, "at the last of 4, found one"),
        ("other-task", BehaviorCloning(), 4, 0, "after every step"),
        ("other-task", FORGETS, 4, 0, "after every 3 trials"),
        ("other-task", FORGETS, 3, 1, "after every 3 trials"),
        ("none", DecisionTransformer(), 4, 2, "demonstrations: .* every trial, and 2"),
        ("none", BehaviorCloning(), 4, 2, "demonstrations: .* after every step"),
        ("none", FORGETS, 4, 3, "demonstrations: .* every 3 trials, and 3 a row"),
        ("other-task", FORGETS, 4, 6, "demonstrations: .* every 3 trials, and 6"),
        ("unsorted", SHUFFLED, 4, 2, "in such an order anyway"),
        ("unsorted", DecisionTransformer(), 4, 2, "every trial, and 2 a row"),
        ("unsorted", SORTS, 4, 2, "found recall 'ascending', which sorts"),
        ("cleared:3", FORGETS, 9, 0, "remembers more trials"),
        ("cleared", BehaviorCloning(), 4, 0, "after every step"),
    ],
)
def test_what_would_change_nothing_is_refused(
    control, agent, trials, demonstrations, message
):
    asked = {"tasks": 2, "trials": trials, "demonstrations": demonstrations}
    with pytest.raises(ValueError, match=message):
        Control.parse(control).check(agent, **asked)
    # One trial more or less is enough where the agent remembers at all.
    if agent is FORGETS and control != "cleared:3":
        for more in (-1, 1):
            if demonstrations:
                asked["demonstrations"] = demonstrations + more
            else:
                asked["trials"] = trials + more
            Control.parse(control).check(agent, **asked)


def test_trials_are_recalled_in_the_order_asked_for():
    own, sorts = Asked().config(CONFIG), Asked(recall="ascending").config(CONFIG)
    assert own == CONFIG
    assert sorts == dataclasses.replace(CONFIG, agent=SORTS)
    # The same training.
    assert digest(sorts) == digest(CONFIG)
    assert Asked(recall="ascending").folder(CONFIG, None).name == "recall-ascending"
    assert Asked(recall="ascending").folder(sorts, None).name == "evaluation"
    for agent in (DecisionTransformer(), BehaviorCloning()):
        with pytest.raises(ValueError, match="several earlier trials in a context"):
            Asked(recall="ascending").config(dataclasses.replace(CONFIG, agent=agent))
    # Emptied so often, a context has no order.
    assert Control.parse("cleared:2").agent(SORTS).recall == "played"
    assert Control.parse("cleared:3").agent(SORTS).recall == "ascending"


def test_a_target_is_given_or_of_the_training_data(run, monkeypatch, dataset):
    given = evaluate(run, Asked(target="1.5"))["conditions"]
    assert (given["target_return"], given["target_rule"]) == (1.5, "given")
    store = open_demonstrations(dataset, 1).store
    monkeypatch.setattr(asked_module, "open_datasets", lambda config: [store])
    with pytest.raises(ValueError, match="different are scaling, steps, episodes;"):
        evaluate(run, Asked(target="50%"))
    same = dataclasses.replace(derive(CONFIG, [store]), target_return=2.0)
    for seed in (0, 1):
        (run / f"seed-{seed}" / "data.json").unlink()
        write_derived(run / f"seed-{seed}" / "data.json", same)
    drawn = evaluate(run, Asked(target="50%"))["conditions"]
    assert drawn["target_return"] == np.median(store.returns)
    assert drawn["target_rule"] == "50th percentile of the training returns"


def test_only_what_is_not_as_the_run_has_it_makes_a_folder_of_its_own():
    def name(**asked):
        return Asked(**asked).folder(CONFIG, None).as_posix()

    own = CONFIG.evaluation
    assert name() == "evaluation"
    assert "evaluation" == name(
        environment=ROOM.id,
        trials=own.trials,
        episodes=own.rollouts,
        temperature=own.temperature,
        target="95.0%",
    )
    assert name(trials=9, control="cleared:2") == (
        "evaluations/trials-9_control-cleared-2"
    )
    assert name(target="50.00%") == "evaluations/target-50%"
    ids = ("a/b", "a-b", "a:b", "a_b")
    folders = {name(environment=env_id) for env_id in ids}
    assert len(folders) == 4 and all(one.count("/") == 1 for one in folders)
