"""ExoRL's files written: of what was collected, and of any dataset."""

import json

import numpy as np
import pytest

from ring_rl.cli import main
from ring_rl.data.formats.exorl import open_exorl
from ring_rl.data.formats.exorl_export import write_exorl
from ring_rl.data.rlds import open_rlds, read_rlds, write_rlds
from ring_rl.envs.exorl import reward_function
from ring_rl.types import Continuous, Discrete, Episode, Spaces

SPACES = Spaces(2, Continuous((-1.0,), (1.0,)))


def episode(index=0, steps=3, **changes):
    random = np.random.default_rng(index)
    made = Episode(
        random.normal(size=(steps, 2)).astype(np.float32),
        random.uniform(-1, 1, (steps, 1)).astype(np.float32),
        random.normal(size=steps).astype(np.float32),
        np.ones(steps, np.float32), random.normal(size=2).astype(np.float32),
        True, False, True, "walk", index, {"physics": random.normal(size=(steps, 4))},
    )  # fmt: skip
    return made._replace(**changes)


def equal(one, other):
    for name in Episode._fields:
        if name not in ("task", "extras"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.extras.keys() == other.extras.keys()
    for name in one.extras:
        np.testing.assert_array_equal(one.extras[name], other.extras[name])
        assert one.extras[name].dtype == other.extras[name].dtype


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Cartpole's swinging up, in both forms, at the place that ExoRL has for it."""
    out = tmp_path_factory.mktemp("data") / "cartpole" / "random"
    words = ["data", "collect", "exorl/cartpole_swingup", "--policy", "random"]
    words += ["--steps", "60", "--max-episode-steps", "30", "--format", "exorl"]
    assert main([*words, "--out", str(out)]) == 0
    return out


def test_what_was_collected_is_read_back_from_either_form(collected):
    spaces, episodes = open_exorl(collected)
    own_spaces, own = open_rlds(collected)
    assert spaces == own_spaces
    pairs = list(zip(episodes, own, strict=True))
    assert len(pairs) == 2
    for one, other in pairs:
        equal(one, other)
        assert (one.task, other.task) == ("cartpole", "cartpole_swingup")
        assert one.extras["physics"].shape == (30, 4)
    assert [path.name for path in sorted((collected / "buffer").iterdir())] == [
        "episode_000000_30.npz", "episode_000001_30.npz"
    ]  # fmt: skip


def test_row_0_is_the_reset(collected):
    with np.load(collected / "buffer" / "episode_000000_30.npz") as file:
        arrays = dict(file)
    assert {name: (v.shape, v.dtype) for name, v in arrays.items()} == {
        "observation": ((31, 5), np.float32), "action": ((31, 1), np.float32),
        "reward": ((31, 1), np.float32), "discount": ((31, 1), np.float32),
        "physics": ((31, 4), np.float64),
    }  # fmt: skip
    for name, value in {"action": 0, "reward": 0, "discount": 1}.items():
        assert arrays[name][0] == value
    # Cart's place, pole's cosine and sine, their velocities: of the same row.
    place, angle, *velocities = arrays["physics"].T
    seen = np.stack([place, np.cos(angle), np.sin(angle), *velocities], 1)
    np.testing.assert_allclose(arrays["observation"], seen, rtol=1e-6, atol=1e-6)


def test_the_rewards_of_the_physics_are_those_that_were_given(
    collected, tmp_path, capsys
):
    store = read_rlds(collected)
    rewards = reward_function("cartpole_swingup")(
        store.extras["physics"], store.actions
    )
    np.testing.assert_allclose(store.rewards, rewards, rtol=0, atol=1e-6)
    out = tmp_path / "balance"
    words = ["data", "relabel", str(collected), "--task", "cartpole_balance_sparse"]
    assert main([*words, "--out", str(out), "--processes", "1"]) == 0
    # The new dataset has the states at the resets too.
    words = ["data", "export", str(out), "--format", "exorl", "--json"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "files")]) == 0
    assert json.loads(capsys.readouterr().out)["lost"] == ["names of tasks"]
    name = "episode_000001_30.npz"
    with (
        np.load(tmp_path / "files" / name) as new,
        np.load(collected / "buffer" / name) as old,
    ):
        np.testing.assert_array_equal(new["physics"], old["physics"])
        assert not np.array_equal(new["reward"], old["reward"])
    assert main([*words, "--out", str(tmp_path / "files")]) == 2
    assert "expected a new folder" in capsys.readouterr().err


def test_hidden_tasks_have_physics_too(tmp_path):
    words = ["data", "collect", "ring_rl/PointMassMaze-v0", "--policy", "random"]
    words += ["--steps", "40", "--max-episode-steps", "10"]
    words += ["--tasks", "0.1,0.2;-0.2,0.1"]
    assert main([*words, "--out", str(tmp_path / "maze")]) == 0
    store = read_rlds(tmp_path / "maze")
    assert store.tasks.tolist() == ["0.1,0.2", "-0.2,0.1"] * 2
    # The observation is the position and velocity after the step before.
    np.testing.assert_allclose(
        store.extras["physics"][:9], store.observations[1:10], rtol=1e-6, atol=1e-6
    )


def test_episodes_of_any_dataset(tmp_path):
    ends = np.array([1, 1, 0], np.float32)
    episodes = [
        episode(0),
        episode(1, steps=5),
        episode(2, discounts=ends, terminated=True, truncated=False),
    ]
    write_rlds(episodes, SPACES, tmp_path / "data", name="data", source="test")
    lost = write_exorl(tmp_path / "data", tmp_path / "files")
    assert lost == ["names of tasks", "physics at the resets: row 0 is zero"]
    _, found = open_exorl(tmp_path / "files", task="walk")
    for one, other in zip(found, episodes, strict=True):
        equal(one, other)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"has_final_observation": False}, "a final observation in episode 0"),
        ({"terminated": True, "truncated": False}, "episode 0 terminated where"),
    ],
)
def test_what_the_files_cannot_hold_is_refused(tmp_path, changes, found):
    if "has_final_observation" in changes:
        changes["final_observation"] = np.zeros(2, np.float32)
    episodes = [episode(0, **changes)]
    write_rlds(episodes, SPACES, tmp_path / "data", name="data", source="test")
    with pytest.raises(ValueError, match=found):
        write_exorl(tmp_path / "data", tmp_path / "files")


def test_discrete_actions_are_refused(tmp_path):
    actions = np.zeros(3, np.int32)
    write_rlds(
        [episode(0, actions=actions)], Spaces(2, Discrete(4)), tmp_path / "data",
        name="data", source="test",
    )  # fmt: skip
    with pytest.raises(ValueError, match="expected continuous actions, found 4"):
        write_exorl(tmp_path / "data", tmp_path / "files")
