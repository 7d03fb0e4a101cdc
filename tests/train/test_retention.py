"""Which checkpoints of a run stay, and what is known of them."""

import jax
import numpy as np
import pytest

from ring_rl.train.checkpoint import Checkpoints, Notes, Retention
from ring_rl.train.loop import LoopConfig
from ring_rl.train.step import TrainState

LOSSES = {10: 3.0, 20: 1.0, 30: 2.0, 40: 1.5, 50: 4.0}


def state(step):
    parameters = {"w": np.full(3, step, np.float32)}
    return jax.device_put(TrainState(np.int32(step), parameters, (), np.int32(0)))


def kept(directory):
    return sorted(int(path.name) for path in directory.iterdir())


def write(directory, retention, losses=LOSSES):
    """Checkpoints one after the other, each from a process of its own."""
    for step, loss in losses.items():
        checkpoints = Checkpoints(directory, retention=retention)
        checkpoints.save(step, state(step), Notes([], {"loss": loss}))
        checkpoints.close()


@pytest.mark.parametrize(
    ("retention", "expected", "best"),
    [
        (Retention(), [40, 50], None),
        (Retention(last=3), [30, 40, 50], None),
        (Retention(last=1, metric="loss"), [20, 50], 20),
        (Retention(last=2, metric="loss", best="highest"), [40, 50], 50),
    ],
)
def test_the_last_and_the_best_stay(tmp_path, retention, expected, best):
    write(tmp_path, retention)
    assert kept(tmp_path) == expected
    checkpoints = Checkpoints(tmp_path, retention=retention, create=False)
    assert (checkpoints.latest, checkpoints.best) == (50, best)
    checkpoints.close()


def test_what_was_not_measured_is_never_best(tmp_path):
    """Stopped before the first line there is nothing to compare."""
    retention = Retention(last=1, metric="loss")
    checkpoints = Checkpoints(tmp_path, retention=retention)
    checkpoints.save(5, state(5), Notes([{"loss": 0.5}], {}))
    checkpoints.close()
    assert checkpoints.best is None
    write(tmp_path, retention)
    assert kept(tmp_path) == [20, 50]


def test_notes_come_back_as_they_were(tmp_path, caplog):
    notes = Notes(
        [{"loss": 0.1 + 0.2, "skipped": 0.0}, {"skipped": 1.0}], {"loss": 1e-45}
    )
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.notes() == Notes()
    checkpoints.save(7, state(7), notes)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore(state(0))
    assert checkpoints.notes() == notes
    # Orbax has nothing to complain of.
    assert not caplog.records
    np.testing.assert_array_equal(found.parameters["w"], [7, 7, 7])
    with pytest.raises(
        ValueError, match="expected a checkpoint, found none of update 8"
    ):
        checkpoints.restore(state(0), 8)
    checkpoints.close()


def test_a_run_says_what_it_keeps():
    loop = LoopConfig(keep=3, best_metric="accuracy", best_value="highest")
    assert loop.retention == Retention(3, "accuracy", "highest")
    with pytest.raises(ValueError, match="loop: keep must be at least 1, found 0"):
        LoopConfig(keep=0)
