"""Against protobuf itself: TFDS's own copy of the classes of `tf.train`."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from ring_rl.data.rlds.example import parse_example
from ring_rl.data.rlds.example_format import format_example

Features, Feature = tf_feature_pb2.Features, tf_feature_pb2.Feature

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)
FLOATS = st.floats(width=32, allow_nan=False)
BYTES = st.binary(max_size=4) | st.just(b"same")


def feature(kind, values):
    if kind == "none":
        return Feature()
    types = {
        "bytes_list": tf_feature_pb2.BytesList,
        "float_list": tf_feature_pb2.FloatList,
        "int64_list": tf_feature_pb2.Int64List,
    }
    return Feature(**{kind: types[kind](value=values)})


FEATURES = st.one_of(
    st.builds(feature, st.just("bytes_list"), st.lists(BYTES, max_size=5)),
    st.builds(feature, st.just("float_list"), st.lists(FLOATS, max_size=5)),
    st.builds(feature, st.just("int64_list"), st.lists(NUMBERS, max_size=5)),
    st.just(Feature()),
)
NAMES = st.sampled_from(["a", "steps/reward", "", "ü"])
EXAMPLES = st.dictionaries(NAMES, FEATURES, max_size=4).map(
    lambda features: tf_example_pb2.Example(features=Features(feature=features))
)


def by_protobuf(data):
    """What protobuf reads, as lists by name; the message."""
    message = tf_example_pb2.Example.FromString(data)
    found = {}
    for name, one in message.features.feature.items():
        kind = one.WhichOneof("kind")
        if kind is not None:
            found[name] = (kind, list(getattr(one, kind).value))
    return found, message


def by_us(data, names=None):
    found = {}
    for name, values in parse_example(data, names).items():
        if isinstance(values, list):
            assert len({len(item) for item in values}) > 1
            found[name] = ("bytes_list", values)
        elif values.dtype == np.uint8:
            assert values.ndim == 2
            found[name] = ("bytes_list", [row.tobytes() for row in values])
        else:
            kind = {"float32": "float_list", "int64": "int64_list"}[str(values.dtype)]
            found[name] = (kind, values.tolist())
    return found


@settings(max_examples=200, deadline=None)
@given(message=EXAMPLES)
def test_lists_are_those_of_protobuf(message):
    data = message.SerializeToString()
    assert by_us(data) == by_protobuf(data)[0]


@settings(max_examples=100, deadline=None)
@given(message=EXAMPLES)
def test_bytes_are_those_of_protobuf(message):
    data = message.SerializeToString(deterministic=True)
    features = parse_example(data)
    # Not where a list is absent; names of which one begins the other have no order.
    if len(features) == len(message.features.feature) and "" not in features:
        assert format_example(features) == data
    assert by_us(format_example(features)) == by_us(data)


def test_long_lists():
    random = np.random.default_rng(0)
    bits = random.integers(0, 64, 5000)
    features = {
        "integers": random.integers(0, 2**63, 5000) >> bits,
        "negative": -(random.integers(0, 2**63, 5000) >> bits),
        "flags": random.integers(0, 2, 5000),
        "floats": random.normal(size=5000).astype(np.float32),
        "rows": random.integers(0, 256, (300, 200), dtype=np.uint8),
        "strings": [bytes(size) for size in range(300)],
    }
    data = format_example(features)
    read, _ = by_protobuf(data)
    for name, values in parse_example(data).items():
        kind, numbers = read[name]
        if kind == "bytes_list":
            assert [bytes(row) for row in values] == numbers
            assert [bytes(row) for row in features[name]] == numbers
        else:
            assert values.tolist() == numbers == features[name].tolist()
            assert values.flags.owndata or values.base.flags.owndata
            assert values.flags.writeable and values.flags.aligned


def test_the_order_of_names_does_not_matter():
    features = {"b": np.ones(2, np.float32), "a": np.ones(2, np.int64)}
    assert format_example(features) == format_example(dict(sorted(features.items())))
    with pytest.raises(ValueError, match="feature 'a': expected .* found float64"):
        format_example({"a": np.zeros(3)})


def test_wanted_names_only():
    data = format_example({"a": [b"x", b"yz"], "b": np.ones(2, np.float32)})
    assert by_us(data, {"b", "c"}) == {"b": ("float_list", [1.0, 1.0])}
    assert parse_example(b"") == {}


def varint(number):
    low = number & 0x7F
    return bytes([low | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([low])


def field(number, value, wire=2):
    """A field of a message; of wire type 2, with its length."""
    length = varint(len(value)) if wire == 2 else b""
    return bytes([number << 3 | wire]) + length + value


def entry(name, *values):
    parts = [field(1, name), *(field(2, value) for value in values)]
    return field(1, field(1, b"".join(parts)))


ONE = field(3, field(1, b"\x01"))  # integers, packed: [1]
HALF = field(2, field(1, np.float32(0.5).tobytes()))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # Single numbers, and single and packed ones together.
        (entry(b"a", field(3, field(1, b"\x05", 0) * 2)), [5, 5]),
        (entry(b"a", field(3, field(1, b"\x05", 0) + field(1, b"\x80\x01"))), [5, 128]),
        (entry(b"a", field(2, field(1, np.float32(2).tobytes(), 5) * 2)), [2.0, 2.0]),
        # Parts of a message are merged; of several kinds of list the last counts.
        (entry(b"a", ONE + ONE), [1, 1]),
        (entry(b"a", ONE, ONE), [1, 1]),
        (entry(b"a", ONE, HALF), [0.5]),
        (entry(b"a", HALF + ONE + HALF), [0.5]),
        # Of entries with one name the last counts.
        (entry(b"a", ONE) + entry(b"a", HALF), [0.5]),
        # Unknown fields and groups are passed over.
        (field(7, b"?") + entry(b"a", ONE + field(9, b"")), [1]),
        (b"\x3b\x0a\x01\x00\x40\x01\x3c" + entry(b"a", ONE), [1]),
        # Numbers may be longer than need be.
        (entry(b"a", field(3, field(1, b"\x81\x80\x00"))), [1]),
        # A list that is there and empty.
        (entry(b"a", field(3, b"")), []),
    ],
)
def test_what_the_format_allows(data, expected):
    assert by_us(data) == by_protobuf(data)[0]
    assert parse_example(data)["a"].tolist() == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a", "end missing at byte 1"),
        (b"\x0a\x05\x0a", "end missing at byte 2"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "end missing"),
        (b"\xff" * 12, "a number of 5 bytes at most"),
        (b"\x00", "expected a field's number, found 0"),
        (b"\x0e\x00", "found wire type 6"),
        (b"\x0c", "found wire type 4"),
        (b"\x3b\x0a\x00", "end missing"),
        (b"\x3b\x44", "found wire type 4"),
        (b"\x3b" * 200, "found wire type 3"),
        (entry(b"\xff", ONE), "the name of a feature in UTF-8, found b'.xff'"),
        (entry(b"a", field(3, field(1, b"\x80"))), "'a': expected whole integers"),
        (entry(b"a", field(3, field(1, b"\x80" * 10 + b"\0"))), "of 10 bytes at most"),
        (entry(b"a", field(2, field(1, b"123"))), "'a': expected whole floats"),
        (entry(b"a", field(2, b"\x0a\x05123")), "feature 'a': .* end missing"),
        (entry(b"a" * 101, b"\x0a\x09"), "end missing"),
    ],
)
def test_what_it_does_not(data, message):
    with pytest.raises(DecodeError):
        by_protobuf(data)
    with pytest.raises(ValueError, match=message) as error:
        parse_example(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@settings(max_examples=400, deadline=None)
@given(message=EXAMPLES, data=st.data())
def test_altered_bytes_are_read_as_protobuf_does_or_refused(message, data):
    altered = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(altered)))
        length = data.draw(st.integers(0, 3))
        altered[place : place + length] = data.draw(st.binary(max_size=4))
    altered = bytes(altered)
    try:
        expected, read = by_protobuf(altered)
    except DecodeError:
        with pytest.raises(ValueError, match="expected") as error:
            parse_example(altered)
        assert type(error.value) is ValueError and "\n" not in str(error.value)
        return
    # Protobuf's own implementations differ on entries with unknown fields.
    if not (len(UnknownFieldSet(read)) or len(UnknownFieldSet(read.features))):
        assert by_us(altered) == expected


@pytest.mark.parametrize(
    "wrap",
    [
        lambda part, count: part * count,
        lambda part, count: field(1, part * count),
        lambda part, count: entry(b"a", part * count),
        lambda part, count: entry(b"a", field(1, part * count)),
        lambda part, count: entry(b"a", field(2, part * count)),
        lambda part, count: entry(b"a", field(3, part * count)),
    ],
)
def test_a_message_takes_memory_in_proportion(wrap):
    """However little it says with however many bytes."""
    parts = [field(number, b"") for number in (1, 2, 3)]
    parts += [field(1, b"\x01"), field(1, b"\x01", 0), field(1, b"1234", 5), ONE]
    parts += [field(1, b"1") + field(1, b"12"), entry(b""), entry(b"b", ONE), b";<"]
    for part in parts:
        data = wrap(part, 3_000 // len(part))
        tracemalloc.start()
        with contextlib.suppress(ValueError):
            parse_example(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 * len(data) + 20_000, part
