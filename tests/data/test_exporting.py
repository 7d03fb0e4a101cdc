import json
import os

import h5py
import numpy as np
import pytest

from ring_rl.cli import main
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.exporting import export_dataset, staged_file
from ring_rl.data.formats.d4rl import open_d4rl
from ring_rl.data.importing import import_dataset
from ring_rl.data.rlds import read_rlds, write_rlds
from ring_rl.types import Discrete, Spaces


def attributes(item):
    return {name: np.asarray(item.attrs[name]).tolist() for name in item.attrs}


def contents(path):
    """Everything in an HDF5 file: type, values and attributes by name."""
    found = {}

    def collect(name, item):
        values = (item.dtype, item[()]) if isinstance(item, h5py.Dataset) else ()
        found[name] = (values, attributes(item))

    with h5py.File(path) as file:
        found["/"] = ((), attributes(file))
        file.visititems(collect)
    return found


def assert_same_files(left, right):
    left, right = contents(left), contents(right)
    assert left.keys() == right.keys()
    for name, (values, attributes) in left.items():
        assert attributes == right[name][1], name
        if values:
            dtype, array = values
            assert dtype == right[name][0][0], name
            np.testing.assert_array_equal(array, right[name][0][1], name, strict=True)


ROWS = np.arange(12)


@pytest.mark.parametrize(
    "replaced",
    [
        {},
        {"timeouts": None, "terminals": (3, 11)},
        {"next_observations": None},
        {"rewards": np.linspace(0, 1, 12, dtype=np.float32)[:, None]},
        {"terminals": np.isin(ROWS, [3, 8]).astype(np.float32)[:, None]},
        {"timeouts": np.isin(ROWS, [3, 8, 11]).astype(np.uint8)},
        {"infos/qpos": np.zeros((12, 2, 2), ">i2"), "skill": np.arange(12.0)},
        {"metadata/nested/weight": np.zeros((3, 0)), "note": np.arange(5)},
    ],
)
def test_d4rl_comes_back_dataset_by_dataset(d4rl_file, tmp_path, replaced):
    path = d4rl_file(**replaced)
    with h5py.File(path, "a") as file:
        file.attrs["source"] = "a test"
        file["infos"].attrs["unit"] = "m"
        file["observations"].attrs["shape"] = [1, 2]
        file["metadata/text"] = "words"
        file["metadata"].attrs["seed"] = 3
    import_dataset(path, "d4rl", tmp_path / "dataset")
    out = tmp_path / "deep" / "back.hdf5"
    assert export_dataset(tmp_path / "dataset", "d4rl", out) == []
    assert_same_files(path, out)
    assert [entry.name for entry in out.parent.iterdir()] == ["back.hdf5"]


def test_a_limit_on_steps_does_not_show(d4rl_file, tmp_path):
    path = d4rl_file(200, terminals=tuple(range(6, 190, 7)), timeouts=(90, 91))
    import_dataset(path, "d4rl", tmp_path / "dataset", max_episode_steps=3)
    import_dataset(tmp_path / "dataset", "rlds", tmp_path / "copy")
    for dataset in ("dataset", "copy"):
        out = tmp_path / f"{dataset}.hdf5"
        export_dataset(tmp_path / dataset, "d4rl", out)
        assert_same_files(path, out)


def test_what_was_rounded_is_said(d4rl_file, tmp_path):
    wide = np.random.default_rng(0).normal(size=(12, 3))
    path = d4rl_file(observations=wide, next_observations=None)
    import_dataset(path, "d4rl", tmp_path / "dataset")
    lost = export_dataset(tmp_path / "dataset", "d4rl", tmp_path / "back.hdf5")
    assert lost == ["observations: float64 in the source, rounded to float32 here"]
    with h5py.File(tmp_path / "back.hdf5") as file:
        assert file["observations"].dtype == np.float64
        np.testing.assert_array_equal(file["observations"], wide.astype(np.float32))


def test_an_altered_template_is_found(d4rl_file, tmp_path):
    import_dataset(d4rl_file(), "d4rl", tmp_path / "dataset")
    template = tmp_path / "dataset" / "d4rl_template.hdf5"
    template.write_bytes(template.read_bytes() + b"x")
    with pytest.raises(ValueError, match="d4rl_template.hdf5: expected .* bytes"):
        export_dataset(tmp_path / "dataset", "d4rl", tmp_path / "back.hdf5")
    assert not (tmp_path / "back.hdf5").exists()


def test_a_template_does_not_lead_to_other_files(d4rl_file, tmp_path):
    import_dataset(d4rl_file(), "d4rl", tmp_path / "dataset")
    (tmp_path / "dataset" / "ring_rl_manifest.json").unlink()  # and so its hash
    with h5py.File(tmp_path / "dataset" / "d4rl_template.hdf5", "a") as file:
        file["metadata/out"] = h5py.ExternalLink(str(tmp_path / "any.hdf5"), "a")
    with pytest.raises(ValueError, match="metadata/out: .* found a link .external"):
        export_dataset(tmp_path / "dataset", "d4rl", tmp_path / "back.hdf5")


def test_other_datasets_get_the_schema_of_d4rl(tmp_path, spaces, make_episode):
    episodes = [make_episode(steps, seed=steps) for steps in (4, 1, 7)]
    episodes[2] = episodes[2]._replace(discounts=np.full(7, 0.5, np.float32))
    episodes[1] = episodes[1]._replace(task="walk")
    write_rlds(episodes, spaces, tmp_path / "dataset", name="x", source="a test")
    out = tmp_path / "new.hdf5"
    lost = export_dataset(tmp_path / "dataset", "d4rl", out)
    assert [line.split(":")[0] for line in lost] == ["discounts", "tasks"]
    _, back = open_d4rl(out)
    for left, right in zip(episodes, back, strict=True):
        for name in ("observations", "actions", "rewards", "final_observation"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        np.testing.assert_array_equal(
            left.extras["infos/qpos"], right.extras["infos/qpos"], strict=True
        )
        assert left.terminated == right.terminated
    unknown = [one._replace(has_final_observation=False) for one in episodes[:1]]
    write_rlds(unknown, spaces, tmp_path / "unknown", name="x", source="a test")
    (line,) = export_dataset(tmp_path / "unknown", "d4rl", out, overwrite=True)
    assert line.startswith("next_observations: left out")
    with h5py.File(out) as file:
        assert "next_observations" not in file


@pytest.mark.parametrize(
    "name", ["rewards", "terminals", "timeouts", "observations", "actions", "rewards/x"]
)
def test_extras_do_not_stand_where_d4rl_has_its_own(
    tmp_path, spaces, make_episode, name
):
    episode = make_episode(4, extras={name: np.zeros(4)})
    write_rlds([episode], spaces, tmp_path / "dataset", name="x", source="a test")
    out = tmp_path / "new.hdf5"
    with pytest.raises(ValueError, match=f"extras '{name}': expected none") as error:
        export_dataset(tmp_path / "dataset", "d4rl", out)
    assert "\n" not in str(error.value) and not out.exists()


def test_episodes_with_neither_flag_stay_apart(tmp_path, spaces, make_episode):
    episodes = [make_episode(steps, terminated=False) for steps in (4, 1, 7)]
    episodes[0] = episodes[0]._replace(truncated=False)
    write_rlds(episodes, spaces, tmp_path / "dataset", name="x", source="a test")
    (line,) = export_dataset(tmp_path / "dataset", "d4rl", tmp_path / "new.hdf5")
    assert line.startswith("timeouts: 1 at the ends of 1 episodes that were neither")
    _, back = open_d4rl(tmp_path / "new.hdf5")
    assert [len(episode.rewards) for episode in back] == [4, 1, 7]


def test_texts_in_infos_are_said_to_be_lost(d4rl_file, tmp_path):
    words = np.array([b"word"] * 12)
    path = d4rl_file(**{"infos/word": words, "infos/long": words.astype(object)})
    import_dataset(path, "d4rl", tmp_path / "dataset")
    out = tmp_path / "back.hdf5"
    assert export_dataset(tmp_path / "dataset", "d4rl", out) == [
        f"infos/{name}: text in the source, not in the dataset, left out"
        for name in ("long", "word")
    ]
    with h5py.File(path, "a") as file:
        del file["infos/word"], file["infos/long"]
    assert_same_files(path, out)


def test_npz_takes_no_more_than_numpy_2_0_has(
    tmp_path, spaces, make_episode, monkeypatch
):
    episodes = [make_episode(3)]
    write_rlds(episodes, spaces, tmp_path / "dataset", name="x", source="a test")
    savez = np.savez

    def older(file, *arrays, **named):
        savez(file, *arrays, **{k: np.asarray(values) for k, values in named.items()})

    monkeypatch.setattr(np, "savez", older)  # whose every keyword is an array
    export_dataset(tmp_path / "dataset", "npz", tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as file:
        assert "allow_pickle" not in file.files and "actions" in file.files
    odd = make_episode(2, extras={"x": np.array([{}, {}])})
    store = EpisodeStore.from_episodes([odd], spaces)
    monkeypatch.setattr("ring_rl.data.exporting.open_store", lambda *_, **__: store)
    with pytest.raises(ValueError, match="extras/x: expected numbers or text, found"):
        export_dataset(tmp_path / "dataset", "npz", tmp_path / "odd.npz")


@pytest.mark.parametrize("discrete", [False, True])
def test_npz_comes_back_whole(
    tmp_path, spaces, make_episode, assert_same_episode, discrete
):
    if discrete:
        spaces = Spaces(3, Discrete(5))
    episodes = [
        make_episode(steps, seed=steps, spaces=spaces, task=f"task {steps % 2}")
        for steps in (4, 1, 7)
    ]
    episodes[1] = episodes[1]._replace(
        has_final_observation=False, final_observation=np.zeros(3, np.float32)
    )
    episodes[2] = episodes[2]._replace(terminated=False, truncated=False)
    write_rlds(episodes, spaces, tmp_path / "dataset", name="x", source="a test")
    out = tmp_path / "all.npz"
    assert export_dataset(tmp_path / "dataset", "npz", out) == []
    import_dataset(out, "npz", tmp_path / "again")
    left, right = read_rlds(tmp_path / "dataset"), read_rlds(tmp_path / "again")
    assert left.spaces == right.spaces
    assert len(left) == len(right)
    for index in range(len(left)):
        assert_same_episode(left.episode(index), right.episode(index))
    if discrete:
        with pytest.raises(ValueError, match="found discrete ones; export it as npz"):
            export_dataset(tmp_path / "dataset", "d4rl", tmp_path / "x.hdf5")


def test_nothing_is_overwritten_unasked(d4rl_file, tmp_path):
    import_dataset(d4rl_file(), "d4rl", tmp_path / "dataset")
    out = tmp_path / "taken.npz"
    out.write_text("precious")
    with pytest.raises(ValueError, match="taken.npz: expected no file yet, found one"):
        export_dataset(tmp_path / "dataset", "npz", out)
    with pytest.raises(ValueError, match="expected no file yet, found a folder"):
        export_dataset(tmp_path / "dataset", "npz", tmp_path, overwrite=True)
    with pytest.raises(
        ValueError, match="expected one of d4rl, npz, exorl, found 'csv'"
    ):
        export_dataset(tmp_path / "dataset", "csv", out)
    assert out.read_text() == "precious"
    export_dataset(tmp_path / "dataset", "npz", out, overwrite=True)
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_command_says_what_is_not_in_the_file(d4rl_file, tmp_path, capsys):
    wide = np.zeros((12, 3))
    import_dataset(d4rl_file(observations=wide), "d4rl", tmp_path / "dataset")
    words = ["data", "export", tmp_path / "dataset", "--format", "d4rl", "--out"]
    assert main([str(word) for word in [*words, tmp_path / "a.hdf5"]]) == 0
    assert "not in it: observations: float64 in the" in capsys.readouterr().out
    assert main([str(word) for word in [*words, tmp_path / "b.hdf5", "--json"]]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(tmp_path / "b.hdf5")
    assert len(printed["lost"]) == 1
    assert main([str(word) for word in [*words, tmp_path / "a.hdf5"]]) == 2
    assert "expected no file yet, found one" in capsys.readouterr().err


def test_a_failed_export_leaves_what_was_there(tmp_path):
    out = tmp_path / "file"
    out.write_text("precious")
    with pytest.raises(OSError, match="full"):
        with staged_file(out, overwrite=True) as staging:
            staging.write_text("half")
            raise OSError("full")
    assert out.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
