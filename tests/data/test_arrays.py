import h5py
import numpy as np
import pytest

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.formats.arrays import open_arrays
from ring_rl.types import Continuous, Discrete, Spaces

LENGTHS = np.array([4, 1, 7])
STEPS = 12
OFFSETS = np.array([0, 4, 5, 12])


def flat():
    random = np.random.default_rng(0)
    return {
        "observations": random.normal(size=(STEPS, 3)),
        "actions": random.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        "rewards": random.normal(size=(STEPS, 1)),
        "lengths": LENGTHS,
    }


@pytest.fixture(params=["npz", "hdf5"])
def write(request, tmp_path):
    """Writes arrays to a file of the format; gives back what opens it."""

    def write(arrays):
        path = tmp_path / f"reach.{request.param}"
        if request.param == "npz":
            np.savez_compressed(path, **arrays)
        else:
            with h5py.File(path, "w") as file:
                for name, values in arrays.items():
                    file[name] = values
        return lambda **options: open_arrays(path, request.param, **options)

    return write


def store_of(opened):
    spaces, episodes = opened
    return EpisodeStore.from_episodes(episodes, spaces)


def test_flat_arrays(write):
    arrays = flat()
    store = store_of(write(arrays)())
    assert store.spaces == Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
    np.testing.assert_array_equal(store.offsets, OFFSETS)
    np.testing.assert_array_equal(
        store.observations, arrays["observations"].astype(np.float32)
    )
    np.testing.assert_array_equal(store.actions, arrays["actions"])
    np.testing.assert_array_equal(
        store.rewards, arrays["rewards"][:, 0].astype(np.float32)
    )
    assert not store.terminated.any()
    assert store.truncated.all()
    assert not store.has_final_observation.any()
    assert set(store.tasks) == {"reach"}
    assert store.episode_ids.tolist() == [0, 1, 2]


STARTS = np.isin(np.arange(STEPS), OFFSETS[:-1])
ENDS = np.isin(np.arange(STEPS), OFFSETS[1:] - 1)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("offsets", OFFSETS.astype(np.uint64)),
        ("starts", STARTS.astype(np.float64)),
        ("terminals", ENDS[:, None]),
        ("timeouts", np.isin(np.arange(STEPS), [3, 4])),
    ],
)
def test_every_way_to_tell_episodes_apart(write, field, values):
    arrays = flat()
    del arrays["lengths"]
    store = store_of(write(arrays | {field: values})())
    np.testing.assert_array_equal(store.offsets, OFFSETS)
    assert store.terminated.all() == (field == "terminals")
    assert store.truncated.all() == (field != "terminals")
    last_discounts = store.discounts[OFFSETS[1:] - 1]
    assert set(last_discounts.tolist()) == {0.0 if field == "terminals" else 1.0}


def test_padded_arrays_with_keys(write, monkeypatch):
    arrays = flat()
    real = np.arange(9) < LENGTHS[:, None]
    padded = {}
    for name, key in (("observations", "o"), ("actions", "a"), ("rewards", "r")):
        values = arrays[name]
        padded[key] = np.full((3, 9, *values.shape[1:]), np.nan, values.dtype)
        padded[key][real] = values
    padded |= {"len": LENGTHS.astype(np.int32), "unused": np.zeros(2)}
    keys = {"observations": "o", "actions": "a", "rewards": "r", "lengths": "len"}
    expected = store_of(write(arrays)())
    for steps in (1 << 16, 10, 1):
        monkeypatch.setattr("ring_rl.data.formats.arrays._BLOCK_STEPS", steps)
        with_padding = {**padded, "r": padded["r"].reshape(3, 9)}
        with_padding = {k: np.nan_to_num(v) for k, v in with_padding.items()}
        store = store_of(write(with_padding)(keys=keys))
        for name in ("offsets", "observations", "actions", "rewards", "truncated"):
            np.testing.assert_array_equal(getattr(store, name), getattr(expected, name))


def test_all_fields(write, monkeypatch):
    names = np.array([b"near", b"near", b"far"])
    arrays = flat() | {
        "discounts": np.linspace(0, 1, STEPS),
        "final_observations": np.ones((3, 3)),
        "has_final_observation": np.array([1, 0, 1]),
        "terminated": np.array([True, False, True]),
        "truncated": np.array([True, True, False]),
        "tasks": names,
        "episode_ids": np.array([5, 7, 9], np.int16),
        "extras/infos/qpos": np.arange(STEPS),
        "action_low": np.array([-2.0, -1.0]),
        "action_high": np.array([2.0, 3.0]),
    }
    opened = write(arrays)
    whole = store_of(opened())
    assert whole.spaces.action == Continuous((-2.0, -1.0), (2.0, 3.0))
    assert whole.has_final_observation.tolist() == [True, False, True]
    assert whole.terminated.tolist() == [True, False, True]
    assert whole.truncated.tolist() == [True, True, False]
    assert whole.tasks.tolist() == ["near", "near", "far"]
    assert whole.episode_ids.tolist() == [5, 7, 9]
    np.testing.assert_array_equal(whole.extras["infos/qpos"], np.arange(STEPS))
    np.testing.assert_array_equal(
        whole.discounts, np.linspace(0, 1, STEPS, dtype=np.float32)
    )
    assert set(store_of(opened(task="all")).tasks) == {"all"}
    monkeypatch.setattr("ring_rl.data.formats.arrays._BLOCK_STEPS", 1)
    for name, values in vars(store_of(opened())).items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(values, getattr(whole, name), name)


def test_next_observations_give_the_final_ones(write):
    arrays = flat()
    arrays["next_observations"] = arrays["observations"] + 1
    store = store_of(write(arrays)())
    assert store.has_final_observation.all()
    np.testing.assert_array_equal(
        store.final_observations,
        arrays["next_observations"][OFFSETS[1:] - 1].astype(np.float32),
    )


@pytest.mark.parametrize("shape", [(STEPS,), (STEPS, 1)])
def test_discrete_actions_are_counted_or_given(write, shape):
    arrays = flat() | {"actions": np.arange(STEPS).reshape(shape) % 4}
    store = store_of(write(arrays)())
    assert store.spaces.action == Discrete(4)
    np.testing.assert_array_equal(store.actions, np.arange(STEPS) % 4)
    assert store.actions.dtype == np.int32
    assert store_of(write(arrays)(discrete=6)).spaces.action == Discrete(6)
    counted = write(arrays | {"action_count": np.array([5])})
    assert store_of(counted()).spaces.action == Discrete(5)
    whole = write(arrays | {"actions": np.ones(shape, np.float32)})
    assert store_of(whole()).spaces.action == Continuous((-1.0,), (1.0,))
    assert store_of(whole(discrete=2)).spaces.action == Discrete(2)
    with pytest.raises(ValueError, match="actions from 0 to 2, found 3 in row 3"):
        store_of(write(arrays)(discrete=3))
    with pytest.raises(ValueError, match="actions: expected no bounds of discrete"):
        write(arrays)(action_bounds=(-1.0, 1.0))


def test_padding_is_no_action(write):
    padded = {
        "observations": np.zeros((2, 3, 1)),
        "actions": np.array([[0, 1, 0], [1, 99, 99]]),
        "rewards": np.zeros((2, 3)),
        "lengths": np.array([3, 1]),
    }
    store = store_of(write(padded)())
    assert store.spaces.action == Discrete(2)
    assert store.actions.tolist() == [0, 1, 0, 1]


def test_truncated_is_believed_where_it_is_given(write):
    given = {"truncated": np.array([False, True, False])}
    store = store_of(write(flat() | given)())
    assert store.truncated.tolist() == [False, True, False]
    assert not store.terminated.any()


def at(values, place, value):
    changed = values.copy()
    changed[place] = value
    return changed


ARRAYS = flat()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "rewards: expected an array, or a key .* found only act"),
        ({"lengths": None}, "keys: expected one of lengths, .* found none"),
        ({"offsets": OFFSETS}, "keys: expected one of .*, found lengths, offsets"),
        ({"obs": np.zeros(3)}, "obs: expected one of obs.*, or keys that name it"),
        ({"rewards": np.zeros(11)}, r"rewards: expected \[12\] numbers .* \[11\]"),
        ({"actions": np.zeros((11, 2))}, r"actions: expected \[12\] \.\.\. as obs"),
        ({"actions": np.zeros((12, 2, 2))}, r"actions: expected \[steps width\] or "),
        ({"observations": np.zeros(12)}, r"observations: expected \[steps width\]"),
        ({"lengths": LENGTHS + 1}, "lengths: expected lengths of 12 steps .* found 15"),
        ({"lengths": np.array([4, 0, 8])}, "expected lengths from 1 to 12, found 0 in"),
        ({"lengths": LENGTHS * 1.0}, "lengths: expected lengths of another type"),
        ({"lengths": np.array([-4, 16])}, "expected lengths from 1 to 12, found -4"),
        ({"lengths": None, "offsets": [0, 5, 4, 12]}, "found 4 in row 2 after 5"),
        ({"lengths": None, "offsets": [0, 5, 5, 12]}, "found 5 in row 2 after 5"),
        ({"lengths": None, "offsets": [0, 4, 13]}, "offsets: .* from 0 to 12"),
        ({"lengths": None, "offsets": [1, 4, 12]}, "offsets: .* from 0 to 12"),
        ({"lengths": None, "starts": ~STARTS}, "starts: expected a start in row 0"),
        ({"lengths": None, "starts": STARTS * 2}, "starts: expected 0 and 1, found 2"),
        ({"terminals": STARTS}, "terminals: .* at the ends .* found one in row 0"),
        ({"terminated": np.zeros(4)}, r"terminated: expected \[3\] entries, .* \[4\]"),
        ({"episode_ids": np.arange(4)}, r"episode_ids: expected \[3\] entries"),
        (
            {"episode_ids": np.array([1, 2, 2**63], np.uint64)},
            "episode_ids: expected 64-bit integers, found 9223372036854775808",
        ),
        ({"final_observations": np.zeros((3, 2))}, r"expected \[3, 3\] entries"),
        (
            {"observations": at(ARRAYS["observations"], (7, 1), np.nan)},
            "observations: expected finite float32 numbers, found nan in row 7",
        ),
        (
            {"observations": at(ARRAYS["observations"], (7, 1), 1e300)},
            r"observations: expected finite float32 numbers, found 1e\+300 in row 7",
        ),
        (
            {"observations": at(np.zeros((12, 3), int), (2, 1), 2**24 + 1)},
            "observations: expected finite float32 numbers, found 16777217 in row 2",
        ),
        ({"action_low": np.array([1.0, -1.0])}, "actions: expected bounds low < high"),
        ({"action_low": np.array([-1.0])}, r"action_low: expected \[2\] numbers"),
    ],
)
def test_bad_arrays_are_named(write, changes, message):
    arrays = {
        name: np.asarray(values)
        for name, values in (ARRAYS | changes).items()
        if values is not None
    }
    with pytest.raises(ValueError, match=message) as error:
        store_of(write(arrays)())
    assert "\n" not in str(error.value)


def test_bad_keys_are_named(write):
    keys = {name: name for name in flat()}
    with pytest.raises(ValueError, match="keys: expected one of .* found 'reward'"):
        write(flat())(keys=keys | {"reward": "rewards"})
    with pytest.raises(ValueError, match="extras/NAME, found 'extras/'"):
        write(flat())(keys=keys | {"extras/": "rewards"})
    with pytest.raises(ValueError, match="r: expected an? .*found only actions, "):
        write(flat())(keys=keys | {"rewards": "r"})
