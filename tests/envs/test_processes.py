"""Rows in several processes are rows in one, and their faults are told apart."""

import errno
import functools
import multiprocessing
import os
import signal
import sys

import gymnasium
import numpy as np
import pytest

from ring_rl.envs import ProcessRows, choose_processes, make_vector
from ring_rl.envs import processes as module

ROOM = "ring_rl/DarkRoom-v0"
FAULTY = '''
import gymnasium
import numpy as np


class Faulty(gymnasium.Env):
    """Balances, and fails at its third step in the way that the action says."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,))
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 3 and action == 1:
            raise RuntimeError("the motor\\nis hot")
        reward = np.nan if self.steps == 3 and action == 2 else 0.0
        return np.zeros(2, np.float32), reward, False, False, {}


gymnasium.register("Faulty-v0", entry_point=Faulty, max_episode_steps=9)
'''


@pytest.fixture
def start():
    """Starts rows in processes, and ends those at the end."""
    started = []

    def make(env_id, rows, processes, **options):
        make = functools.partial(make_vector, env_id, seed=7, **options)
        started.append(ProcessRows(make, rows, processes=processes))
        return started[-1]

    yield make
    for rows in started:
        rows.close()
        rows.close()  # again does nothing


def test_results_are_those_of_one_process(start):
    options = {"size": 3, "max_steps": 4}
    one = make_vector(ROOM, 5, seed=7, **options)
    several = start(ROOM, 5, 2, **options)
    assert several.spaces == one.spaces
    assert several.max_episode_steps == one.max_episode_steps == 4
    random = np.random.default_rng(0)
    over, seen = np.ones(5, bool), []
    for turn in range(12):
        tasks = None if turn < 6 else ["0,0", "", "2,2", "0,1", ""]
        # Some wait for others: they must rest in both.
        over &= random.random(5) < 0.7 if turn else True
        for rows in (one, several):
            seen.append([rows.reset(over, tasks), *rows.tasks])
            actions = np.random.default_rng(turn).integers(5, size=5)
            seen[-1] += rows.step(actions)
        for first, second in zip(seen[-2], seen[-1], strict=True):
            np.testing.assert_array_equal(first, second)
        over |= seen[-1][-1]
    assert over.any()


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    (tmp_path / "faulty_environments.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "faulty_environments:Faulty-v0"
    sys.modules.pop("faulty_environments", None)
    gymnasium.registry.pop("Faulty-v0", None)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (1, "row 2: the environment raised RuntimeError at step 3 .*the motor"),
        (2, "row 2: expected finite numbers .* in the reward"),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_fault_names_environment_row_and_what_happened(
    start, faulty, action, message, processes
):
    if processes == 1:
        rows = make_vector(faulty, 4, seed=7)
    else:
        rows = start(faulty, 4, processes)
    rows.reset(np.ones(4, bool))
    actions = np.array([0, 0, action, 0])
    rows.step(actions)
    rows.step(actions)
    with pytest.raises(ValueError, match=f"^{faulty}, {message}"):
        rows.step(actions)


def test_mistakes_are_those_of_one_process(start):
    rows = start(ROOM, 3, 2)
    with pytest.raises(ValueError, match="task: expected .* found 'nonsense'"):
        rows.reset(np.ones(3, bool), ["", "", "nonsense"])
    with pytest.raises(ValueError, match=r"expected one for each of 3 rows, found"):
        rows.step(np.zeros(2, int))
    # What was wrong in one process left the others able to go on.
    rows.reset(np.ones(3, bool), ["", "", "0,0"])
    with pytest.raises(ValueError, match=f"{ROOM}, row 2: expected 0 to 4, found 9"):
        rows.step(np.array([0, 0, 9]))
    with pytest.raises(ValueError, match="cannot be made"):
        start(ROOM, 2, 2, size=1)


def test_a_process_that_is_ended_is_one_line(start):
    rows = start(ROOM, 4, 2)
    rows.reset(np.ones(4, bool))
    os.kill(rows._processes[1].pid, signal.SIGKILL)
    rows._processes[1].join()
    message = f"^{ROOM}, rows 2 to 3: their process was ended by signal SIGKILL"
    with pytest.raises(ChildProcessError, match=message):
        rows.step(np.zeros(4, int))


def test_the_faster_number_of_processes_is_chosen(monkeypatch):
    make = functools.partial(make_vector, ROOM, seed=0)
    # Cores that are there and may not be used do not count.
    monkeypatch.setattr(module.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda who: {3, 5})
    started = []

    class Pretended:
        """Steps at a speed that it is given."""

        def __init__(self, make, rows, *, processes):
            started.append(self)
            self.rows = rows

        def close(self):
            pass

    def seconds(environment, steps):
        slow = 0.01 if isinstance(environment, Pretended) else speed
        return [slow] * steps

    monkeypatch.setattr(module, "ProcessRows", Pretended)
    monkeypatch.setattr(module, "_step_seconds", seconds)
    speed = 0.02
    assert choose_processes(make, 4) == 2
    speed = 0.005
    assert choose_processes(make, 4) == 1 and len(started) == 2
    # Too fast to be worth a try.
    speed = 1e-5
    assert choose_processes(make, 4) == 1 and len(started) == 2
    # Many cores are not all tried.
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda who: set(range(200)))
    speed = 0.02
    assert choose_processes(make, 64) == 16


def test_what_was_started_is_ended_where_the_next_cannot_be(monkeypatch):
    context = multiprocessing.get_context("spawn")
    real, begun = context.Process.start, []

    def begin(process):
        if begun:
            raise OSError(errno.EAGAIN, "no more processes")
        begun.append(process)
        real(process)

    monkeypatch.setattr(context.Process, "start", begin)
    with pytest.raises(OSError, match="no more processes"):
        ProcessRows(functools.partial(make_vector, ROOM, seed=0), 2, processes=2)
    assert begun[0].exitcode is not None


@pytest.mark.parametrize(
    ("broken", "message", "left"), [(1, "motor", [1]), (0, "no process", [1, 4])]
)
def test_an_error_while_processes_are_chosen_leaves_nothing_open(
    monkeypatch, broken, message, left
):
    closed = []

    class Rows:
        def __init__(self, rows):
            self.rows = rows

        def close(self):
            closed.append(self.rows)

    def seconds(environment, steps):
        if environment.rows == broken:
            raise ValueError("the motor is hot")
        return [1.0] * steps

    def processes(make, rows, processes):
        raise ValueError("no process to be had")

    monkeypatch.setattr(module.os, "sched_getaffinity", lambda who: {0, 1})
    monkeypatch.setattr(module, "_step_seconds", seconds)
    monkeypatch.setattr(module, "ProcessRows", processes)
    with pytest.raises(ValueError, match=message):
        choose_processes(Rows, 4)
    assert closed == left
