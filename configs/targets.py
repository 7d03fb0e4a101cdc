"""The return that an agent is told to reach, as configurations and options have it."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Target:
    """A return, or a percentile of the training data's returns.

    Attributes:
      number: the return, or from 0 to 100.
      percentile: which of both.
    """

    number: float
    percentile: bool = False

    @classmethod
    def parse(cls, text: str) -> "Target":
        """A target of its text: `300` or `95%`.

        Raises:
          ValueError: it is neither.
        """
        word = text.removesuffix("%")
        try:
            found = cls(float(word), percentile=word != text)
        except ValueError:
            found = cls(np.nan)
        least, most = (0, 100) if found.percentile else (-np.inf, np.inf)
        if not (np.isfinite(found.number) and least <= found.number <= most):
            raise ValueError(
                f"target: expected a number or a percentile such as 95%, found {text!r}"
            )
        return found

    def __str__(self) -> str:
        """Its text, the same for the same target."""
        return str(self.number).removesuffix(".0") + "%" * self.percentile

    def of(self, returns: Float[np.ndarray, " episodes"]) -> tuple[float, str]:
        """The number that these returns make it, and where that is from."""
        if not self.percentile:
            return self.number, "given"
        found = float(np.percentile(returns, self.number))
        return found, f"{self.number:g}th percentile of the training returns"
