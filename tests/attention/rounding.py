"""How far attention may be from the f64 oracle: what rounding alone explains."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ring_rl.attention import Mask
from ring_rl.attention.dropout import dropout_factor, make_dropout

from .results import DROPOUT_SEED, Inputs, Results

# Unit-normal inputs in f32 leave 3e-7 forward and 1.2e-6 in the gradients: products of
# up to 8 numbers and sums over up to 100 keys, each rounded to 6e-8.
FORWARD, GRADIENT = 2e-6, 1e-5
FLOAT32 = Results(FORWARD, GRADIENT, GRADIENT, GRADIENT)
# The largest relative error of rounding to a bfloat16, which has 8 binary digits.
BFLOAT16_UNIT = 2.0**-8


def relative_errors(found: Results, exact: Results, least: float = 0) -> Results:
    """The largest error of each result, relative to its largest entry.

    Or relative to `least`, where all entries are smaller. It is 1 where a result may be
    0, as the gradients are of queries that see a single key: they are sums of products
    of numbers of about 1 that cancel, up to the rounding of what is subtracted.
    """
    return Results(
        *(
            float(np.abs(a.astype(np.float64) - b).max() / max(least, np.abs(b).max()))
            for a, b in zip(found, exact, strict=True)
        )
    )


def typical_errors(found: Results, exact: Results) -> Results:
    """The root mean square error of each result, relative to the result's own."""
    return Results(
        *(
            float(np.sqrt(((a.astype(np.float64) - b) ** 2).mean() / (b**2).mean()))
            for a, b in zip(found, exact, strict=True)
        )
    )


def assert_close(found: Results, exact: Results, least: float = 0):
    """Whether f32 is within its bounds; NaN is not."""
    errors = relative_errors(found, exact, least)
    for name, error, bound in zip(errors._fields, errors, FLOAT32, strict=True):
        assert error <= bound, f"{name}: {error:.2e}, at most {bound:.2e} expected"


def bfloat16_shares(
    found: Results, exact: Results, inputs: Inputs, mask: Mask, dropout_rate: float = 0
) -> Results:
    """The largest error of each result as a share of what roundings to bf16 explain.

    Sums and softmax are in f32. Each of these is rounded by a share of at most u:
    D p before (D p) v, D p before (D p)ᵀ g, ds before ds k and dsᵀ q, the saved output,
    whose error enters through delta, and the four results. D is the factor of dropout.
    """
    u = BFLOAT16_UNIT
    shared = inputs.q.shape[2] // inputs.k.shape[2]
    q, k, v, g = (x.astype(np.float64) for x in inputs)
    k, v = (np.repeat(x, shared, axis=2) for x in (k, v))
    p, factor = _weights(q, k, mask, dropout_rate)

    def of_key_heads(array):
        return array.reshape(*k.shape[:2], -1, shared, k.shape[3]).sum(axis=3)

    output = u * np.einsum("bnts,bsnh->btnh", factor * p, np.abs(v))
    output += u * np.abs(exact.output)
    delta = np.einsum("btnh,btnh->bnt", g, exact.output)[..., None]
    delta_error = np.einsum("btnh,btnh->bnt", np.abs(g), output)[..., None]
    dp = factor * np.einsum("btnh,bsnh->bnts", g, v)
    ds_error = u * p * np.abs(dp - delta) + p * delta_error
    scale = q.shape[-1] ** -0.5
    dk = np.einsum("bnts,btnh->bsnh", scale * ds_error, np.abs(q))
    dv = np.einsum("bnts,btnh->bsnh", u * factor * p, np.abs(g))
    explained = Results(
        output,
        np.einsum("bnts,bsnh->btnh", scale * ds_error, np.abs(k))
        + u * np.abs(exact.dq),
        of_key_heads(dk) + u * np.abs(exact.dk),
        of_key_heads(dv) + u * np.abs(exact.dv),
    )

    def share(found, exact, explained, float32):
        # A rounding of what is off by two already, and f32's own roundings.
        bound = (1 + u) ** 3 * explained + float32 * np.abs(exact).max()
        return float((np.abs(found.astype(np.float64) - exact) / bound).max())

    of_results = zip(found, exact, explained, FLOAT32, strict=True)
    return Results(*(share(*of_result) for of_result in of_results))


def _weights(q, k, mask: Mask, dropout_rate: float):
    """Weights without dropout, and its factor: both `[B N T S]`, or 1."""
    scores = np.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
    seen = mask.seen()
    scores = np.where(seen[:, None], scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - np.where(np.isneginf(largest), 0, largest))
    p /= np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)
    dropout = make_dropout(
        dropout_rate, jax.random.key(DROPOUT_SEED), q.shape[0], q.shape[2]
    )
    if dropout is None:
        return p, 1.0
    tokens = jnp.asarray(mask.q_tokens), jnp.asarray(mask.k_tokens)
    factor = dropout_factor(dropout, *tokens, jnp.float32)
    return p, np.asarray(factor, np.float64)
