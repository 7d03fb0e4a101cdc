"""`ring-rl data relabel`, on episodes of dm_control and on goals."""

import json

import numpy as np
import pytest

from ring_rl.cli import main
from ring_rl.data.rlds import read_rlds, write_rlds
from ring_rl.envs.exorl import make_exorl
from ring_rl.types import Continuous, Episode, Spaces

SPACES = Spaces(5, Continuous((-1.0,), (1.0,)))


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """Three episodes of swinging up, without their rewards; and those apart."""
    environment = make_exorl("cartpole_swingup", seed=0)
    random = np.random.default_rng(0)
    episodes, rewards = [], []
    for index in range(3):
        steps = [environment.reset()]
        states, actions = [], []
        for _ in range(30):
            actions.append(random.uniform(-1, 1, 1).astype(np.float32))
            steps.append(environment.step(actions[-1]))
            states.append(environment.physics.get_state())
        seen = [np.concatenate(list(step.observation.values())) for step in steps]
        observations = np.array(seen, np.float32)
        rewards.append([step.reward for step in steps[1:]])
        zeros, ones = np.zeros(30, np.float32), np.ones(30, np.float32)
        episodes.append(
            Episode(
                observations[:-1], np.array(actions), zeros, ones, observations[-1],
                True, False, True, "explore", index, {"physics": np.array(states)},
            )
        )  # fmt: skip
    directory = tmp_path_factory.mktemp("data") / "cartpole"
    write_rlds(episodes, SPACES, directory, name="cartpole", source="test")
    return directory, np.concatenate(rewards)


@pytest.fixture
def command(capsys):
    """Runs `ring-rl data relabel`; its exit code, what it said, and its complaint."""

    def run(*words) -> tuple[int, str, str]:
        code = main(["data", "relabel", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("processes", [1, 2])
def test_a_task_brings_the_rewards_that_were_given_online(
    cartpole, tmp_path, command, processes
):
    source, online = cartpole
    out = tmp_path / "swingup"
    words = (source, "--task", "cartpole_swingup", "--out", out)
    code, said, error = command(*words, "--processes", processes, "--json")
    assert (code, error) == (0, "")
    summary = json.loads(said)
    assert (summary["steps"], summary["tasks"]) == (90, {"cartpole_swingup": 3})
    store = read_rlds(out)
    # Half a unit in the last place of float32 below 1.
    np.testing.assert_allclose(store.rewards, online, rtol=0, atol=2**-25)
    assert len(list((tmp_path / "swingup.rewards").rglob("?" * 64))) == 3
    code, _, error = command(*words)
    assert code == 2 and "ask to overwrite it" in error
    assert command(*words, "--overwrite")[0] == 0


def test_a_goal_may_lie_below_zero(cartpole, tmp_path, command):
    source, _ = cartpole
    out, far = tmp_path / "out", tmp_path / "far"
    # The pole's cosine, at its lowest.
    code, said, error = command(
        source, "--goal", "-1", "--columns", "1", "--radius", "1e-4", "--out", out
    )
    assert (code, error) == (0, "") and "goal -1" in said
    store = read_rlds(out)
    after = np.concatenate(
        [
            np.append(episode.observations[1:, 1], episode.final_observation[1])
            for episode in map(store.episode, range(3))
        ]
    )
    np.testing.assert_array_equal(store.rewards, np.abs(np.float64(after) + 1) <= 1e-4)
    assert 0 < store.rewards.mean() < 1
    words = ("--goal", "9,9", "--radius", "1", "--task", "far", "--out", far)
    assert command(source, *words)[0] == 0
    assert set(read_rlds(far).tasks) == {"far"}


@pytest.mark.parametrize(
    "words, complaint",
    [
        ("--task cartpole_spin", "expected one of cartpole_balance, "),
        ("--task walker_walk", "episode 0, physics: expected [30, 18], found [30, 4]"),
        ("", "expected --task or --goal, found neither"),
        ("--goal 0,0", "--goal needs --radius, found none"),
        ("--task cartpole_swingup --radius 1", "are of --goal, found none"),
        ("--goal 0,a --radius 1", "expected coordinates such as 0.5,-1, or the name"),
        ("--goal nan --radius 1", "expected finite coordinates, found (nan,)"),
        ("--goal goals --radius 1", "expected 'goals', found ['physics']"),
        ("--goal 0 --radius 1 --columns 5", "expected columns 5, found 0 to 4"),
        ("--goal 0 --radius 1 --columns x", "expected numbers from 0 such as 0,1"),
        ("--task cartpole_swingup --processes 0", "expected a number above 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    cartpole, tmp_path, command, words, complaint
):
    source, _ = cartpole
    out = tmp_path / "out"
    code, said, error = command(
        source, "--out", out, "--processes", "1", *words.split()
    )
    assert (code, said) == (2, "")
    assert error.startswith("ring-rl: error: ") and error.count("\n") == 1
    assert complaint in error
    assert not list(tmp_path.iterdir())


def test_a_mistake_found_by_another_process_is_one_line_too(
    cartpole, tmp_path, command
):
    source, _ = cartpole
    words = ("--task", "walker_walk", "--out", tmp_path / "out", "--processes", "2")
    code, _, error = command(source, *words)
    assert code == 2 and error.count("\n") == 1
    assert "episode 0, physics: expected [30, 18]" in error
