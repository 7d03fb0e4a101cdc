"""What rows have read and played so far, step by step."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ring_rl.types import Chain


class Played:
    """All steps of B rows, those of their demonstrations first.

    Call `act` and `observe` in turn, then `chains` gives back the whole trials.
    """

    def __init__(self, rows: int, demonstrations: Sequence[Chain] = ()):
        """Rows that have read a chain each, or nothing.

        Args:
          rows: B.
          demonstrations: one chain a row, or none at all.
        """
        self._read = demonstrations
        self._timestep = np.zeros(rows, np.int32)
        self._turns: list[tuple[np.ndarray, ...]] = []

    def act(
        self,
        observations: Float[np.ndarray, "B O"],
        actions: Float[np.ndarray, "B A"] | Int[np.ndarray, " B"],
        active: Bool[np.ndarray, " B"],
    ) -> None:
        """What the active rows saw and did."""
        self._seen = (np.array(observations, np.float32), actions, active)

    def observe(
        self, rewards: Float[np.ndarray, " B"], ended: Bool[np.ndarray, " B"]
    ) -> None:
        """What came of it."""
        observations, actions, active = self._seen
        self._turns.append((observations, actions, rewards, self._timestep, active))
        after = np.where(ended, 0, self._timestep + 1)
        self._timestep = np.where(active, after, self._timestep).astype(np.int32)

    def chains(self, rows: Bool[np.ndarray, " B"]) -> list[Chain]:
        """One chain a row of all its steps; of no steps for rows that are left out.

        What was asked of a row, and whether it was reached, is 0: the chains are told
        so where they are read.
        """
        *columns, active = (np.stack(turns) for turns in zip(*self._turns, strict=True))
        chains = []
        for row, wanted in enumerate(rows):
            index = np.flatnonzero(active[:, row] & wanted)
            observations, actions, rewards, timesteps = (
                column[index, row] for column in columns
            )
            nothing = np.zeros(len(index), np.float32)
            chain = Chain(
                observations, actions, rewards, nothing, nothing, timesteps, nothing
            )
            if self._read and wanted:
                both = zip(self._read[row], chain, strict=True)
                chain = Chain(*(np.concatenate(pair) for pair in both))
            chains.append(chain)
        return chains
