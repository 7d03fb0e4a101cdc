import jax
import numpy as np
import pytest

from ring_rl.attention import Mask, attention
from ring_rl.bench.masks import MaskKind
from ring_rl.bench.oracle import (
    ALL_ROWS,
    Inputs,
    expected,
    largest_errors,
    sample_rows,
)

T = 24
NAMES = ("output", "dq", "dk", "dv")


def make_inputs(heads: int, kv_heads: int) -> Inputs:
    random = np.random.default_rng(0)
    counts = (heads, kv_heads, kv_heads, heads)
    return Inputs(*(random.standard_normal((2, T, n, 4)) for n in counts))


def by_reference(inputs: Inputs, mask: Mask) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):

        def attend(q, k, v):
            return attention(q, k, v, mask, implementation="reference")

        output, pull_back = jax.vjp(attend, *map(jax.numpy.asarray, inputs[:3]))
        found = (output, *pull_back(inputs.g))
        return dict(zip(NAMES, map(np.asarray, found), strict=True))


@pytest.mark.parametrize("text", ["causal", "full", "segments:5", "window:3"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_oracle_agrees_with_reference_in_f64(text, kv_heads):
    kind, inputs = MaskKind.parse(text), make_inputs(4, kv_heads)
    right = by_reference(inputs, kind.on_host(2, T))
    rows = np.arange(T)
    exact = expected(inputs, rows, lambda some: kind.seen(some, T), backward=True)
    errors = largest_errors(right, exact, rows)
    assert set(errors) == set(NAMES)
    # f64 against f64: some hundred roundings of numbers of size 1 to 10.
    assert max(errors.values()) < 1e-13


def test_some_rows_are_the_rows_of_all():
    kind, inputs = MaskKind.parse("causal"), make_inputs(2, 2)
    rows = np.array([0, 7, T - 1])

    def values(rows):
        return expected(inputs, rows, lambda some: kind.seen(some, T), backward=True)

    some, all_ = values(rows), values(np.arange(T))
    # Gradients of keys need every query.
    assert set(some) == {"output", "dq"}
    for name, value in some.items():
        np.testing.assert_allclose(value, all_[name][:, rows], rtol=0, atol=1e-13)


def test_dropped_pairs_count_for_nothing_but_the_denominator():
    inputs = make_inputs(1, 1)
    factors = np.random.default_rng(1).choice([0.0, 1.25], size=(2, 1, T, T))
    rows = np.arange(T)
    with jax.enable_x64(True):

        def attend(q, k, v):
            scores = jax.numpy.einsum("BTNH,BSNH->BNTS", q, k) / 2
            p = jax.nn.softmax(scores, axis=-1) * factors
            return jax.numpy.einsum("BNTS,BSNH->BTNH", p, v)

        output, pull_back = jax.vjp(attend, *map(jax.numpy.asarray, inputs[:3]))
        found = map(np.asarray, (output, *pull_back(inputs.g)))
        right = dict(zip(NAMES, found, strict=True))
    exact = expected(
        inputs,
        rows,
        lambda some: np.ones((len(some), T), bool),
        backward=True,
        factors=lambda some: factors[:, :, some],
    )
    assert max(largest_errors(right, exact, rows).values()) < 1e-13


def test_an_error_is_found_where_it_is():
    kind, inputs = MaskKind.parse("causal"), make_inputs(2, 2)
    rows = np.array([3, 9])
    exact = expected(inputs, rows, lambda some: kind.seen(some, T), backward=False)
    found = {"output": np.zeros((2, T, 2, 4))}
    found["output"][:, rows] = exact["output"]
    assert largest_errors(found, exact, rows) == {"output": 0}
    found["output"][1, 9, 0, 2] += 0.5
    assert largest_errors(found, exact, rows) == {"output": pytest.approx(0.5)}


def test_long_sequences_are_compared_at_a_sample_with_both_ends():
    np.testing.assert_array_equal(sample_rows(ALL_ROWS), np.arange(ALL_ROWS))
    rows = sample_rows(ALL_ROWS + 1)
    assert len(np.unique(rows)) == len(rows) == 64
    assert rows[0] == 0 and rows[-1] == ALL_ROWS
