"""Dropout of attention weights as a function of which two tokens meet, and no more.

Whether the weight of a query and a key is dropped is a hash of the seed of the row and
head and of the two tokens' indices in the natural order. Nothing is drawn and nothing
kept: backward computes the factors again, and they are the same on any number of
devices, in any layout and in tiles of any size.

The hash is `lowbias32` by Chris Wellons (https://nullprogram.com/blog/2018/07/31). It
maps 32-bit numbers one to one, so that no two queries of a head share a hash.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32


@jax.tree_util.register_pytree_node_class
class Dropout(NamedTuple):
    """Which weights are dropped, and how many: `seeds` is a leaf, `rate` static."""

    seeds: UInt32[Array, "B N 2"]
    rate: float

    def tree_flatten(self) -> tuple[tuple[Any], float]:
        """The seeds are data, the rate is not."""
        return (self.seeds,), self.rate

    @classmethod
    def tree_unflatten(cls, rate: float, leaves: tuple[Any]) -> "Dropout":
        """Rebuilds without checks."""
        return cls(leaves[0], rate)


def row_keys(key: Key[Array, ""], B: int, N: int) -> Key[Array, "B N"]:
    """A key for each row and head of a whole batch, to be sharded as the batch is."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(fold, (0, None))(fold(key, jnp.arange(B)), jnp.arange(N))


def make_dropout(rate: Any, key: Any, B: int, N: int) -> Dropout | None:
    """Dropout for B rows and N heads, or None for rate 0.

    `key` is one key, from which every row and head gets its own, or a part of
    `row_keys` where the caller has but a part of the rows or heads.

    Raises:
      ValueError: the rate is outside [0, 1), or the key is not for B rows and N heads.
    """
    if not (isinstance(rate, numbers.Real) and 0 <= float(rate) < 1):
        raise ValueError(
            "attention: dropout_rate must be a number of at least 0 and below 1, found "
            f"{rate!r}"
        )
    if not rate:
        return None
    dtype = getattr(key, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_key or key.shape not in ((), (B, N)):
        found = repr(key) if dtype is None else f"{dtype} of shape {key.shape}"
        raise ValueError(
            "attention: dropout_key must be a key of jax.random.key, or an array of "
            f"shape {(B, N)} of them, where dropout_rate is {rate}, found {found}"
        )
    keys = key if key.shape else row_keys(key, B, N)
    draw = jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32)))
    return Dropout(draw(keys), float(rate))


def dropout_factor(
    dropout: Dropout, q_tokens: Int[Array, "B T"], k_tokens: Int[Array, "B S"], dtype
) -> Float[Array, "B N T S"]:
    """0 for a dropped weight and 1 / (1 - rate) for one that is kept."""
    queries, keys = hash_queries(dropout, q_tokens), hash_keys(dropout, k_tokens)
    return pair_factor(dropout.rate, queries, keys, dtype)


def hash_queries(
    dropout: Dropout, q_tokens: Int[Array, "B T"]
) -> UInt32[Array, "B N T"]:
    """The queries' part of the hash.

    A loop over tiles should get slices of it: hashed within the loop, the compiler for
    CPUs puts this into the loop over pairs, which then takes five times as long.
    """
    return _hash(_hash(q_tokens)[:, None] ^ dropout.seeds[:, :, :1])


def hash_keys(dropout: Dropout, k_tokens: Int[Array, "B S"]) -> UInt32[Array, "B N S"]:
    """The keys' part of the hash."""
    return _hash(_hash(k_tokens)[:, None] ^ dropout.seeds[:, :, 1:])


def pair_factor(
    rate: float,
    queries: UInt32[Array, "*heads T"],
    keys: UInt32[Array, "*heads S"],
    dtype,
) -> Float[Array, "*heads T S"]:
    """`dropout_factor` from hashes of the tokens."""
    # The hash's last step mixes into low bits, which hardly touch a comparison.
    pairs = _mix(queries[..., :, None] ^ keys[..., None, :])
    kept = pairs >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(kept, jnp.asarray(1 / (1 - rate), dtype), jnp.zeros((), dtype))


def _mix(x: Array) -> Array:
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    return x * jnp.uint32(0x846CA68B)


def _hash(x: Array) -> Array:
    x = _mix(x.astype(jnp.uint32))
    return x ^ (x >> 16)
