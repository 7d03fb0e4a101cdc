"""Collections by a run: where, of which tasks, and by what."""

import dataclasses

import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer
from ring_rl.configs import run_collector as module
from ring_rl.configs.datasets import Derived, write_derived
from ring_rl.configs.recording import Place
from ring_rl.configs.run import (
    Collected,
    DarkRoom,
    EvaluationConfig,
    Gymnasium,
    RunConfig,
)
from ring_rl.configs.run_collector import run_collector
from ring_rl.configs.saved import claim_folder
from ring_rl.types import Discrete, Scaling, Spaces

ROOM = DarkRoom(size=4, max_steps=5, held_out=2)
CONFIG = RunConfig(
    name="room",
    agent=AgenticTransformer(),
    data=Collected(),
    environment=ROOM,
    evaluation=EvaluationConfig(trials=3),
)


class Stays:
    """A policy that does not move."""

    def reset(self, rows, **options):
        self.rows = rows

    def act(self, observations):
        return np.zeros(self.rows, np.int32)

    def observe(self, *outcome):
        pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of the small room, and what loads it as its `config` and `spaces` say."""

    def load_model(folder):
        scaling = Scaling((0.0,), (1.0,), 1.0, 1.0)
        derived = Derived(load_model.spaces, scaling, 2.0, "given", 100, 25)
        return load_model.config, derived, None

    load_model.config, load_model.spaces = CONFIG, Spaces(8, Discrete(5))
    monkeypatch.setattr(module, "load_model", load_model)
    monkeypatch.setattr(module, "load_policy", lambda folder: Stays())
    claim_folder(tmp_path / "run", CONFIG)
    write_derived(tmp_path / "run" / "data.json", load_model(None)[1])
    folder = tmp_path / "run" / "checkpoints" / str(CONFIG.loop.steps) / "default"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
    return tmp_path / "run", load_model


def episodes(collector, folder):
    return [recorded.episode for recorded in collector.part(0, folder)]


def test_the_runs_own_place_keeps_its_options_under_another_limit(run, tmp_path):
    place = Place(ROOM.id, (("max_episode_steps", 3),))
    collector = run_collector(place, run[0], None, 0)
    assert collector.environment == dataclasses.replace(ROOM, max_steps=3)
    assert collector.tasks == ROOM.training_tasks
    assert "max_steps=3" in collector.description["environment"]
    found = episodes(collector, tmp_path)
    assert {one.observations.shape for one in found} == {(3, 8)}
    assert [one.task for one in found[:6]] == [
        name for name in ROOM.training_tasks[:2] for _ in range(3)
    ]


def test_another_place_has_the_tasks_that_its_data_is_collected_for(run):
    folder, load_model = run
    load_model.spaces = Spaces(4, Discrete(2))
    assert run_collector(Place("CartPole-v1"), folder, None, 0).tasks == ("",)
    load_model.config = dataclasses.replace(CONFIG, environment=Gymnasium("Elsewhere"))
    load_model.spaces = Spaces(18, Discrete(5))
    collector = run_collector(Place(ROOM.id), folder, None, 0)
    assert collector.tasks == DarkRoom().training_tasks


def test_a_task_that_a_row_draws_is_its_task_for_all_trials(run, tmp_path):
    collector = run_collector(Place(ROOM.id), run[0], ("",), 0)
    names = [one.task for one in episodes(collector, tmp_path)]
    rows = [set(names[first : first + 3]) for first in range(0, 48, 3)]
    assert all(len(row) == 1 for row in rows)
    assert len(set.union(*rows)) > 3 and "" not in names


@pytest.mark.parametrize("changed", ["weights", "data.json", "config.json"])
def test_the_description_names_what_was_trained(run, changed):
    folder, _ = run

    def policy():
        collector = run_collector(Place(ROOM.id), folder, None, 0)
        return collector.description["policy"]

    before = policy()
    assert policy() == before
    (path,) = folder.rglob(changed)
    path.write_bytes(path.read_bytes() + b" ")
    assert policy() != before
