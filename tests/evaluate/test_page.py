"""The report's page: what it shows, that it stands alone, and what it does not hide."""

import base64
import dataclasses
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ring_rl.evaluate import recordings
from ring_rl.evaluate.contents import by_task, gather, trained_for
from ring_rl.evaluate.page import html_page
from ring_rl.evaluate.pictures import name_all
from ring_rl.evaluate.protocol import Conditions, summarise, timing
from ring_rl.evaluate.report import write_evaluation
from ring_rl.evaluate.tables import number
from ring_rl.types import Rollouts

CONDITIONS = Conditions(
    name="dark_room",
    agent="agentic_transformer",
    environment="ring_rl/DarkRoom-v0",
    target_return=12.0,
    target_rule="90th percentile of the data",
    temperature=1.0,
)
PNG = b"\x89PNG"


def make_rollouts(seed, trials=4, rows=16):
    returns = np.random.default_rng(seed).normal(3, 1, (rows, trials))
    return Rollouts(
        returns=returns + np.arange(trials),
        lengths=np.full(returns.shape, 20, np.int64),
        terminated=np.zeros(returns.shape, np.bool_),
        tasks=tuple(f"goal {row % 4}" for row in range(rows)),
        environment_steps_per_second=1000.0,
        decode_milliseconds=2.0,
    )


def write_evaluated(folder, seeds=(0, 1), conditions=CONDITIONS, **options):
    rollouts = [make_rollouts(seed, **options) for seed in seeds]
    evaluation = summarise(rollouts, conditions, seeds=seeds, resamples=100)
    write_evaluation(folder, evaluation, timing(rollouts, seeds), rollouts)
    return folder


def write_run(folder, seed, *, made=40, name="dark_room"):
    """What training leaves of 40 updates, of which `made` were made."""
    folder.mkdir(parents=True)
    config = {"name": name, "seed": seed, "loop": {"steps": 40, "log_every": 10}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        json.dumps({"step": step, "loss": 1 / step, "accuracy": 0.5})
        for step in range(10, made + 1, 10)
    ]
    # The line that a run died in.
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4']))


def write_look(folder, **changes):
    evaluation = json.loads((folder / "evaluation.json").read_text())
    steps = [[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1], [0.0, None, None, None]]
    by_trial = [0.4, 0.6, 0.0]
    look = {
        "seed": 0, "task": "goal 1", "rollout_seed": 0, "temperature": 1.0,
        "target_return": 12.0, "layers": 2, "heads": 2, "trial": 3, "step": 1,
        "returns": [1.0, 9.0, 8.0], "lengths": [4, 4, 4], "steps_seen": [4, 4, 1],
        "by_trial": by_trial, "by_layer_and_trial": [by_trial, by_trial],
        "by_trial_and_step": steps, "moments": [1, 4],
        "by_moment_and_trial": [by_trial, by_trial],
        "conditions": evaluation["conditions"],
        "trials": evaluation["counts"]["trials"],
    }  # fmt: skip
    (folder / "attention.json").write_text(json.dumps({**look, **changes}))


@pytest.fixture
def runs(tmp_path):
    """Two seeds, a control of theirs, another environment, and two that failed."""
    parent = tmp_path / "runs"
    for seed in (0, 1):
        write_run(parent / "agent" / f"seed-{seed}", seed)
    write_evaluated(parent / "agent" / "evaluation")
    other = dataclasses.replace(CONDITIONS, control="other-task")
    write_evaluated(
        parent / "agent" / "evaluations" / "control-other-task", conditions=other
    )
    hopper = dataclasses.replace(
        CONDITIONS, name="<hopper> & co", environment="Hopper-v5"
    )
    write_evaluated(parent / "h" / "evaluation", (0,), hopper, trials=1)
    write_run(parent / "stopped", 3, made=20, name="stopped")
    (parent / "broken").mkdir()
    (parent / "broken" / "config.json").write_text("{")
    return parent


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.ids, self.links = [], [], [], []
        self.rows = 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute of {tag} twice"
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        if tag == "th":
            assert found["scope"] in ("row", "col")
            self.rows += found["scope"] == "row"
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in found)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_stands_alone_and_is_well_formed(runs):
    text, pictures = html_page(gather([runs]))
    page = Page(text)
    assert "http" not in text and "url(" not in text
    assert set(page.links) == {f"#{name}" for name in page.ids}
    assert len(page.ids) == len(set(page.ids))
    for image in page.images:
        kind, content = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(PNG)
        assert len(image["alt"]) > 40
    # The files are the pictures of the page.
    assert [base64.b64decode(i["src"].split(",")[1]) for i in page.images] == [
        picture.content for picture in pictures
    ]
    files = [picture.file for picture in pictures]
    assert len(set(files)) == len(files)
    for kind in ("return_by_trial", "distribution", "by_task", "learning_loss"):
        assert f"{kind}_ring_rl-DarkRoom-v0.png" in files
    assert "&lt;hopper&gt; &amp; co" in text
    for word in (
        "max of n", "D4RL score", "other-task", "90th percentile", "bootstrap",
        "2 seeds", "interquartile mean", "10,000 resamples",
    ):  # fmt: skip
        assert word in text


def test_the_same_files_give_the_same_page(runs):
    assert html_page(gather([runs])) == html_page(gather([runs]))


def test_what_is_not_complete_is_said(runs):
    parts = runs / "agent" / "evaluations" / "trials-9" / "unfinished"
    parts.mkdir(parents=True)
    (parts / "seed-0.json").write_text("{}")
    write_run(runs / "late", 4, name="late")
    contents = gather([runs])
    text, pictures = html_page(contents)
    for name, problem in (
        ("broken", "cannot be read"),
        ("stopped", "stopped after 20 of 40 updates"),
        ("late", "trained to its end, not evaluated"),
        ("trials-9", "an evaluation was stopped, 1 of its seeds"),
    ):
        (line,) = [x for x in contents.problems if f"/{name}:" in x]
        assert problem in line and line in text
    assert len(contents.problems) == 4
    # Curves of runs that have no evaluation are there too.
    assert "learning_loss_not-evaluated.png" in [one.file for one in pictures]
    (alt,) = [p.alt for p in pictures if p.file == "learning_loss_not-evaluated.png"]
    assert "stopped, seed 3: 0.05 at update 20" in alt


def test_runs_alone_are_a_page_and_nothing_is_not(tmp_path):
    write_run(tmp_path / "run", 0)
    text, pictures = html_page(gather([tmp_path / "run"]))
    assert Page(text).rows == 1
    assert "0 evaluated configurations" in text
    assert [one.file[:8] for one in pictures] == ["learning"] * 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: expected an evaluation.json"):
        gather([tmp_path / "run", tmp_path / "empty"])


def test_a_run_keeps_its_name_and_colour(runs):
    contents = gather([runs])
    names = name_all(contents)
    assert names.evaluated == [
        "dark_room",
        "dark_room (control: other-task)",
        "<hopper> & co",
    ]
    agent = [h for h in contents.histories if h.owner.name == "agent"]
    assert [history.seed for history in agent] == [0, 1]
    for index in (0, 1):
        assert trained_for(contents.evaluated[index], contents.histories) == agent
    for history, name in zip(contents.histories, names.histories, strict=True):
        assert name == ("dark_room" if history in agent else "stopped")
    colours = {style.colour for style in names.given.values()}
    assert len(colours) == len(names.given) == 4


def test_an_evaluation_finds_its_runs_beside_it(runs):
    contents = gather([runs / "agent" / "evaluation"])
    assert [history.seed for history in contents.histories] == [0, 1]
    assert contents.problems == []
    # One seed of several that is evaluated by itself.
    alone = write_evaluated(runs / "agent" / "seed-1" / "evaluation", (1,), rows=8)
    contents = gather([alone])
    assert [history.seed for history in contents.histories] == [1]
    assert contents.problems == []
    assert trained_for(contents.evaluated[0], contents.histories)


@pytest.mark.parametrize("inner", ["evaluation", "evaluations/trials-4"])
def test_an_evaluation_that_one_stands_in_finds_its_runs(tmp_path, monkeypatch, inner):
    write_run(tmp_path / "run", 0)
    monkeypatch.chdir(write_evaluated(tmp_path / "run" / inner, (0,)))
    contents = gather([Path(".")])
    assert len(trained_for(contents.evaluated[0], contents.histories)) == 1
    assert contents.problems == []


def test_tasks_by_themselves(runs):
    own, control, hopper = gather([runs]).evaluated
    rollouts = [make_rollouts(seed) for seed in (0, 1)]
    rows = np.concatenate([one.returns[1::4] for one in rollouts])
    first, last, count = by_task(own)["goal 1"]
    np.testing.assert_allclose([first, last], rows.mean(0)[[0, -1]])
    assert count == 8
    # Its first trial was played in another task.
    assert by_task(control)["goal 1"][0] is None
    assert by_task(hopper)["goal 1"][0] is not None


def test_what_was_played_in_another_task_is_not_shown(runs):
    contents = gather([runs])
    control = contents.evaluated[1].evaluation
    text, pictures = html_page(contents)
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", text, re.DOTALL)
    mine = [row for row in rows if "other-task" in row]
    statistics, *_ = mine
    assert statistics.count("<td>-</td>") == 4
    assert number(control["last"]["value"]) in statistics
    for row in [row for row in mine if "), seed " in row]:
        assert row.count("<td>-</td>") == 4
    assert text.count("played in another task") > 3
    for one in pictures:
        if one.file.endswith("by_trial_ring_rl-DarkRoom-v0.png"):
            value = number(control["last"]["value"])
            assert f"(control: other-task) at {value} in trial 4" in one.alt


def test_attention_is_shown_where_it_was_looked_at(runs):
    folder = runs / "agent" / "evaluation"
    write_look(folder)
    contents = gather([runs])
    assert [look is None for look in contents.looks] == [False, True, True]
    text, pictures = html_page(contents)
    kinds = [one for one in pictures if one.file.startswith("attention")]
    assert len(kinds) == 3
    assert "trial 2 (return 9): 60.0 %" in kinds[0].alt
    assert "seed 0 of 2 evaluated, task goal 1" in text
    # Where a context holds but its own trial, one picture says so.
    write_look(folder, steps_seen=[0, 0, 1])
    pictures = html_page(gather([runs]))[1]
    assert sum(one.file.startswith("attention") for one in pictures) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "0"},
        {"task": 3},
        {"temperature": None},
        {"returns": ["1", "x", "y"]},
        {"returns": 5},
        {"by_trial": [0.5, 0.5]},
        {"steps_seen": [0, 0, 0]},
        {"moments": []},
        {"by_trial_and_step": [[0.1], ["x"], [None]]},
        {"layers": 3},
    ],
)
def test_attention_of_other_types_is_said(runs, changes):
    folder = runs / "agent" / "evaluation"
    write_look(folder, **changes)
    contents = gather([runs])
    assert contents.looks[0] is None
    lines = [line for line in contents.problems if "attention.json" in line]
    assert len(lines) == 1 and "cannot be read" in lines[0]


def test_attention_under_other_conditions_is_not_shown(runs):
    folder = runs / "agent" / "evaluation"
    other = dataclasses.asdict(dataclasses.replace(CONDITIONS, temperature=0.5))
    for changes in ({"conditions": other}, {"trials": 9}, {"seed": 7}):
        write_look(folder, **changes)
        contents = gather([runs])
        assert contents.looks[0] is None
        assert sum("look again with --attention" in x for x in contents.problems) == 1


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.jsonl", "[1]", "metrics.jsonl, line 1"),
        ("metrics.jsonl", '{"step": 1}\n{"loss": 1}', "metrics.jsonl, line 2"),
        ("metrics.jsonl", '{"step": Infinity}', "metrics.jsonl, line 1"),
        ("metrics.jsonl", DEEP, "RecursionError"),
        ("config.json", DEEP, "RecursionError"),
        ("config.json", '{"name": "x", "seed": 0, "loop": 5}', "TypeError"),
        ("config.json", '{"name": ["x"], "seed": 0}', "TypeError"),
        ("evaluation/attention.json", DEEP, "RecursionError"),
        ("evaluation/attention.json", "[]", "TypeError"),
    ],
)
def test_one_bad_file_does_not_cost_the_report(tmp_path, file, content, said):
    write_run(tmp_path / "run", 0)
    write_evaluated(tmp_path / "run" / "evaluation", (0,))
    (tmp_path / "run" / file).write_text(content)
    (tmp_path / "run" / "evaluation" / "timing.json").write_text('{"seeds": 5}')
    contents = gather([tmp_path])
    assert len(contents.evaluated) == 1
    (line,) = contents.problems
    assert said in line and str(tmp_path / "run") in line


def test_recordings_are_embedded_up_to_a_limit(runs, monkeypatch):
    folder = runs / "agent" / "evaluation" / "video"
    folder.mkdir()
    for name in ("row-10_trial-1.gif", "row-2_trial-1.gif", "row-2_trial-12.gif"):
        (folder / name).write_bytes(b"GIF89a" + bytes(100))
    (folder / "strip_row-2.png").write_bytes(PNG + bytes(100))
    text, pictures = html_page(gather([runs]))
    shown = [image for image in Page(text).images if image["class"] != "chart"]
    assert [image["alt"] for image in shown] == [
        "dark_room: pictures, rollout 3",
        "dark_room: film, rollout 3, trial 1",
        "dark_room: film, rollout 3, trial 12",
        "dark_room: film, rollout 11, trial 1",
    ]
    assert "left out" not in text
    found = recordings.find_recordings(folder.parent)
    taken, left = recordings.within(found, 230)
    assert [one.path.name for one in taken] == [
        "strip_row-2.png",
        "row-2_trial-1.gif",
    ]
    assert len(left) == 2
    for module in ("page", "section"):
        monkeypatch.setattr(f"ring_rl.evaluate.{module}.LIMIT", 2 * 230)
    text, _ = html_page(gather([runs]))
    assert "dark_room: 2 of 4 recordings" in text
