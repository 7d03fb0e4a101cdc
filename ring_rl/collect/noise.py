"""A ladder of noise over any behaviour: data of every quality from one policy."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ring_rl.collect.behaviours import UniformBehaviour
from ring_rl.collect.recorder import Behaviour
from ring_rl.types import ActionSpace, Continuous

NOISES = ("sticky", "gaussian")


@dataclasses.dataclass
class LadderState:
    """What `NoiseLadder` remembers within an episode.

    Attributes:
      base: the base behaviour's own state.
      rate: the episode's rung, from 0 to 1.
      generator: of the noise.
      held: the random action that is being held; None while the base acts.
      left: steps until the next draw between the two.
    """

    base: Any
    rate: float
    generator: np.random.Generator
    held: Any = None
    left: int = 0


@dataclasses.dataclass(frozen=True)
class NoiseLadder:
    """A behaviour disturbed more or less, by a rung that each episode draws.

    The rungs are 0, 1 / (`rungs` - 1), ... 1, each as likely. `sticky` noise: every
    `hold` steps, with the rung's probability, one uniformly random action is held for
    those steps. `gaussian` noise: to every action is added the rung times half of the
    action's range times a normal draw, and the sum is clipped to the bounds. On the
    lowest rung the base acts alone; on the highest, sticky noise leaves nothing of it.

    Attributes:
      base: who acts beneath the noise.
      action: the environment's actions; `gaussian` needs continuous ones.
      noise: one of `NOISES`.
      rungs: of the ladder, at least 2.
      hold: environment steps that a random action is held for; `sticky` only.
    """

    base: Behaviour
    action: ActionSpace
    noise: str = "sticky"
    rungs: int = 11
    hold: int = 4

    def __post_init__(self):
        """Checks the ranges."""
        if self.noise not in NOISES:
            raise ValueError(
                f"noise: expected one of {', '.join(NOISES)}, found {self.noise!r}"
            )
        if self.rungs < 2 or self.hold < 1:
            raise ValueError(
                "noise ladder: expected at least 2 rungs and 1 step to hold, found "
                f"{self.rungs} and {self.hold}"
            )
        if self.noise == "gaussian" and not isinstance(self.action, Continuous):
            raise ValueError(
                "noise: expected continuous actions for gaussian, found discrete ones; "
                "sticky takes both"
            )

    def begin(self, task: str, generator: np.random.Generator) -> LadderState:
        """Draws the rung of an episode."""
        rate = int(generator.integers(self.rungs)) / (self.rungs - 1)
        (own,) = generator.spawn(1)
        return LadderState(self.base.begin(task, generator), rate, own)

    def act(
        self, observations: Float[np.ndarray, "B O"], states: Sequence[LadderState]
    ) -> Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]:
        """The base's actions, disturbed."""
        actions = self.base.act(observations, [state.base for state in states])
        disturb = self._sticky if self.noise == "sticky" else self._gaussian
        chosen = [
            disturb(action, state)
            for action, state in zip(actions, states, strict=True)
        ]
        return np.array(chosen, actions.dtype)

    def _sticky(self, action: Any, state: LadderState) -> Any:
        if not state.left:
            state.left = self.hold
            state.held = None
            if state.generator.random() < state.rate:
                uniform = UniformBehaviour(self.action)
                state.held = uniform.act(np.zeros((1, 0)), [state.generator])[0]
        state.left -= 1
        return action if state.held is None else state.held

    def _gaussian(self, action: np.ndarray, state: LadderState) -> np.ndarray:
        assert isinstance(self.action, Continuous)
        low, high = np.array(self.action.low), np.array(self.action.high)
        noise = state.generator.standard_normal(len(low))
        return np.clip(action + state.rate * (high - low) / 2 * noise, low, high)
