"""Attention is looked at under the conditions of the evaluation beside it."""

import dataclasses

import pytest

from ring_rl.configs import presets
from ring_rl.configs.datasets import Derived, write_derived
from ring_rl.configs.looking import write_look
from ring_rl.configs.saved import claim_folder, digest
from ring_rl.evaluate.protocol import Conditions
from ring_rl.types import Discrete, Scaling, Spaces

CONFIG = presets()["dark-room"]
OWN = Conditions(
    name="dark-room",
    agent="AgenticTransformer",
    environment=CONFIG.environment.id,
    target_return=3.0,
    target_rule="given",
    temperature=CONFIG.evaluation.temperature,
    configuration=digest(CONFIG),
)


@pytest.fixture
def run(tmp_path):
    """A run that was begun."""
    claim_folder(tmp_path, CONFIG)
    scaling = Scaling((0.0, 0.0), (1.0, 1.0), 1.0, 1.0)
    derived = Derived(Spaces(2, Discrete(5)), scaling, 3.0, "given", 9, 3)
    write_derived(tmp_path / "data.json", derived)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "trials"),
    [
        ({"environment": "Hopper-v5"}, 0),
        ({"target_return": 4.0}, 0),
        ({"temperature": 0.25}, 0),
        ({"demonstrations": "2 a row of data (abc)"}, 0),
        ({"configuration": "abc"}, 0),
        ({"recall": "ascending"}, 0),
        ({}, 1),
    ],
)
def test_an_evaluation_of_other_conditions_is_refused(run, changes, trials):
    own = CONFIG.evaluation.trials
    evaluated = {
        "conditions": dataclasses.asdict(dataclasses.replace(OWN, **changes)),
        "counts": {"trials": own + trials},
    }
    (name,) = [*changes, "trials"][:1]
    with pytest.raises(ValueError, match=f"own conditions, expected {name} "):
        write_look(run, run / "evaluation", evaluated, trial=None, step=1)
    assert not (run / "evaluation").exists()


def test_an_evaluation_under_the_runs_own_conditions_is_not(run):
    evaluated = {
        "conditions": dataclasses.asdict(OWN),
        "counts": {"trials": CONFIG.evaluation.trials},
    }
    with pytest.raises(ValueError, match="expected checkpoints, found no folder"):
        write_look(run, run / "evaluation", evaluated, trial=None, step=1)
