import json
import multiprocessing
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ring_rl.data.manifest import MANIFEST_NAME
from ring_rl.data.rlds import open_rlds, read_rlds, write_rlds
from ring_rl.types import Continuous, Discrete, Spaces

EXTRA_TYPES = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()


@pytest.fixture
def write(tmp_path, spaces, make_episode):
    """Writes episodes, three unless they are given, and returns their directory."""

    def write(episodes=None, spaces=spaces, **options):
        if episodes is None:
            episodes = [make_episode(steps, seed=steps) for steps in (5, 2, 4)]
        options = {"name": "Hopper medium-v2", "source": "a test", **options}
        write_rlds(episodes, spaces, tmp_path / "dataset", **options)
        return tmp_path / "dataset"

    return write


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_round_trip_changes_nothing(
    data, tmp_path_factory, make_episode, assert_same_episode
):
    width = data.draw(st.integers(1, 3))
    action = data.draw(
        st.sampled_from([Discrete(5), Continuous((-2.0, -0.1), (0.1, 1.0))])
    )
    spaces = Spaces(width, action)
    extras = data.draw(
        st.dictionaries(
            st.sampled_from(["physics", "infos/qpos", "infos/deep/er", "return"]),
            st.tuples(
                st.sampled_from(EXTRA_TYPES), st.sampled_from([(), (2,), (2, 3)])
            ),
        )
    )
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    episodes = []
    for index in range(data.draw(st.integers(1, 4))):
        steps = data.draw(st.integers(1, 6))
        random = np.random.default_rng(data.draw(st.integers(0, 1000)))

        def bits(dtype, shape, random=random):
            """Any bits: largest integers, infinities, not-a-numbers, -0."""
            if dtype == "?":
                return random.integers(2, size=shape).astype(bool)
            count = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return np.frombuffer(random.bytes(count), dtype).reshape(shape)

        episodes.append(
            make_episode(
                steps,
                seed=index,
                spaces=spaces,
                rewards=np.array(
                    data.draw(st.lists(numbers, min_size=steps, max_size=steps)),
                    np.float32,
                ),
                has_final_observation=data.draw(st.booleans()),
                terminated=data.draw(st.booleans()),
                truncated=data.draw(st.booleans()),
                task=data.draw(st.text(st.characters(codec="utf-8"), min_size=1)),
                episode_id=data.draw(st.integers(-(2**63), 2**63 - 1)),
                extras={
                    name: bits(dtype, (steps, *shape))
                    for name, (dtype, shape) in extras.items()
                },
            )
        )
    directory = tmp_path_factory.mktemp("rlds") / "dataset"
    write_rlds(episodes, spaces, directory, name="x", source="hypothesis")
    back, read = open_rlds(directory)
    assert back == spaces
    for written, found in zip(episodes, read, strict=True):
        assert_same_episode(written, found)


def test_tfds_reads_it_as_rlds(write, make_episode):
    """Through TFDS's default decoding, the convention of the last step included."""
    written = make_episode(3, seed=1)
    directory = write([written, make_episode(2, seed=2, has_final_observation=False)])
    builder = tfds.builder_from_directory(directory)
    assert builder.info.name == "hopper_medium_v2"
    first, second = builder.as_data_source(split="train")
    assert first["episode_id"] == 1
    assert first["return"] == pytest.approx(written.rewards.sum(), rel=1e-6)
    assert first["task"] == b"reach"
    steps = list(first["steps"])
    assert [bool(step["is_first"]) for step in steps] == [True, False, False, False]
    assert [bool(step["is_last"]) for step in steps] == [False, False, False, True]
    assert [bool(step["is_terminal"]) for step in steps] == [False] * 3 + [True]
    np.testing.assert_array_equal(
        [step["observation"] for step in steps],
        [*written.observations, written.final_observation],
    )
    assert [step["reward"] for step in steps[:3]] == written.rewards.tolist()
    # Doubles would come back rounded to float32, were they declared as plain tensors.
    np.testing.assert_array_equal(
        [step["infos"]["qpos"] for step in steps[:3]],
        written.extras["infos/qpos"],
        strict=True,
    )
    assert not list(second["steps"])[-1]["is_terminal"]
    assert (second["truncated"], second["has_final_observation"]) == (True, False)


def test_manifest_says_what_it_is(write, spaces):
    directory = write(reader="d4rl")
    manifest = json.loads((directory / MANIFEST_NAME).read_text())
    assert (manifest["steps"], manifest["episodes"]) == (11, 3)
    assert (manifest["source"], manifest["reader"]) == ("a test", "d4rl")
    assert manifest["spaces"]["action"]["high"] == [1.0, 1.0]
    assert manifest["versions"]["tensorflow-datasets"]
    store = read_rlds(directory)
    assert manifest["return_quantiles"]["max"] == pytest.approx(store.returns.max())
    assert manifest["length_quantiles"]["50%"] == 4
    assert [name.partition("-")[0] for name in manifest["files"]] == [
        "hopper_medium_v2",
        "features.json",
        "dataset_info.json",
    ]
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (directory / name).stat().st_size


def test_several_record_files(write, monkeypatch):
    monkeypatch.setattr("ring_rl.data.rlds.shards._SHARD_BYTES", 200)
    directory = write()
    names = sorted(path.name for path in directory.glob("*array_record*"))
    assert len(names) > 1
    count = len(names)
    assert names[-1] == (
        f"hopper_medium_v2-train.array_record-{count - 1:05}-of-{count:05}"
    )
    assert read_rlds(directory).episode_ids.tolist() == [5, 2, 4]


def test_several_processes_write_the_same_bytes(
    tmp_path, make_episode, spaces, monkeypatch
):
    """More files than processes, in the order of collection."""
    monkeypatch.setattr("ring_rl.data.rlds.shards._SHARD_BYTES", 200)
    episodes = [make_episode(5, seed=seed) for seed in range(12)]
    found = []
    for processes in (1, 2):
        directory = tmp_path / str(processes)
        write_rlds(
            iter(episodes), spaces, directory, name="x", source="y", processes=processes
        )
        found.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert found[0] == found[1]
    assert sum("array_record" in name for name in found[0]) == 12
    assert read_rlds(tmp_path / "2").episode_ids.tolist() == list(range(12))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_episode_ends_it_soon(
    tmp_path, make_episode, spaces, monkeypatch, processes
):
    monkeypatch.setattr("ring_rl.data.rlds.shards._SHARD_BYTES", 1)
    good = make_episode(3)
    bad = make_episode(3, rewards=np.full(3, np.nan, np.float32))

    def given():
        yield from (good, bad)
        for _ in range(3000):
            # With two processes this one goes on until the other has looked.
            time.sleep(0.02 * (processes - 1))
            yield good

    episodes = given()
    options = {"name": "x", "source": "y", "processes": processes}
    with pytest.raises(ValueError, match="episode 1, rewards: expected finite"):
        write_rlds(episodes, spaces, tmp_path / "x", **options)
    assert next(episodes, None) is not None
    assert list(tmp_path.iterdir()) == []


def test_no_process_is_too_few(tmp_path, make_episode, spaces):
    episodes = [make_episode(3)]
    with pytest.raises(ValueError, match="processes: expected at least 1, found 0"):
        write_rlds(episodes, spaces, tmp_path / "x", name="x", source="y", processes=0)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_one_line(tmp_path, make_episode, spaces, monkeypatch):
    monkeypatch.setattr("ring_rl.data.rlds.shards._SHARD_BYTES", 1)
    others = multiprocessing.active_children()

    def episodes():
        for index in range(40):
            if index == 6:
                for child in multiprocessing.active_children():
                    if child not in others:
                        child.kill()
            yield make_episode(3)

    options = {"name": "x", "source": "y", "processes": 2}
    with pytest.raises(ValueError, match="one was ended, perhaps for want of") as error:
        write_rlds(episodes(), spaces, tmp_path / "x", **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path

import numpy as np

from ring_rl.data import rlds
from ring_rl.data.rlds import shards
from ring_rl.types import Continuous, Episode, Spaces

def episodes():
    x = np.zeros((3, 1), np.float32)
    while True:
        yield Episode(x, x, x[:, 0], x[:, 0], x[0], True, True, False, "task", 0, {})
        print("one", flush=True)

if __name__ == "__main__":
    shards._SHARD_BYTES = 1
    spaces, directory = Spaces(1, Continuous((-1,), (1,))), Path(sys.argv[1])
    rlds.write_rlds(episodes(), spaces, directory, name="x", source="y", processes=2)
"""


def test_a_killed_writer_leaves_no_dataset_and_no_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "dataset")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(8):  # both processes have written files
            assert process.stdout.readline() == "one\n"
        process.kill()
        # The pipe ends when the last process that could write to it does.
        process.communicate(timeout=300)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("1.2.0", "rlds_1_2_0"), ("走", "rlds"), ("_X-1", "x_1")]
)
def test_a_name_that_tfds_does_not_allow(write, name, expected):
    directory = write(name=name)
    assert tfds.builder_from_directory(directory).info.name == expected
    assert len(read_rlds(directory)) == 3
    assert json.loads((directory / MANIFEST_NAME).read_text())["name"] == name


def test_task_is_replaced_on_request(write):
    assert set(read_rlds(write(), task="stand").tasks) == {"stand"}


# Bad files


def damage_middle(path):
    data = bytearray(path.read_bytes())
    data[100:110] = bytes(10)
    path.write_bytes(data)


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        damage_middle,
    ],
)
@pytest.mark.parametrize(
    "victim", ["*array_record*", "features.json", "dataset_info.json"]
)
def test_damaged_files_are_named(write, victim, damage, manifest):
    directory = write()
    if not manifest:
        (directory / MANIFEST_NAME).unlink()
    (path,) = directory.glob(victim)
    damage(path)
    with pytest.raises(ValueError, match="expected .* found") as error:
        read_rlds(directory)
    assert str(error.value).startswith(str(directory))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected the keys"),
        ('{"format": 2, "spaces": {}, "files": {}}', "expected format 1, found 2"),
        ('{"format": 1, "spaces": {}, "files": {}}', "spaces: expected 'action'"),
        (
            '{"format": 1, "files": {"a": {}}, "spaces": {"observation": 3, '
            '"action": {"kind": "discrete", "size": 4}}}',
            "a: expected bytes and sha256, found {}",
        ),
    ],
)
def test_a_bad_manifest_is_named(write, text, message):
    path = write() / MANIFEST_NAME
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_rlds(path.parent)
    assert str(path) in str(error.value)


def test_bounds_are_not_taken_twice(write):
    with pytest.raises(ValueError, match="expected no action bounds"):
        read_rlds(write(), action_bounds=(-2.0, 2.0))


def test_no_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"dataset_info.json: expected an RLDS"):
        read_rlds(tmp_path / "absent")


# Bad episodes, and directories that are taken


def siblings(directory):
    return sorted(path.name for path in directory.parent.iterdir())


def test_nothing_is_left_of_a_failure(tmp_path, write, make_episode):
    def failing():
        yield make_episode(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(failing())
    bad = make_episode(2, rewards=np.full(2, np.nan, np.float32))
    with pytest.raises(ValueError, match="episode 1, rewards"):
        write([make_episode(3), bad])
    with pytest.raises(ValueError, match="a test: expected at least one episode"):
        write([])
    assert list(tmp_path.iterdir()) == []


def test_a_taken_directory(tmp_path, write, make_episode):
    (tmp_path / "dataset").mkdir()  # empty: not taken
    directory = write()
    with pytest.raises(ValueError, match="expected a new directory"):
        write()
    bad = make_episode(2, rewards=np.full(2, np.nan, np.float32))
    with pytest.raises(ValueError, match="episode 0, rewards"):
        write([bad], overwrite=True)
    assert len(read_rlds(directory)) == 3  # the old one, whole
    write([make_episode(2)], overwrite=True)
    assert len(read_rlds(directory)) == 1
    assert siblings(directory) == ["dataset"]
    (directory / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match="nothing was touched"):
        write(overwrite=True)
    assert (directory / MANIFEST_NAME).exists()


def test_an_impossible_directory(tmp_path, spaces, make_episode):
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / "dataset"
    with pytest.raises(ValueError, match="place to write to, found .*file: File ex"):
        write_rlds([make_episode(2)], spaces, directory, name="x", source="y")


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"reward": np.zeros(2)}, "extras 'reward': expected a name"),
        ({"infos//x": np.zeros(2)}, "extras 'infos//x': expected a name"),
        ({"x": np.zeros(2), "x/y": np.zeros(2)}, "'x/y': the name of another"),
        ({"x/y": np.zeros(2), "x": np.zeros(2)}, "'x': the name of another"),
        ({"x": np.array(["a", "b"])}, "extras 'x': expected booleans"),
        ({"x": np.zeros(2, ">f8")}, "extras 'x': expected .* native"),
        ({"x": np.zeros((2, 0))}, r"extras 'x': .* found float64 \[2, 0\]"),
    ],
)
def test_extras_that_cannot_come_back_are_refused(write, make_episode, extras, message):
    with pytest.raises(ValueError, match=message):
        write([make_episode(2, extras=extras)])


def test_another_process_writes_the_same_bytes_without_tensorflow(write):
    code = (
        "import sys; from pathlib import Path; from ring_rl.data import rlds\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "store = rlds.read_rlds(Path(sys.argv[1]))\n"
        "episodes = map(store.episode, range(len(store)))\n"
        "copy = Path(sys.argv[1] + '-copy')\n"
        "name, source = 'Hopper medium-v2', 'a test'\n"
        "rlds.write_rlds(episodes, store.spaces, copy, name=name, source=source)\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    first = write()
    command = [sys.executable, "-W", "error", "-c", code, str(first)]
    subprocess.run(command, check=True, timeout=60)
    second = first.with_name("dataset-copy")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }
