"""The masks of benchmarks, by name: what they hide, and how many pairs they leave."""

import dataclasses

import numpy as np

from ring_rl.attention import Mask

NAMES = ("causal", "full", "segments:N", "window:N")


@dataclasses.dataclass(frozen=True)
class MaskKind:
    """A mask of self-attention, the same in every row of a batch.

    Attributes:
      name: `causal`; `full`, all keys; `segments`, causal within consecutive segments
        of `size` tokens; `window`, causal and `size` positions back, one's own
        included.
      size: in tokens; 0 for the first two.
    """

    name: str
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> "MaskKind":
        """The mask of a text such as `causal` or `segments:1000`.

        Raises:
          ValueError: it is no such text.
        """
        name, colon, size = text.partition(":")
        if not colon and name in ("causal", "full"):
            return cls(name)
        if name in ("segments", "window") and size.isdecimal() and int(size) > 0:
            return cls(name, int(size))
        raise ValueError(f"mask must be one of {', '.join(NAMES)}, found {text!r}")

    def __str__(self) -> str:
        """The text that `parse` takes."""
        return f"{self.name}:{self.size}" if self.size else self.name

    @property
    def causal(self) -> bool:
        """Whether later keys are hidden."""
        return self.name != "full"

    @property
    def window(self) -> int | None:
        """Positions back that a query sees, or None for all."""
        return self.size if self.name == "window" else None

    def segments(self, tokens: int) -> np.ndarray:
        """Segment of each token in natural order, `[tokens]` int32."""
        index = np.arange(tokens, dtype=np.int32)
        return index // self.size if self.name == "segments" else np.zeros_like(index)

    def positions(self, tokens: int) -> np.ndarray:
        """Position of each token in natural order, `[tokens]` int32."""
        index = np.arange(tokens, dtype=np.int32)
        return index % self.size if self.name == "segments" else index

    def on_host(self, batch: int, tokens: int, *, numbered: bool = False) -> Mask:
        """The mask in natural order, NumPy arrays; with token indices if `numbered`."""

        def rows(values: np.ndarray) -> np.ndarray:
            return np.tile(values, (batch, 1))

        index = np.arange(tokens, dtype=np.int32)
        return Mask.self_attention(
            rows(self.positions(tokens)),
            rows(self.segments(tokens)),
            causal=self.causal,
            window=self.window,
            **({"tokens": rows(index)} if numbered else {}),
        )

    def seen(self, rows: np.ndarray, tokens: int) -> np.ndarray:
        """Which keys the queries of some natural indices see, `[rows tokens]` bool."""
        positions, segments = self.positions(tokens), self.segments(tokens)
        ago = positions[rows, None] - positions[None, :]
        seen = segments[rows, None] == segments[None, :]
        if self.causal:
            seen &= ago >= 0
        if self.window is not None:
            seen &= ago < self.window
        return seen

    def pairs(self, tokens: int) -> int:
        """How many pairs of query and key are not masked, in one row of a batch."""
        if self.name == "full":
            return tokens * tokens
        if self.name == "window":
            # The first `size` queries see all that came before them.
            few = min(self.size, tokens)
            return _triangle(few) + (tokens - few) * self.size
        if self.name == "segments":
            whole, rest = divmod(tokens, self.size)
            return whole * _triangle(self.size) + _triangle(rest)
        return _triangle(tokens)


def _triangle(tokens: int) -> int:
    """Pairs of a causal mask over this many tokens."""
    return tokens * (tokens + 1) // 2
