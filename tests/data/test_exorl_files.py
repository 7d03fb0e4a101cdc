from pathlib import Path

import numpy as np
import pytest

from ring_rl.data.formats.exorl import open_exorl
from ring_rl.types import Continuous, Spaces


def arrays(length, *, seed=0, discount=1.0, **changes):
    random = np.random.default_rng(seed)
    rows = length + 1
    made = {
        "observation": random.normal(size=(rows, 3)).astype(np.float32),
        "action": random.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "reward": random.normal(size=(rows, 1)).astype(np.float32),
        "discount": np.ones((rows, 1), np.float32),
        "physics": random.normal(size=(rows, 4)),
        "skill": random.integers(5, size=(rows, 2)),
    }
    made["discount"][-1] = discount
    return {k: v for k, v in (made | changes).items() if v is not None}


@pytest.fixture
def folder(tmp_path):
    buffer = tmp_path / "walker" / "rnd" / "buffer"
    buffer.mkdir(parents=True)
    np.savez_compressed(buffer / "episode_000010_4.npz", **arrays(4, seed=10))
    np.savez_compressed(
        buffer / "episode_000002_3.npz", **arrays(3, seed=2, discount=0)
    )
    (buffer / "log.txt").write_text("not an episode")
    return buffer.parent


def test_transitions_join_neighbouring_rows(folder):
    for place in (folder, folder / "buffer"):
        spaces, episodes = open_exorl(place)
        assert spaces == Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
        first, second = episodes
        assert (first.episode_id, second.episode_id) == (2, 10)
        assert (first.terminated, first.truncated) == (True, False)
        assert (second.terminated, second.truncated) == (False, True)
        rows = arrays(4, seed=10)
        np.testing.assert_array_equal(second.observations, rows["observation"][:-1])
        np.testing.assert_array_equal(second.final_observation, rows["observation"][-1])
        assert second.has_final_observation
        np.testing.assert_array_equal(second.actions, rows["action"][1:])
        np.testing.assert_array_equal(second.rewards, rows["reward"][1:, 0])
        np.testing.assert_array_equal(second.discounts, rows["discount"][1:, 0])
        assert set(second.extras) == {"physics", "skill"}
        np.testing.assert_array_equal(
            second.extras["physics"], rows["physics"][1:], strict=True
        )
        assert (first.task, second.task) == ("walker", "walker")
    assert next(open_exorl(folder, task="run")[1]).task == "run"
    wide, _ = open_exorl(folder, action_bounds=(-2.0, 2.0))
    assert wide.action == Continuous((-2.0, -2.0), (2.0, 2.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "reward: expected an array, found only action, "),
        ({"reward": np.zeros((3, 1), np.float32)}, "reward: expected 4 rows"),
        ({"reward": np.zeros((4, 2), np.float32)}, r"reward: expected \[4 1\] numbers"),
        ({"observation": np.zeros(4)}, r"observation: expected \[4 width\] numbers"),
        ({"action": np.zeros((4, 2), int)}, "action: expected floating-point numbers"),
        ({"action": np.full((4, 2), np.inf)}, "action: expected finite .* row 0"),
        ({"skill": np.array([{}] * 4)}, "skill: expected numbers or text, found obj"),
        ({"skill": np.array(["a"] * 4)}, "skill: expected "),
        ({"physics": np.zeros((2, 4))}, "physics: expected 4 rows"),
    ],
)
def test_bad_files_are_named(folder, changes, message):
    path = folder / "buffer" / "episode_000002_3.npz"
    np.savez(path, **arrays(3, **changes))
    with pytest.raises(ValueError, match=message) as error:
        list(open_exorl(folder)[1])
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_later_files_are_laid_out_as_the_first(folder):
    path = folder / "buffer" / "episode_000010_4.npz"
    np.savez(path, **arrays(4, physics=np.zeros((5, 5))))
    _, episodes = open_exorl(folder)
    next(episodes)
    with pytest.raises(
        ValueError, match="expected arrays as in the first episode, obs"
    ):
        next(episodes)


@pytest.mark.parametrize("place", ["/buffer", "/rnd/buffer", "/"])
def test_a_folder_without_a_domain_needs_a_task(folder, monkeypatch, place):
    monkeypatch.setattr(Path, "resolve", lambda self: Path(place))
    with pytest.raises(ValueError, match="expected a folder above that names the task"):
        open_exorl(folder)
    assert next(open_exorl(folder, task="run")[1]).task == "run"


def test_bad_folders_are_named(folder, tmp_path):
    with pytest.raises(
        ValueError, match="expected a folder of episodes, found nothing"
    ):
        open_exorl(tmp_path / "absent")
    with pytest.raises(ValueError, match="episode_INDEX_LENGTH.npz, found none"):
        open_exorl(tmp_path / "walker")
    np.savez(folder / "buffer" / "episode_2_3.npz", **arrays(3))
    with pytest.raises(ValueError, match="expected one file of index 2, found epis"):
        open_exorl(folder)
