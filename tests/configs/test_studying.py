"""Studies: what is missing is run, what is there is kept, what does not fit is said."""

import dataclasses
import json
from pathlib import Path

import pytest

from ring_rl.agents import AgenticTransformer, DecisionTransformer
from ring_rl.cli import main
from ring_rl.configs import studies as values
from ring_rl.configs import studying
from ring_rl.configs.run import DarkRoom, EvaluationConfig, RunConfig
from ring_rl.configs.saved import from_json, to_json
from ring_rl.configs.sources import Collected
from ring_rl.configs.studies import Cell, Study, studies
from ring_rl.configs.studying import run_study
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import LoaderConfig
from ring_rl.mesh import MeshConfig
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train.loop import LoopConfig

TRUNK = TrunkConfig(layers=1, width=8, heads=1)


def tiny(parent: Path) -> Study:
    """Two agents in two rooms, of a few updates each."""

    def cell(row: str, steps: int, agent) -> Cell:
        config = RunConfig(
            f"{row}, {type(agent).__name__}",
            agent,
            Collected(str(parent), episodes=4),
            DarkRoom(size=3, max_steps=steps, held_out=2),
            loader=LoaderConfig(rows=1, row_steps=16),
            mesh=MeshConfig(sequence=1),
            loop=LoopConfig(steps=2, log_every=1, checkpoint_every=1),
            evaluation=EvaluationConfig(trials=2, rollouts=2),
        )
        return Cell(row, type(agent).__name__, config)

    agents = (
        AgenticTransformer(trunk=TRUNK, chains=ChainConfig(trajectories=2)),
        DecisionTransformer(trunk=TRUNK),
    )
    rooms = {"long": 8, "short": 4}
    cells = [
        cell(row, steps, agent) for row, steps in rooms.items() for agent in agents
    ]
    return Study("rooms", "which room", tuple(cells), random=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Study, Path]:
    """The study after two commands, each of which ran a part of it."""
    folder = tmp_path_factory.mktemp("study")
    study = tiny(folder / "data")
    run_study(study, folder / "rooms", rows="long", columns="Agentic*", seeds=(0, 1))
    run_study(study, folder / "rooms", rows="long", columns="random")
    return study, folder / "rooms"


def table(directory: Path) -> dict[tuple[str, str], dict]:
    entries = json.loads((directory / "table.json").read_text())
    return {(entry["row"], entry["column"]): entry for entry in entries}


def test_the_table_has_every_cell_and_says_which_are_not_run(ran):
    study, directory = ran
    found = table(directory)
    columns = ("random", "AgenticTransformer", "DecisionTransformer")
    assert list(found) == [(row, c) for row in ("long", "short") for c in columns]
    there = [at[1] for at, entry in found.items() if entry["evaluation"] is not None]
    assert there == ["random", "AgenticTransformer"]
    agentic = found["long", "AgenticTransformer"]["evaluation"]
    assert agentic["counts"] == {
        "seeds": 2, "tasks": 2, "rollouts": 8, "trials": 2, "episodes": 16
    }  # fmt: skip
    random = found["long", "random"]["evaluation"]
    assert random["counts"]["episodes"] == 8
    assert random["mean"]["low"] <= random["mean"]["value"] <= random["mean"]["high"]
    text = (directory / "table.md").read_text()
    assert "| short | not run | not run | not run |" in text
    assert "Return of the last trial" in text and "2 trials in one context" in text
    place = directory / "long" / "agentictransformer"
    assert {path.name for path in place.iterdir()} == {
        "seed-0", "seed-1", "evaluation"
    }  # fmt: skip
    assert study.question.capitalize() in text


def test_what_is_there_is_kept(ran, monkeypatch):
    study, directory = ran
    before = (directory / "table.json").read_bytes()

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(studying, "train_run", never)
    for seeds in ((0, 1), (1,)):
        run_study(study, directory, rows="long", columns="[Ar]*", seeds=seeds)
        assert (directory / "table.json").read_bytes() == before
    run_study(study, directory, show=True)
    assert (directory / "table.json").read_bytes() == before
    with pytest.raises(AssertionError, match="trained again"):
        run_study(study, directory, rows="long", columns="Agentic*", seeds=(2,))


def test_another_configuration_in_the_folder_is_refused(ran):
    study, directory = ran

    def longer(config):
        return dataclasses.replace(
            config, loop=dataclasses.replace(config.loop, steps=3)
        )

    before = (directory / "table.json").read_bytes()
    with pytest.raises(ValueError, match="loop.steps=2 where 3 is asked for"):
        run_study(study, directory, change=longer)
    assert (directory / "table.json").read_bytes() == before


def test_a_cell_that_does_not_fit_says_what_it_needs(tmp_path):
    study = dataclasses.replace(tiny(tmp_path / "data"), random=False)
    directory = tmp_path / "rooms"
    run_study(study, directory, rows="long", columns="Dec*", device_bytes=1000)
    entry = table(directory)["long", "DecisionTransformer"]
    assert entry["evaluation"] is None
    assert entry["reason"].startswith("does not fit: an update needs ")
    assert entry["reason"].endswith(" on each of 1 devices, 1e-06 GB are given")
    assert not list(directory.glob("long/*/seed-0"))
    text = (directory / "table.md").read_text()
    assert "| long | not run | does not fit |" in text
    assert f"- long, DecisionTransformer: {entry['reason']}" in text


def test_unknown_rows_and_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--rows among long, short and --columns amon"):
        run_study(tiny(tmp_path / "data"), tmp_path / "rooms", rows="wide")
    assert not list(tmp_path.iterdir())


def test_the_command_changes_fields_and_prints_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("prepare", "keep_compilations"):
        monkeypatch.setattr(f"ring_rl.runtime.{name}", lambda: None)
    monkeypatch.setattr(values, "_STUDIES", (tiny(tmp_path / "data"),))
    words = ["study", "rooms", "--rows", "short", "--columns", "random"]
    assert main([*words, "--evaluation.trials", "5", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    (done,) = [entry for entry in entries if entry["evaluation"]]
    assert (done["row"], done["column"]) == ("short", "random")
    assert done["evaluation"]["counts"]["trials"] == 5
    assert main([*words, "--loop.stepz", "1"]) == 2
    assert "did you mean --loop.steps?" in capsys.readouterr().err
    assert main(["study", "room"]) == 2
    assert "no study 'room'; the nearest is rooms" in capsys.readouterr().err


@pytest.mark.parametrize("study", studies().values(), ids=lambda study: study.name)
def test_every_study_is_whole(study):
    places = [studying._place(Path("x"), cell) for cell in study.cells]
    assert len(set(places)) == len(places)
    for cell in study.cells:
        assert from_json(to_json(cell.config), "here") == cell.config
    # One protocol: agents are judged alike where they stand in one row.
    for row in {cell.row for cell in study.cells}:
        judged = {
            (cell.config.evaluation, cell.config.environment, cell.config.data)
            for cell in study.cells
            if cell.row == row
        }
        assert len(judged) == 1


def test_the_papers_table_has_its_tasks_and_columns():
    study = studies()["paper-table"]
    assert len({cell.row for cell in study.cells}) == 6
    trunks = [cell.config.agent.trunk.attention for cell in study.cells[:6]]
    assert trunks[2:] == ["memory_efficient", "blockwise", "blockwise", "ring"]
    lengths = [cell.config.agent.chains.trajectories for cell in study.cells[:6]]
    assert lengths == [1, 1, 4, 4, 16, 16]
