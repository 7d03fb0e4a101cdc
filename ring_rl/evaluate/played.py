"""What rows have read and played so far, step by step."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ring_rl.types import Chain


class Played:
    """All trials of B rows, those of their demonstrations first.

    Call `act` and `observe` in turn; `chains` gives back the whole trials.
    """

    def __init__(self, rows: int, demonstrations: Sequence[Chain] = ()):
        """Rows that have read a chain each, or nothing.

        Args:
          rows: B.
          demonstrations: one chain a row, or none at all.
        """
        self._trials = [[chain] for chain in demonstrations] or [
            [] for _ in range(rows)
        ]
        # Of the trial in progress: observation, action and reward of each step.
        self._steps: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(rows)]

    def act(
        self,
        observations: Float[np.ndarray, "B O"],
        actions: Float[np.ndarray, "B A"] | Int[np.ndarray, " B"],
        active: Bool[np.ndarray, " B"],
    ) -> None:
        """What the active rows saw and did."""
        self._turn = np.array(observations, np.float32), actions, active

    def observe(
        self, rewards: Float[np.ndarray, " B"], ended: Bool[np.ndarray, " B"]
    ) -> None:
        """What came of it."""
        observations, actions, active = self._turn
        for row in np.flatnonzero(active):
            self._steps[row].append((observations[row], actions[row], rewards[row]))
        for row in np.flatnonzero(active & ended):
            columns = zip(*self._steps[row], strict=True)
            trial = _trial(*(np.stack(column) for column in columns))
            self._trials[row].append(trial)
            self._steps[row] = []
        self._none = _trial(observations[:0], actions[:0], rewards[:0])

    def chains(self, rows: Bool[np.ndarray, " B"]) -> list[Chain]:
        """One chain a row, of its trials as played; of no steps for other rows.

        What was asked of a row, and whether it was reached, is 0 in what it played: the
        chains are told so where they are read.
        """
        return [
            Chain(*map(np.concatenate, zip(self._none, *trials, strict=True)))
            if wanted
            else self._none
            for trials, wanted in zip(self._trials, rows, strict=True)
        ]


def _trial(observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> Chain:
    zeros = np.zeros(len(rewards), np.float32)
    timesteps = np.arange(len(rewards), dtype=np.int32)
    return Chain(observations, actions, rewards, zeros, zeros, timesteps, zeros)
