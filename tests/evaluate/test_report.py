import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from ring_rl.evaluate.protocol import Conditions, summarise, timing
from ring_rl.evaluate.report import (
    combine,
    draw_return_by_trial,
    plain_table,
    table,
    write_evaluation,
)
from ring_rl.evaluate.tables import labels
from ring_rl.types import Rollouts

CONDITIONS = Conditions(
    name="dark_room",
    agent="agentic_transformer",
    environment="ring_rl/DarkRoom-v0",
    target_return=12.0,
    target_rule="90th percentile of the data",
    temperature=1.0,
)
FILES = {
    "evaluation.json",
    "timing.json",
    "rollouts.json",
    "return_by_trial.png",
    "table.txt",
}


def make_rollouts(seed, trials=4, rows=16):
    returns = np.random.default_rng(seed).normal(3, 1, (rows, trials))
    return Rollouts(
        returns=returns + np.arange(trials),
        lengths=np.full(returns.shape, 20, np.int64),
        terminated=np.zeros(returns.shape, np.bool_),
        tasks=tuple(f"goal {row}" for row in range(rows)),
        environment_steps_per_second=1000.0,
        decode_milliseconds=2.0,
    )


def write(directory, seeds=(0,), conditions=CONDITIONS, **options):
    rollouts = [make_rollouts(seed, **options) for seed in seeds]
    evaluation = summarise(rollouts, conditions, seeds=seeds, resamples=200)
    write_evaluation(directory, evaluation, timing(rollouts, seeds), rollouts)
    return evaluation


def test_files_of_an_evaluation(tmp_path):
    folder = tmp_path / "run" / "evaluation"
    evaluation = write(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "evaluation.json").read_text()) == evaluation
    assert "second" not in (folder / "evaluation.json").read_text()
    assert json.loads((folder / "timing.json").read_text())["seeds"] == [0]
    assert (folder / "return_by_trial.png").read_bytes().startswith(b"\x89PNG")


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    for name in FILES - {"timing.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write(tmp_path)
    before = (tmp_path / "evaluation.json").read_bytes()
    rollouts = [make_rollouts(1)]
    bad = summarise(rollouts, CONDITIONS, seeds=[1], resamples=200)
    bad["mean"]["value"] = float("nan")
    with pytest.raises(ValueError):
        write_evaluation(tmp_path, bad, timing(rollouts, [1]), rollouts)
    assert (tmp_path / "evaluation.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_seeds_in_several_folders_are_one_evaluation(tmp_path):
    for seed in (2, 0, 1):
        write(tmp_path / f"seed_{seed}" / "evaluation", seeds=(seed,))
    (together,) = combine([tmp_path])
    rollouts = [make_rollouts(seed) for seed in (0, 1, 2)]
    assert together == summarise(rollouts, CONDITIONS, seeds=(0, 1, 2))
    # In whatever order the folders are given, and whatever is given twice.
    folders = [tmp_path / f"seed_{seed}" for seed in (1, 0, 2, 0)]
    assert combine(folders) == [together]


def test_other_conditions_and_other_trials_are_apart(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", seeds=(1,), trials=2)
    control = dataclasses.replace(CONDITIONS, control="other-task")
    write(tmp_path / "c", seeds=(2,), conditions=control)
    # The same seed rolled out more often: another evaluation, not another result.
    write(tmp_path / "d", rows=20)
    warm = dataclasses.replace(CONDITIONS, temperature=0.5)
    write(tmp_path / "e", conditions=warm)
    found = combine([tmp_path])
    assert [evaluation["counts"]["seeds"] for evaluation in found] == [1] * 5
    assert labels(found) == [
        "dark_room, temperature 1, 4 trials, 16 rollouts",
        "dark_room, temperature 1, 2 trials",
        "dark_room (control: other-task)",
        "dark_room, temperature 1, 4 trials, 20 rollouts",
        "dark_room, temperature 0.5",
    ]


def test_one_seed_with_two_results_is_refused(tmp_path):
    write(tmp_path / "a", seeds=(0,))
    rollouts = [make_rollouts(5)]
    evaluation = summarise(rollouts, CONDITIONS, seeds=[0], resamples=200)
    write_evaluation(tmp_path / "b", evaluation, timing(rollouts, [0]), rollouts)
    with pytest.raises(ValueError, match="seed 0 of dark_room .* leave one out"):
        combine([tmp_path / "a", tmp_path / "b"])


def test_a_folder_without_evaluations_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(tmp_path))}: .* none"):
        combine([tmp_path])


@pytest.mark.parametrize("name", ["evaluation.json", "rollouts.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", '{"conditions": {"name": "x"}}', "[" * 100_000]
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    write(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}: .*evaluate the run again"):
        combine([tmp_path])


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("evaluation.json", "control", ["x"]),
        ("evaluation.json", "environment", 5),
        ("evaluation.json", "temperature", "1"),
        ("evaluation.json", "target_return", float("nan")),
        ("rollouts.json", "tasks", [["x"]] * 16),
        ("rollouts.json", "seed", float("inf")),
    ],
)
def test_a_field_of_another_type_is_damage(tmp_path, name, field, value):
    write(tmp_path)
    plain = json.loads((tmp_path / name).read_text())
    (plain["conditions"] if name == "evaluation.json" else plain[0])[field] = value
    (tmp_path / name).write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=f"{name}: .*evaluate the run again"):
        combine([tmp_path])


def evaluations(tmp_path):
    write(tmp_path / "agent", seeds=(0, 1))
    control = dataclasses.replace(CONDITIONS, control="other-task")
    write(tmp_path / "control", seeds=(0, 1), conditions=control)
    hopper = dataclasses.replace(
        CONDITIONS, name="<hopper> & co", environment="Hopper-v5"
    )
    write(tmp_path / "hopper", conditions=hopper, trials=1)
    return combine([tmp_path])


def test_a_picture_names_what_it_shows(tmp_path):
    figure = draw_return_by_trial(evaluations(tmp_path))
    dark_room, hopper = figure.axes
    assert dark_room.get_title(loc="left").startswith("ring_rl/DarkRoom-v0")
    legend = dark_room.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "dark_room",
        "dark_room (control: other-task)",
    ]
    assert dark_room.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    # Of the control, what was played in the rows' own tasks.
    assert list(dark_room.lines[1].get_xdata()) == [4]
    assert "in another task" in " ".join(dark_room.texts[0].get_text().split())
    assert "in another task" not in hopper.texts[0].get_text()
    assert "2 seeds" in dark_room.texts[0].get_text()
    assert all(tick == int(tick) for tick in dark_room.get_xticks())
    assert "agentic_transformer on Hopper-v5" in hopper.get_title(loc="left")
    assert hopper.get_legend() is None


def test_nothing_is_no_picture():
    with pytest.raises(ValueError, match="at least one evaluation"):
        draw_return_by_trial([])


def test_tables_have_all_statistics(tmp_path):
    found = evaluations(tmp_path)
    console = Console(width=120, file=io.StringIO())
    console.print(table(found))
    texts = [console.file.getvalue(), plain_table(found)]
    for text in texts:
        for word in ("first", "mean", "last", "max of n", "IQM", "D4RL", "<hopper>"):
            assert word in text
        entry = found[0]["last"]
        assert f"[{entry['low']:.2f}, {entry['high']:.2f}]" in text
    # Of the control only the last trial is in the rows' own tasks.
    assert "another task" in texts[0]
    (line,) = [x for x in texts[1].splitlines() if "other-task" in x]
    assert line.split().count("-") == 4
    for name in ("first", "mean", "max_of_n", "gain"):
        assert f"{found[1][name]['value']:.2f} " not in line
    for entry in (found[1]["last"], found[1]["iqm"]["last"]):
        assert f"[{entry['low']:.2f}, {entry['high']:.2f}]" in line
    # A line for each evaluation, and a second one for Hopper's D4RL score.
    assert len(texts[1].splitlines()) == 1 + 3 + 1
