"""Datasets that others wrote: with TFDS's own writer, as array_record and tfrecord."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from google_crc32c import value as crc32c

from ring_rl.data.rlds import open_rlds, read_rlds, write_rlds
from ring_rl.data.rlds.record_files import read_array_record
from ring_rl.types import Continuous, Discrete, Spaces

TENSOR = tfds.features.Tensor
DOUBLE = TENSOR(shape=(1,), dtype=np.float64, encoding="bytes")
STEP = {
    "is_first": np.bool_,
    "is_last": np.bool_,
    "is_terminal": np.bool_,
    "observation": TENSOR(shape=(2,), dtype=np.float64),
    "action": TENSOR(shape=(1,), dtype=np.float32),
    "reward": np.float64,
    "note": tfds.features.Text(),
    "mass": TENSOR(shape=(3,), dtype=np.float64, encoding="zlib"),
}


def steps_of(count, *, terminal=False, complete=True, **changed):
    steps = [
        {
            "is_first": i == 0,
            "is_last": complete and i == count - 1,
            "is_terminal": terminal and i == count - 1,
            "observation": np.array([i, -i], np.float64),
            "action": np.array([i / 10], np.float32),
            "reward": float(i),
            "note": "text",
            "mass": np.full(3, i + 1e-12),
        }
        for i in range(count)
    ]
    return [step | changed for step in steps]


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def as_tfrecord(directory):
    """Turns the record files of a dataset into TFRecord files of the same records."""
    for path in list(directory.glob("*array_record*")):
        framed = b""
        for data in read_array_record(path):
            length = struct.pack("<Q", len(data))
            framed += length + masked(length) + data + masked(data)
        name = path.name.replace("array_record", "tfrecord")
        path.with_name(name).write_bytes(framed)
        path.unlink()
    edit(directory / "dataset_info.json", fileFormat="tfrecord")


def edit(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.fixture(params=["array_record", "tfrecord"])
def foreign(tmp_path, request):
    """Writes with TFDS's own writer, a step at a time."""

    def write(episodes, features=STEP, of_episode=None, splits=("train",)):
        directory = tmp_path / "theirs"
        directory.mkdir()
        info = tfds.core.DatasetInfo(
            builder=tfds.core.dataset_info.DatasetIdentity(
                name="foreign",
                version=tfds.core.Version("1.0.0"),
                data_dir=str(directory),
                module_name="",
            ),
            features=tfds.features.FeaturesDict(
                {"steps": tfds.features.Dataset(features)}
                | {name: feature for name, (feature, _) in (of_episode or {}).items()}
            ),
        )
        more = {name: value for name, (_, value) in (of_episode or {}).items()}
        writer = tfds.core.SequentialWriter(
            info, max_examples_per_shard=2, file_format="array_record"
        )
        writer.initialize_splits(list(splits))
        for split in splits:
            examples = [{"steps": steps, **more} for steps in episodes]
            writer.add_examples({split: examples})
        writer.close_all()
        if request.param == "tfrecord":
            as_tfrecord(directory)
        return directory

    return write


def test_a_foreign_dataset(foreign):
    episodes = [
        steps_of(4, terminal=True),
        steps_of(3),
        steps_of(3, complete=False),
        steps_of(1),  # a reset and no action
        steps_of(2),
    ]
    directory = foreign(episodes)
    store = read_rlds(directory, action_bounds=(-3.0, 3.0))
    assert store.spaces == Spaces(2, Continuous((-3.0,), (3.0,)))
    assert read_rlds(directory).spaces.action == Continuous((-1.0,), (1.0,))
    assert store.lengths.tolist() == [3, 2, 3, 1]
    assert store.terminated.tolist() == [True, False, False, False]
    assert store.truncated.tolist() == [False, True, True, True]
    assert store.has_final_observation.tolist() == [True, True, False, True]
    assert store.final_observations[:, 0].tolist() == [3, 2, 0, 1]
    assert store.episode(2).rewards.tolist() == [0, 1, 2]
    assert store.episode_ids.tolist() == [0, 1, 2, 4]
    assert set(store.tasks) == {"theirs"}
    assert set(store.extras) == {"mass"}
    assert store.extras["mass"][1, 0] == 1 + 1e-12
    assert (store.discounts == 1).all()


def test_what_an_episode_says(foreign):
    directory = foreign(
        [steps_of(3)],
        of_episode={
            "episode_id": (np.int64, 7),
            "task": (tfds.features.Text(), "läuft"),
            "weight": (np.float32, 0.5),
        },
    )
    (episode,) = open_rlds(directory)[1]
    assert (episode.episode_id, episode.task) == (7, "läuft")
    assert next(open_rlds(directory, task="stand")[1]).task == "stand"


def test_text_for_an_episode_id_is_not_one(foreign):
    more = {"episode_id": (tfds.features.Text(), "e7"), "task": (np.int64, 3)}
    (episode,) = open_rlds(foreign([steps_of(3)], of_episode=more))[1]
    assert (episode.episode_id, episode.task) == (0, "theirs")


def test_splits_are_read_in_turn(foreign):
    directory = foreign([steps_of(2), steps_of(3), steps_of(4)], splits=("b", "a"))
    assert len(list(directory.glob("*record-0000[01]"))) == 4
    assert read_rlds(directory).lengths.tolist() == [1, 2, 3, 1, 2, 3]


def test_nested_observations_and_actions_are_flattened(foreign):
    features = STEP | {
        "observation": {
            "b": TENSOR(shape=(2, 2), dtype=np.uint8),
            "a-c": np.float32,
            "a": {"z": np.int64, "y": DOUBLE},
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "says": tfds.features.Text(),
        },
        "action": {"turn": np.float32, "go": TENSOR(shape=(2,), dtype=np.float64)},
        "infos": {"kind": tfds.features.ClassLabel(num_classes=3), "on": np.bool_},
    }
    nested = {
        "observation": {
            "b": np.array([[3, 4], [5, 6]], np.uint8),
            "a-c": 2.0,
            "a": {"z": 1, "y": np.array([0.1])},
            "image": io.BytesIO(b"as good as a PNG"),
            "says": "go",
        },
        "action": {"turn": 0.25, "go": np.array([0.5, 0.75])},
        "infos": {"kind": 2, "on": True},
    }
    store = read_rlds(foreign([steps_of(3, **nested)], features))
    # Group by group: a/y, a/z, then a-c, though "-" comes before "/".
    row = np.array([0.1, 1, 2, 3, 4, 5, 6], np.float32)
    np.testing.assert_array_equal(store.observations, [row, row])
    np.testing.assert_array_equal(store.final_observations, [row])
    np.testing.assert_array_equal(store.actions, [[0.5, 0.75, 0.25]] * 2)
    assert store.spaces == Spaces(7, Continuous((-1.0,) * 3, (1.0,) * 3))
    assert set(store.extras) == {"mass", "infos/kind", "infos/on"}
    assert store.extras["infos/kind"].tolist() == [2, 2]
    assert store.extras["infos/on"].dtype == bool


@pytest.mark.parametrize("shape", [(), (1,)])
def test_discrete_actions(foreign, shape):
    features = STEP | {"action": TENSOR(shape=shape, dtype=np.int64)}
    steps = [
        step | {"action": np.full(shape, action)}
        for step, action in zip(steps_of(4), [0, 6, 0, 99], strict=True)
    ]
    store = read_rlds(foreign([steps], features))
    assert store.spaces.action == Discrete(7)  # that of the last step is not one
    assert store.actions.tolist() == [0, 6, 0]


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_numbers_of_every_type_come_back(foreign, encoding):
    types = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32"
    types = types.split() + (["float64"] if encoding != "none" else [])
    random = np.random.default_rng(0)
    values, features = {}, {}
    for name in types:
        dtype = np.dtype(name)
        bits = np.frombuffer(random.bytes(6 * dtype.itemsize), dtype).reshape(2, 3)
        values[name] = random.random((2, 3)) < 0.5 if name == "bool" else bits
        features[name] = TENSOR(shape=(2, 3), dtype=dtype, encoding=encoding)
    steps = steps_of(3, x=values)
    store = read_rlds(foreign([steps], STEP | {"x": features}))
    for name in types:
        found = store.extras[f"x/{name}"]
        np.testing.assert_array_equal(found, [values[name]] * 2, name, strict=True)


@pytest.mark.parametrize(
    ("features", "changed", "message"),
    [
        ({}, {"is_last": True}, r"record 0: expected is_last at step 2 only, .* 0"),
        ({}, {"reward": np.nan}, "record 0: episode 0, rewards: expected finite"),
        (
            {"observation": {"says": tfds.features.Text()}},
            {"observation": {"says": "x"}},
            "features.json: expected the numeric step feature 'observation', found",
        ),
        (
            {"reward": TENSOR(shape=(2,), dtype=np.float32)},
            {"reward": np.zeros(2, np.float32)},
            r"features.json: reward: expected one number a step, found \[2\]",
        ),
        (
            {"action": np.int64},
            {"action": 2**31},
            "steps/action: expected int32 numbers, found 2147483648",
        ),
        (
            {"observation": TENSOR(shape=(1,), dtype=np.float64, encoding="zlib")},
            {"observation": np.array([1e300])},
            "observations: expected finite numbers, found inf",
        ),
    ],
)
def test_a_bad_foreign_dataset_is_named(foreign, features, changed, message):
    directory = foreign([steps_of(3, **changed)], STEP | features)
    with pytest.raises(ValueError, match=message) as error:
        read_rlds(directory)
    assert str(error.value).startswith(str(directory))


def replace_declared(directory, name, **changed):
    """Says something else of a feature than what the records hold."""
    path = directory / "features.json"
    content = json.loads(path.read_text())
    steps = content["featuresDict"]["features"]["steps"]
    steps["sequence"]["feature"]["featuresDict"]["features"][name]["tensor"] |= changed
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("reward", {"dtype": "int64"}, "reward: expected int64 numbers, found float32"),
        ("is_last", {"dtype": "float32"}, "is_last: expected float32 .* int64"),
        ("mass", {"encoding": "none"}, "mass: expected float32 numbers, found strings"),
        ("mass", {"encoding": "bytes"}, "mass: expected strings of 24 bytes, found"),
        ("action", {"encoding": "zlib"}, "action: expected compressed strings, found"),
        ("mass", {"dtype": "float32"}, "mass: expected 12 bytes .* row 0, found more"),
        ("mass", {"shape": {"dimensions": ["4"]}}, "mass: expected 32 bytes .* 24 or"),
        (
            "mass",
            {"shape": {"dimensions": ["99999999999"]}},
            "mass: expected 536870912 bytes at most, found 3 rows of 799999999992",
        ),
        ("observation", {"shape": {"dimensions": ["4"]}}, "of 4 numbers, found 6 in"),
        ("observation", {"shape": {"dimensions": ["3"]}}, "3 rows as in is_last, fo"),
        ("reward", {"shape": {"dimensions": ["-1"]}}, "the numeric step feature 'rew"),
        (
            "reward",
            {"shape": {"dimensions": ["x"]}},
            "features.json: expected an integer, fo",
        ),
        ("reward", {"dtype": "complex64"}, "the numeric step feature 'reward'"),
        ("reward", {"dtype": ["float32"]}, "features.json: expected what TFDS writes"),
    ],
)
def test_records_that_are_not_as_declared_are_refused(foreign, name, changed, message):
    directory = foreign([steps_of(3)])
    replace_declared(directory, name, **changed)
    with pytest.raises(ValueError, match=message) as error:
        read_rlds(directory)
    assert str(error.value).startswith(str(directory)) and "\n" not in str(error.value)


def test_compressed_rows_that_are_damaged_are_refused(foreign, monkeypatch):
    packed = [b"", b"no zlib", zlib.compress(bytes(24))[:-1]]
    packed += [zlib.compress(bytes(24))[:-1] + b"\0", zlib.compress(bytes(10**7))]
    real = zlib.compress
    for number, row in enumerate(packed):
        monkeypatch.setattr(zlib, "compress", lambda data, row=row: row)
        directory = foreign([steps_of(3)])
        monkeypatch.setattr(zlib, "compress", real)
        with pytest.raises(ValueError, match="record 0: steps/mass: expected") as error:
            read_rlds(directory)
        assert "\n" not in str(error.value)
        directory.rename(directory.with_name(f"bad{number}"))


SPLIT = {
    "name": "train",
    "shardLengths": ["1"],
    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fileFormat": "parquet"}, "fileFormat: expected one of array_record, tfrec"),
        ({"fileFormat": []}, r"dataset_info.json: expected"),
        ({"splits": 3}, "expected what TFDS writes there"),
        ({"splits": [{"name": "train"}, {"name": 3}]}, "what TFDS writes there"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, "none below 0"),
        ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, "expected an integer"),
        ({"splits": [{"name": "x", "shardLengths": ["1"]}]}, "expected a record file"),
        ({"splits": [SPLIT | {"shardLengths": ["2"]}]}, "expected 2 records as in"),
        ({"splits": [SPLIT | {"shardLengths": ["0"]}]}, "expected 0 records as in"),
        (
            {"splits": [SPLIT | {"filepathTemplate": "../{SPLIT}"}]},
            "expected files in the directory, found '../train'",
        ),
        ({"name": "/etc"}, "expected files in the directory, found '/etc-train"),
    ],
)
def test_a_bad_dataset_info_is_named(foreign, changed, message):
    directory = foreign([steps_of(3)])
    edit(directory / "dataset_info.json", **changed)
    with pytest.raises(ValueError, match=message) as error:
        read_rlds(directory)
    assert str(error.value).startswith(str(directory)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", "{", "\xff", "[" * 100_000, '{"featuresDict": 3}']
)
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_other_json_is_refused(foreign, name, text):
    directory = foreign([steps_of(3)])
    (directory / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="expected .* found") as error:
        read_rlds(directory)
    assert str(error.value).startswith(f"{directory / name}: ")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_features_as_tfds_wrote_them_before_version_4_6(foreign):
    directory = foreign([steps_of(4)])
    before = read_rlds(directory)

    def kind(name, content):
        return {"type": f"tensorflow_datasets.core.features.{name}", "content": content}

    def tensor(dtype, *shape, encoding="none"):
        content = {"shape": list(shape), "dtype": dtype, "encoding": encoding}
        return kind("tensor_feature.Tensor", content)

    steps = {
        "is_last": tensor("bool"),
        "is_terminal": tensor("bool"),
        "observation": tensor("float64", 2),
        "action": tensor("float32", 1),
        "reward": tensor("float64"),
        "note": kind("text_feature.Text", {"use_encoder": False}),
        "mass": tensor("float64", 3, encoding="zlib"),
    }
    features = {
        "steps": kind(
            "dataset_feature.Dataset",
            {"feature": kind("features_dict.FeaturesDict", steps), "length": None},
        )
    }
    path = directory / "features.json"
    path.write_text(json.dumps(kind("features_dict.FeaturesDict", features)))
    after = read_rlds(directory)
    np.testing.assert_array_equal(before.observations, after.observations)
    np.testing.assert_array_equal(before.extras["mass"], after.extras["mass"])


def test_our_own_records_as_tfrecord(tmp_path, spaces, make_episode):
    """With a manifest of other files than there are; then without one."""
    directory = tmp_path / "ours"
    episodes = [make_episode(5, seed=seed) for seed in range(3)]
    write_rlds(episodes, spaces, directory, name="ours", source="here")
    before = read_rlds(directory)
    as_tfrecord(directory)
    with pytest.raises(ValueError, match="expected .* bytes, found no file"):
        read_rlds(directory)
    (directory / "ring_rl_manifest.json").unlink()
    after = read_rlds(directory)
    for name in ("observations", "actions", "rewards", "final_observations", "tasks"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_reading_imports_neither_tfds_nor_jax_and_takes_little_memory(
    tmp_path, spaces, make_episode
):
    directory = tmp_path / "ours"
    episode = make_episode(1000, extras={"physics": np.zeros((1000, 20))})
    write_rlds([episode] * 100, spaces, directory, name="ours", source="here")
    code = (
        "import sys; from pathlib import Path\n"
        "def anonymous():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(x.split()[1]) for x in lines if 'RssAnon' in x)\n"
        "from ring_rl.data.rlds import open_rlds\n"
        "before = anonymous()\n"
        "spaces, episodes = open_rlds(Path(sys.argv[1]))\n"
        "assert sum(len(episode.rewards) for episode in episodes) == 100_000\n"
        "added = anonymous() - before\n"
        "assert added < 100_000, f'{added} kB'\n"
        "loaded = {'tensorflow', 'tensorflow_datasets', 'jax'} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(directory)]
    subprocess.run(command, check=True, timeout=600)
