"""A run that was stopped and continued is, bit for bit, one that was not."""

import concurrent.futures
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer
from ring_rl.data.chains import ChainConfig
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.train import loop as loop_module
from ring_rl.train.loop import LoopConfig, train
from ring_rl.train.optimiser import OptimiserConfig
from ring_rl.train.stopping import Stopped, listening
from ring_rl.types import Continuous, Episode, Scaling, Spaces

SPACES = Spaces(2, Continuous((-1.0,), (1.0,)))
SCALING = Scaling((0.0,) * 2, (1.0,) * 2, 1.0, 1.0)
AGENT = AgenticTransformer(
    trunk=TrunkConfig(layers=1, width=8, heads=2),
    chains=ChainConfig(trajectories=2, loss_on="all"),
    bins=5,
)
RULES = ShardingRules(make_mesh(MeshConfig(sequence=2), jax.devices()[:2]))


class Killed(Exception):
    """Stands in for what ends a process."""


@pytest.fixture(scope="module")
def loader():
    random = np.random.default_rng(0)

    def numbers(*shape):
        return random.uniform(-1, 1, shape).astype(np.float32)

    episodes = [
        Episode(
            numbers(4, 2), numbers(4, 1), numbers(4), np.ones(4, np.float32),
            numbers(2), True, True, False, "only", index, {},
        )
        for index in range(6)
    ]  # fmt: skip
    store = EpisodeStore.from_episodes(episodes, SPACES)
    config = LoaderConfig(rows=2)
    return ChainLoader(store, config, AGENT.chains, AGENT.tokens, seed=0)


def run(loader, directory, *, steps=40, killed_at=None, told_at=None):
    """The state after the last update, or `Killed` when another batch is asked for.

    `told_at` sends the process a SIGTERM while that batch is waited for.
    """

    def stream(start, stop):
        batches = loader.stream(start, stop, layout="zigzag", rules=RULES)
        for step, batch in zip(range(start, stop), batches, strict=True):
            if step == killed_at:
                raise Killed
            if step == told_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with listening([signal.SIGTERM]) as stop:
        return train(
            AGENT,
            AGENT.build(SPACES, SCALING, RULES, seed=0),
            stream,
            optimiser=OptimiserConfig(learning_rate=1e-2, warmup=5),
            loop=LoopConfig(steps=steps, log_every=5, checkpoint_every=20),
            directory=directory,
            rules=RULES,
            seed=0,
            stop=stop,
        )


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """All runs here have the same update; the test of a killed process compiles two."""
    with pytest.MonkeyPatch.context() as patch:
        make_step = loop_module.make_step
        once = functools.cache(lambda: make_step(*made[0][0], **made[0][1]))
        made = []

        def shared(*arguments, **options):
            made.append((arguments, options))
            return once()

        patch.setattr(loop_module, "make_step", shared)
        yield


@pytest.fixture(scope="module")
def whole(loader, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    state = run(loader, directory)
    return state, (directory / "metrics.jsonl").read_bytes(), compilations(directory)


def compilations(directory):
    """How often each line compiled the step."""
    lines = (directory / "timing.jsonl").read_text().splitlines()
    return [json.loads(line)["compilations"] for line in lines]


def test_a_run_compiles_its_update_once(loader, whole, tmp_path):
    """Also with what it has given back as input, and on two devices."""
    assert whole[2] == [1] + [0] * 7
    # Two hundred updates more of the same.
    run(loader, tmp_path, steps=200)
    assert compilations(tmp_path) == [0] * 40


def steps_of(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


# Right after the checkpoint of 20 updates, between it and the next with more lines
# written than it knows of, and before there is any.
@pytest.mark.parametrize("killed_at", [20, 33, 13])
def test_a_continued_run_is_the_uninterrupted_one(loader, whole, tmp_path, killed_at):
    state, metrics, _ = whole
    with pytest.raises(Killed):
        run(loader, tmp_path, killed_at=killed_at)
    assert steps_of(tmp_path) == list(range(5, killed_at + 1, 5))
    path = tmp_path / "metrics.jsonl"
    # A line that the process died in.
    with path.open("a") as file:
        file.write('{"step": 35, "lo')
    if killed_at == 33:
        # Lines beyond the checkpoint are written anew, not kept.
        path.write_text(path.read_text().replace('"step": 25, ', '"step": 25, "x": 1'))
    continued = run(loader, tmp_path)
    assert path.read_bytes() == metrics
    for one, other in zip(
        jax.tree.leaves(continued), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(one, other, strict=True)
    timing = (tmp_path / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in timing] == list(range(5, 41, 5))
    # What a checkpoint gives back lies where it lay.
    assert sum(compilations(tmp_path)) == 0


# Between two lines, where a checkpoint is due anyway, and twice in the first line.
@pytest.mark.parametrize("told_at", [[32], [19], [0, 2]])
def test_a_run_that_is_told_to_stop_keeps_its_last_update(
    loader, whole, tmp_path, told_at
):
    state, metrics, _ = whole
    for step in told_at:
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(
            Stopped, match=f"stopped at update {step + 1} of 40"
        ) as told:
            run(loader, tmp_path, told_at=step)
        assert told.value.done == step + 1
        assert signal.getsignal(signal.SIGTERM) is before
        assert (
            max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == step + 1
        )
    continued = run(loader, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    for one, other in zip(
        jax.tree.leaves(continued), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(one, other, strict=True)


def test_a_run_that_is_told_at_its_last_update_is_complete(loader, whole, tmp_path):
    with pytest.raises(Stopped, match="stopped at update 40 of 40"):
        run(loader, tmp_path, told_at=39)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole[1]


def test_signals_are_taken_in_the_main_thread_alone():
    before = signal.getsignal(signal.SIGTERM)

    def elsewhere():
        with listening([signal.SIGTERM]) as stop:
            return signal.getsignal(signal.SIGTERM), stop()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == (before, False)
    with pytest.raises(Killed), listening([signal.SIGTERM]):
        assert signal.getsignal(signal.SIGTERM) is not before
        raise Killed
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_run_stays_as_it_is(loader, whole, tmp_path):
    state, metrics, _ = whole
    run(loader, tmp_path)
    stamp = (tmp_path / "metrics.jsonl").stat().st_mtime_ns

    again = run(loader, tmp_path, killed_at=0)
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == stamp
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.slow
def test_a_process_that_is_killed_or_told_to_stop_continues(tmp_path):
    """Also with the step that the first of three processes compiled and kept.

    The run that they are compared with has neither kept nor found anything.
    """
    command = [
        sys.executable, "-c", "from ring_rl.cli import main; raise SystemExit(main())",
        "train", "dark-room", "--no-evaluate",
        "--data.parent", str(tmp_path / "data"), "--data.episodes", "10",
        "--environment.size", "3", "--environment.held-out", "2",
        "--environment.max-steps", "6", "--loader.rows", "4", "--loader.row-steps",
        "24", "--agent.trunk.layers", "1", "--agent.trunk.width", "16",
        "--agent.trunk.heads", "2", "--loop.steps", "400", "--loop.log-every", "10",
        "--loop.checkpoint-every", "40",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "2",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def start(runs):
        return subprocess.Popen(
            [*command, "--runs", str(tmp_path / runs)],
            env={**environment, "JAX_ENABLE_COMPILATION_CACHE": str(runs != "whole")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(process):
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        return errors

    def compiled():
        """Steps that are kept."""
        return len([*(tmp_path / "cache").rglob("jit_train_step-*-cache")])

    finish(start("whole"))
    assert compiled() == 0
    expected = (tmp_path / "whole" / "dark-room" / "metrics.jsonl").read_bytes()
    assert len(expected.splitlines()) == 40
    run = tmp_path / "stopped" / "dark-room"
    metrics = run / "metrics.jsonl"

    def begin(lines):
        """A process that is in mid-training: it has written so many lines."""
        process = start("stopped")
        deadline = time.monotonic() + 900
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no metrics were written"
            time.sleep(0.01)
        return process

    process = begin(6)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed_at = metrics.read_bytes().count(b"\n")
    assert killed_at < 25
    assert compiled() == 1
    process = begin(killed_at + 4)
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    line = finish(process).splitlines()[-1]
    assert time.monotonic() - told < 30
    found = re.fullmatch(
        r"ring-rl: train dark-room: stopped at update (\d+) of 400, its checkpoint is "
        "complete; the same command goes on from there",
        line,
    )
    assert found, line
    assert (run / "checkpoints" / found[1]).is_dir()
    assert metrics.read_bytes().count(b"\n") == int(found[1]) // 10 < 40
    assert "WARNING" not in finish(start("stopped"))
    assert metrics.read_bytes() == expected
    # The two that went on found it.
    assert compiled() == 1
