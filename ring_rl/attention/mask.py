"""Which key a query may see, as data: positions and segments, never a [T, S] array.

Query i sees key j iff their segment ids are equal and not negative, and, if `causal`,
`k_positions[j] <= q_positions[i]`, and, if a `window` is set,
`q_positions[i] - k_positions[j] < window`. The order of the tokens in memory plays no
part, so any layout of the sequence over devices needs no special case.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_pytree_node_class
class Mask:
    """Positions (the order of visibility) and segments (negative: padding) of tokens.

    Attributes:
      q_positions: `[B T]` int32.
      k_positions: `[B S]` int32.
      q_segments: `[B T]` int32; a negative id is padding, which sees nothing.
      k_segments: `[B S]` int32; a negative id is padding, which nobody sees.
      causal: whether keys at later positions are hidden.
      window: how many positions back a query sees, its own included, or None for all.

    Raises:
      ValueError: the arrays' shapes do not belong together, or `window` is below 1.
    """

    def __init__(
        self,
        q_positions: Any,
        k_positions: Any,
        q_segments: Any,
        k_segments: Any,
        *,
        causal: bool = True,
        window: int | None = None,
    ):
        """Checks shapes; NumPy and JAX arrays are both accepted and kept."""
        for name, positions, segments in (
            ("q", q_positions, q_segments),
            ("k", k_positions, k_segments),
        ):
            shape = tuple(positions.shape)
            if len(shape) != 2 or shape != tuple(segments.shape):
                raise ValueError(
                    f"Mask: {name}_positions and {name}_segments must share one shape "
                    f"[batch, tokens], found {shape} and {tuple(segments.shape)}"
                )
        if q_positions.shape[0] != k_positions.shape[0]:
            raise ValueError(
                "Mask: queries and keys must have the same batch size, found "
                f"{q_positions.shape[0]} and {k_positions.shape[0]}"
            )
        if window is not None and window < 1:
            raise ValueError(f"Mask: window must be at least 1, found {window}")
        self.q_positions = q_positions
        self.k_positions = k_positions
        self.q_segments = q_segments
        self.k_segments = k_segments
        self.causal = causal
        self.window = window

    @classmethod
    def self_attention(
        cls,
        positions: Any,
        segments: Any,
        *,
        causal: bool = True,
        window: int | None = None,
    ) -> "Mask":
        """The mask of a sequence that attends to itself."""
        return cls(
            positions, positions, segments, segments, causal=causal, window=window
        )

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[bool, int | None]]:
        """The arrays are leaves; `causal` and `window` are static."""
        leaves = (
            self.q_positions,
            self.k_positions,
            self.q_segments,
            self.k_segments,
        )
        return leaves, (self.causal, self.window)

    @classmethod
    def tree_unflatten(
        cls, static: tuple[bool, int | None], leaves: tuple[Any, ...]
    ) -> "Mask":
        """Rebuilds without checks: transformations put other things in the leaves."""
        mask = object.__new__(cls)
        (mask.q_positions, mask.k_positions, mask.q_segments, mask.k_segments) = leaves
        mask.causal, mask.window = static
        return mask

    def replace_keys(self, positions: Any, segments: Any) -> "Mask":
        """The same queries and rules against other keys."""
        leaves = (self.q_positions, positions, self.q_segments, segments)
        return Mask.tree_unflatten((self.causal, self.window), leaves)


class TileSummary(NamedTuple):
    """Least and largest position and segment of each tile of tokens, `[B tiles]`.

    The bounds leave padding out; `padded` says whether a tile has any.
    """

    least_position: Int[Array, "B tiles"]
    largest_position: Int[Array, "B tiles"]
    least_segment: Int[Array, "B tiles"]
    largest_segment: Int[Array, "B tiles"]
    padded: Bool[Array, "B tiles"]


def summarise(positions: Any, segments: Any, tile: int) -> TileSummary:
    """Summaries of consecutive tiles of `tile` tokens, which must divide the length."""
    batch, length = positions.shape
    positions = positions.reshape(batch, length // tile, tile)
    segments = segments.reshape(batch, length // tile, tile)
    valid = segments >= 0
    # An all-padding tile gets least > largest, so that nothing overlaps it.
    limit = jnp.iinfo(jnp.int32)

    def least(values: Any) -> Any:
        return jnp.where(valid, values, limit.max).min(axis=-1)

    def largest(values: Any) -> Any:
        return jnp.where(valid, values, limit.min).max(axis=-1)

    return TileSummary(
        least(positions),
        largest(positions),
        least(segments),
        largest(segments),
        ~valid.all(axis=-1),
    )


def classify(
    queries: TileSummary, keys: TileSummary, *, causal: bool, window: int | None
) -> tuple[Bool[Array, "q k"], Bool[Array, "q k"]]:
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
        # Written without a difference: the bounds of an empty tile would overflow.
        needed &= q(queries.least_position) < k(keys.largest_position) + window
        full &= q(queries.largest_position) < k(keys.least_position) + window
    return needed.any(axis=0), full.all(axis=0)


def visible(
    q_positions: Any,
    q_segments: Any,
    k_positions: Any,
    k_segments: Any,
    *,
    causal: bool,
    window: int | None,
) -> Bool[Array, "B T S"]:
    """The mask itself, for one tile (or, in the oracle, for everything)."""
    seen = (q_segments[:, :, None] == k_segments[:, None, :]) & (
        k_segments[:, None, :] >= 0
    )
    if causal:
        seen &= k_positions[:, None, :] <= q_positions[:, :, None]
    if window is not None:
        seen &= q_positions[:, :, None] - k_positions[:, None, :] < window
    return seen
