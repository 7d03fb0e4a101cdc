"""Which key a query may see, as data: positions and segments, never a [T, S] array.

Query i sees key j iff their segment ids are equal and not negative, and, if `causal`,
`k_positions[j] <= q_positions[i]`, and, if a `window` is set,
`q_positions[i] - k_positions[j] < window`. The order of the tokens in memory plays no
part, so any layout of the sequence over devices needs no special case. Positions may be
any int32 numbers: nothing here overflows.

`summarise`, `classify` and `visible` take NumPy arrays too and then stay on the host,
where layouts are chosen by the same rules that the devices follow.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

AnyArray = Array | np.ndarray

_INT32 = np.iinfo(np.int32)


@jax.tree_util.register_pytree_node_class
class Mask:
    """Positions (the order of visibility), segments and indices of tokens.

    All arrays are int32; other integers are converted if they are NumPy's and fit.

    Attributes:
      q_positions: `[B T]`.
      k_positions: `[B S]`.
      q_segments: `[B T]`; a negative id is padding, which sees nothing.
      k_segments: `[B S]`; a negative id is padding, which nobody sees.
      q_tokens: `[B T]`, indices in the natural order, whatever the layout, or None;
        only dropout reads them.
      k_tokens: `[B S]`, likewise; there if and only if `q_tokens` is.
      causal: whether keys at later positions are hidden.
      window: how many positions back a query sees, its own included, or None for all.

    Raises:
      ValueError: the arrays' shapes do not belong together, they hold no int32
        numbers, or `window` is no int from 1 to 2**31 - 1.
    """

    def __init__(
        self,
        q_positions: Any,
        k_positions: Any,
        q_segments: Any,
        k_segments: Any,
        *,
        q_tokens: Any = None,
        k_tokens: Any = None,
        causal: bool = True,
        window: int | None = None,
    ):
        """Checks shapes; NumPy and JAX arrays are both accepted and kept."""
        if (q_tokens is None) != (k_tokens is None):
            raise ValueError(
                "Mask: q_tokens and k_tokens must be given together, found only "
                f"{'k_tokens' if q_tokens is None else 'q_tokens'}"
            )
        self.q_positions, self.q_segments, self.q_tokens = _tokens_of(
            "q", q_positions, q_segments, q_tokens
        )
        self.k_positions, self.k_segments, self.k_tokens = _tokens_of(
            "k", k_positions, k_segments, k_tokens
        )
        if q_positions.shape[0] != k_positions.shape[0]:
            raise ValueError(
                "Mask: queries and keys must have the same batch size, found "
                f"{q_positions.shape[0]} and {k_positions.shape[0]}"
            )
        if window is not None and (
            not isinstance(window, int | np.integer) or not 1 <= window <= _INT32.max
        ):
            raise ValueError(
                f"Mask: window must be None or an int of at least 1 and at most "
                f"{_INT32.max}, found {window!r}"
            )
        self.causal = causal
        self.window = None if window is None else int(window)

    @classmethod
    def self_attention(
        cls,
        positions: Any,
        segments: Any,
        *,
        tokens: Any = None,
        causal: bool = True,
        window: int | None = None,
    ) -> "Mask":
        """The mask of a sequence that attends to itself."""
        return cls(
            positions,
            positions,
            segments,
            segments,
            q_tokens=tokens,
            k_tokens=tokens,
            causal=causal,
            window=window,
        )

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[bool, int | None]]:
        """The arrays are leaves; `causal` and `window` are static."""
        children = (
            self.q_positions,
            self.k_positions,
            self.q_segments,
            self.k_segments,
            self.q_tokens,
            self.k_tokens,
        )
        return children, (self.causal, self.window)

    @classmethod
    def tree_unflatten(
        cls, static: tuple[bool, int | None], children: tuple[Any, ...]
    ) -> "Mask":
        """Rebuilds without checks: transformations put other things in the leaves."""
        mask = object.__new__(cls)
        mask.q_positions, mask.k_positions = children[:2]
        mask.q_segments, mask.k_segments = children[2:4]
        mask.q_tokens, mask.k_tokens = children[4:]
        mask.causal, mask.window = static
        return mask

    def seen(self) -> Bool[AnyArray, "B T S"]:
        """Which key each query sees, for all of them at once."""
        return visible(
            self.q_positions, self.q_segments, self.k_positions, self.k_segments,
            causal=self.causal, window=self.window,
        )  # fmt: skip

    def replace_keys(self, positions: Any, segments: Any, tokens: Any = None) -> "Mask":
        """The same queries and rules against other keys.

        Without `tokens` of the keys, those of the queries are dropped too.
        """
        q_tokens = None if tokens is None else self.q_tokens
        queries = (self.q_positions, positions, self.q_segments, segments)
        return Mask.tree_unflatten(
            (self.causal, self.window), (*queries, q_tokens, tokens)
        )


def _tokens_of(
    side: str, positions: Any, segments: Any, tokens: Any
) -> tuple[Any, ...]:
    """The arrays of the queries or of the keys, checked."""
    shape = np.shape(positions)
    if len(shape) != 2 or shape != np.shape(segments):
        raise ValueError(
            f"Mask: {side}_positions and {side}_segments must share one shape "
            f"[batch, tokens], found {shape} and {np.shape(segments)}"
        )
    if tokens is not None and shape != np.shape(tokens):
        raise ValueError(
            f"Mask: {side}_tokens must have the shape of {side}_positions, {shape}, "
            f"found {np.shape(tokens)}"
        )
    return (
        _int32(f"{side}_positions", positions),
        _int32(f"{side}_segments", segments),
        None if tokens is None else _int32(f"{side}_tokens", tokens),
    )


def _int32(name: str, array: Any) -> Any:
    dtype = getattr(array, "dtype", type(array).__name__)
    if dtype == np.int32:
        return array
    found = str(dtype)
    if isinstance(array, np.ndarray) and np.issubdtype(dtype, np.integer):
        least, largest = int(array.min(initial=0)), int(array.max(initial=0))
        if _INT32.min <= least and largest <= _INT32.max:
            return array.astype(np.int32)
        found += f" from {least} to {largest}"
    raise ValueError(f"Mask: {name} must be an array of int32, found {found}")


class TileSummary(NamedTuple):
    """Least and largest position and segment of each tile of tokens, `[B tiles]`.

    The bounds leave padding out; `padded` says whether a tile has any.
    """

    least_position: Int[AnyArray, "B tiles"]
    largest_position: Int[AnyArray, "B tiles"]
    least_segment: Int[AnyArray, "B tiles"]
    largest_segment: Int[AnyArray, "B tiles"]
    padded: Bool[AnyArray, "B tiles"]


def summarise(positions: Any, segments: Any, tile: int) -> TileSummary:
    """Summaries of consecutive tiles of `tile` tokens, which must divide the length."""
    batch, length = positions.shape
    positions = positions.reshape(batch, length // tile, tile)
    segments = segments.reshape(batch, length // tile, tile)
    valid = segments >= 0

    # An all-padding tile gets least > largest, so that nothing overlaps it.
    def least(values: Any) -> Any:
        return values.min(axis=-1, where=valid, initial=_INT32.max)

    def largest(values: Any) -> Any:
        return values.max(axis=-1, where=valid, initial=_INT32.min)

    return TileSummary(
        least(positions),
        largest(positions),
        least(segments),
        largest(segments),
        ~valid.all(axis=-1),
    )


def classify(
    queries: TileSummary, keys: TileSummary, *, causal: bool, window: int | None
) -> tuple[Bool[AnyArray, "q k"], Bool[AnyArray, "q k"]]:
    """Which pairs of tiles have work, and which of them need no mask arithmetic.

    Returns `(needed, full)`, both `[query tiles, key tiles]`, over the whole batch:
    a pair is needed if any row may see anything in it (a necessary condition, from
    the bounds alone), and full if every row sees everything.
    """

    def q(values: Any) -> Any:
        return values[:, :, None]

    def k(values: Any) -> Any:
        return values[:, None, :]

    needed = (q(queries.least_segment) <= k(keys.largest_segment)) & (
        k(keys.least_segment) <= q(queries.largest_segment)
    )
    full = (
        ~q(queries.padded)
        & ~k(keys.padded)
        & (q(queries.least_segment) == k(keys.largest_segment))
        & (k(keys.least_segment) == q(queries.largest_segment))
    )
    if causal:
        needed &= k(keys.least_position) <= q(queries.largest_position)
        full &= k(keys.largest_position) <= q(queries.least_position)
    if window is not None:
        needed &= q(earliest_position(queries.least_position, window)) <= k(
            keys.largest_position
        )
        full &= q(earliest_position(queries.largest_position, window)) <= k(
            keys.least_position
        )
    return needed.any(axis=0), full.all(axis=0)


def visible(
    q_positions: Any,
    q_segments: Any,
    k_positions: Any,
    k_segments: Any,
    *,
    causal: bool,
    window: int | None,
) -> Bool[AnyArray, "B T S"]:
    """The mask itself, for one tile (or, in the oracle, for everything)."""
    earliest = None if window is None else earliest_position(q_positions, window)
    return sees(
        q_positions[:, :, None], q_segments[:, :, None],
        k_positions[:, None, :], k_segments[:, None, :],
        causal=causal, earliest=None if earliest is None else earliest[:, :, None],
    )  # fmt: skip


def sees(
    q_positions: Any,
    q_segments: Any,
    k_positions: Any,
    k_segments: Any,
    *,
    causal: bool,
    earliest: Any,
) -> Any:
    """Whether each query sees the key that broadcasting puts beside it.

    `earliest` is each query's `earliest_position`, or None where there is no window.
    """
    seen = (q_segments == k_segments) & (k_segments >= 0)
    if causal:
        seen &= k_positions <= q_positions
    if earliest is not None:
        seen &= k_positions >= earliest
    return seen


def earliest_position(q_positions: Any, window: int) -> Any:
    """The first position within the window of each query, or the least int32."""
    # Clipped first: the difference would go round to the largest numbers.
    return q_positions.clip(_INT32.min + window - 1) - (window - 1)
