import h5py
import numpy as np
import pytest

from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.formats.d4rl import open_d4rl
from ring_rl.types import Continuous, Spaces


def read_d4rl(path, **options):
    return open_d4rl(path, **options)[1]


def contents(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def test_episodes_end_at_flags_and_at_the_end_of_the_file(d4rl_file):
    path = d4rl_file(12, terminals=(3,), timeouts=(8,))
    episodes = list(read_d4rl(path))
    assert [len(episode.rewards) for episode in episodes] == [4, 5, 3]
    assert [episode.terminated for episode in episodes] == [True, False, False]
    assert [episode.truncated for episode in episodes] == [False, True, True]
    assert [episode.episode_id for episode in episodes] == [0, 1, 2]
    assert {episode.task for episode in episodes} == {"hopper-medium-v2"}
    for name in ("observations", "actions", "rewards"):
        joined = np.concatenate([getattr(episode, name) for episode in episodes])
        np.testing.assert_array_equal(joined, contents(path, name))
    assert episodes[0].discounts.tolist() == [1, 1, 1, 0]
    assert episodes[1].discounts.tolist() == [1] * 5


def test_extras_keep_their_names_and_types(d4rl_file):
    path = d4rl_file()
    episodes = list(read_d4rl(path))
    expected = {"infos/qpos", "infos/action_log_probs", "next_observations"}
    assert set(episodes[0].extras) == expected
    joined = np.concatenate([episode.extras["infos/qpos"] for episode in episodes])
    np.testing.assert_array_equal(joined, contents(path, "infos/qpos"), strict=True)


def test_final_observations_are_the_next_ones_or_unknown(d4rl_file):
    path = d4rl_file()
    following = contents(path, "next_observations")
    for episode, last in zip(read_d4rl(path), (3, 8, 11), strict=True):
        assert episode.has_final_observation
        np.testing.assert_array_equal(episode.final_observation, following[last])
    # The next row of `observations` is the next episode's first.
    for episode in read_d4rl(d4rl_file(next_observations=None)):
        assert not episode.has_final_observation
        assert not episode.final_observation.any()


def followed(path):
    """The next observations of a simulator: the next rows, but at an episode's end."""
    following = contents(path, "next_observations")
    observations = contents(path, "observations")
    for start, stop in ((0, 4), (4, 9), (9, 12)):
        following[start : stop - 1] = observations[start + 1 : stop]
    return following


def test_next_observations_are_kept_only_where_they_say_more(d4rl_file, monkeypatch):
    plain = d4rl_file(name="plain.hdf5")
    following = followed(plain)
    path = d4rl_file(next_observations=following)
    for block in (1 << 16, 1):
        monkeypatch.setattr("ring_rl.data.formats.d4rl._BLOCK_STEPS", block)
        assert all("next_observations" not in e.extras for e in read_d4rl(path))
        np.testing.assert_array_equal(
            [episode.final_observation for episode in read_d4rl(path)],
            following[[3, 8, 11]],
        )
    for row in (0, 2, 9):
        odd = following.copy()
        odd[row, 1] = np.nextafter(odd[row, 1], np.float32(np.inf))
        kept = [
            episode.extras["next_observations"]
            for episode in read_d4rl(d4rl_file(next_observations=odd))
        ]
        np.testing.assert_array_equal(np.concatenate(kept), odd, strict=True)


def test_other_rows_of_numbers_are_kept_and_metadata_are_not_steps(d4rl_file):
    path = d4rl_file(
        **{"skill": np.arange(12), "note": np.arange(3), "metadata/w": np.zeros(12)}
    )
    episodes = list(read_d4rl(path))
    assert np.concatenate([e.extras["skill"] for e in episodes]).tolist() == [
        *range(12)
    ]
    assert not {"note", "metadata/w"} & set(episodes[0].extras)


def test_texts_in_infos_are_left_out(d4rl_file):
    words = np.array([b"word"] * 12)
    path = d4rl_file(**{"infos/word": words, "infos/long": words.astype(object)})
    expected = {"infos/qpos", "infos/action_log_probs", "next_observations"}
    assert set(next(read_d4rl(path)).extras) == expected


def test_a_flagged_last_step_leaves_no_trailing_episode(d4rl_file):
    episodes = list(read_d4rl(d4rl_file(9, terminals=(3, 8), timeouts=(8,))))
    assert [len(episode.rewards) for episode in episodes] == [4, 5]
    assert episodes[1].terminated
    assert episodes[1].truncated  # both flags, both kept


def test_files_without_timeouts(d4rl_file):
    path = d4rl_file(12, terminals=(3,), timeouts=None)
    assert [len(episode.rewards) for episode in read_d4rl(path)] == [4, 8]
    episodes = list(read_d4rl(path, max_episode_steps=3))
    assert [len(episode.rewards) for episode in episodes] == [3, 1, 3, 3, 2]
    assert [episode.terminated for episode in episodes] == [0, 1, 0, 0, 0]
    assert [episode.truncated for episode in episodes] == [1, 0, 1, 1, 1]
    # A limit that is just met adds no cut.
    assert len(list(read_d4rl(path, max_episode_steps=8))) == 2
    with pytest.raises(ValueError, match="max_episode_steps: expected at least 1"):
        read_d4rl(path, max_episode_steps=0)


def test_blocks_do_not_show(d4rl_file, monkeypatch, assert_same_episode):
    path = d4rl_file(200, terminals=tuple(range(6, 190, 7)), timeouts=(90, 91))
    whole = list(read_d4rl(path))
    for block in (1, 20, 64):
        monkeypatch.setattr("ring_rl.data.formats.d4rl._BLOCK_STEPS", block)
        for left, right in zip(whole, read_d4rl(path), strict=True):
            assert_same_episode(left, right)


def test_actions_beyond_bounds_stay(d4rl_file):
    actions = np.full((12, 2), 1.5, np.float32)
    path = d4rl_file(actions=actions)
    assert next(read_d4rl(path)).actions.max() == 1.5
    assert open_d4rl(path)[0] == Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
    wide, _ = open_d4rl(path, action_bounds=(-2.0, 2.0))
    assert wide.action == Continuous((-2.0, -2.0), (2.0, 2.0))
    with pytest.raises(ValueError, match="ascending numbers, found 1.0 and -1.0"):
        open_d4rl(path, action_bounds=(1.0, -1.0))


def test_older_files(d4rl_file, assert_same_episode):
    """Doubles, columns of one, flags that are not booleans, the other byte order."""
    plain = d4rl_file(name="a.hdf5")
    flags = contents(plain, "terminals")
    older = d4rl_file(
        name="b.hdf5",
        observations=contents(plain, "observations").astype(np.float64),
        rewards=contents(plain, "rewards")[:, None],
        terminals=flags.astype(np.uint8)[:, None],
        timeouts=contents(plain, "timeouts").astype(np.float32),
        **{"infos/qpos": contents(plain, "infos/qpos").astype(">f8")},
    )
    both = zip(read_d4rl(plain, task="t"), read_d4rl(older, task="t"), strict=True)
    for left, right in both:
        assert_same_episode(left, right)


def nan_at(shape, index, value=np.nan):
    values = np.zeros(shape, np.float32)
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"rewards": None}, "rewards: expected a dataset, found only actions, infos"),
        ({"rewards": np.zeros(11)}, r"observations: expected 11 rows .* \[12, 3\]"),
        ({"actions": np.zeros((9, 2))}, r"actions: expected 12 rows .* \[9, 2\]"),
        ({"infos/qpos": np.zeros((5, 2))}, "infos/qpos: expected 12 rows as in rew"),
        ({"actions": np.zeros((12,))}, r"actions: expected \[12, width\] numbers"),
        ({"actions": np.zeros((12, 2), np.int64)}, "actions: expected floats, .*int64"),
        ({"rewards": np.zeros((12, 2))}, r"rewards: expected \[12\] numbers"),
        ({"rewards": np.zeros(0)}, r"rewards: expected \[steps\] numbers"),
        (
            {"next_observations": np.zeros((12, 4))},
            r"next_observations: expected \[12, 3\] as in observations, .*12, 4",
        ),
        (
            {"observations": np.array([b"a"] * 12, object)},
            "observations: expected floats, found object",
        ),
        ({"terminals": nan_at(12, 5, 2.0)}, "terminals: expected 0 and 1, found 2.0 "),
        ({"rewards": nan_at(12, 7)}, "rewards: expected finite .* nan in row 7"),
        (
            {"observations": nan_at((12, 3), (9, 1), np.inf)},
            "observations: expected finite float32 numbers, found inf in row 9",
        ),
        (
            {"observations": np.full((12, 3), 1e300)},
            "observations: expected finite float32 numbers, found inf in row 0",
        ),
        ({"actions": nan_at((12, 2), (0, 0))}, "actions: expected finite"),
    ],
)
def test_bad_arrays_are_named(d4rl_file, spaces, replaced, message):
    path = d4rl_file(**replaced)
    with pytest.raises(ValueError, match=message) as error:
        EpisodeStore.from_episodes(read_d4rl(path), spaces)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_bad_files_are_named(d4rl_file, tmp_path):
    whole = d4rl_file(4000).read_bytes()
    (tmp_path / "truncated.hdf5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.hdf5").write_text("not HDF5")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    bad = ("truncated.hdf5", "text.hdf5", "pickled.npy", "absent.hdf5", ".")
    for path in (tmp_path / name for name in bad):
        with pytest.raises(ValueError, match="expected .*HDF5 file") as error:
            open_d4rl(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_a_damaged_chunk_is_named(d4rl_file):
    path = d4rl_file(40_000)
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="observations: expected readable rows"):
        list(read_d4rl(path))
