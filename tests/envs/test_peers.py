"""Rows shared out over processes, which are threads here, against one's own."""

import concurrent.futures
import threading

import numpy as np
import pytest

from ring_rl.envs import PeerRows, make_vector, peers

PROCESSES = 3


@pytest.fixture
def together(monkeypatch):
    """Runs a function in a thread for each process; what they return, in order."""
    barrier = threading.Barrier(PROCESSES)
    brought: list = [None] * PROCESSES
    own = threading.local()

    def exchange(array):
        brought[own.process] = array.copy()
        barrier.wait(60)
        found = np.stack(brought)
        barrier.wait(60)
        return found

    monkeypatch.setattr(peers, "exchange", exchange)

    def run(work):
        def one(process):
            own.process = process
            try:
                return work(process)
            except ValueError as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
            return list(pool.map(one, range(PROCESSES)))

    return run


def make(count, first):
    rows = make_vector("CartPole-v1", count, seed=3)
    rows.number_from(first)
    return rows


def play(environment):
    """Everything that rows tell along fixed actions, resets of some included."""
    random = np.random.default_rng(0)
    everyone = np.ones(environment.rows, bool)
    found = [environment.reset(everyone)]
    for _ in range(30):
        actions = random.integers(2, size=environment.rows, dtype=np.int32)
        step = environment.step(actions)
        found += step
        over = step[2] | step[3]
        if over.any():
            found.append(environment.reset(over))
    environment.close()
    return found


# Two: one of the processes has no row.
@pytest.mark.parametrize("rows", [7, 2])
def test_all_have_the_rows_of_one(together, rows):
    alone = play(make(rows, 0))
    shared = together(
        lambda process: play(PeerRows(make, rows, process=process, processes=PROCESSES))
    )
    assert len(alone) > 1 + 4 * 30  # some were reset
    for found in shared:
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("when", ["made", "reset", "stepped"])
def test_all_end_where_one_fails(together, when):
    class Breaks:
        def __init__(self, rows):
            self._rows = rows
            self.spaces, self.max_episode_steps = rows.spaces, rows.max_episode_steps

        def reset(self, rows, tasks):
            if when == "reset":
                raise ValueError("broken")
            return self._rows.reset(rows, tasks)

        def step(self, actions):
            raise ValueError("broken")

    def work(process):
        def some(count, first):
            rows = make(count, first)
            if process != 1:
                return rows
            if when == "made":
                raise ValueError("broken")
            return Breaks(rows)

        return play(PeerRows(some, 7, process=process, processes=PROCESSES))

    first, broken, third = map(str, together(work))
    assert broken == "broken"
    assert first == third
    assert first.startswith("evaluate: the environment failed in process 1, which says")
