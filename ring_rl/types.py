"""The values that the parts of ring_rl hand to each other, and the letters for shapes.

Dimension letters, the same in every annotation of the project:

    B batch               T query length       S key length
    N query heads         K key/value heads    H head width
    D model width         F feed-forward width L layers
    O observation width   A action width, or the number of discrete actions
    R devices on the ring C block (tile) length

A *step* is one environment step; a *token* one input position of the transformer; an
*episode* one run from reset to terminal or truncation; a *trajectory* the tokens of one
episode; a *chain* several trajectories of one task, ascending by return, concatenated;
a *trial* one episode rolled out at test time within the same context. A *return* is the
undiscounted sum of rewards.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0, 1, ... `size` - 1, stored as int32 `[steps]`."""

    size: int


@dataclasses.dataclass(frozen=True)
class Continuous:
    """Actions in a box, float32 `[steps A]`; `low` and `high` have length A.

    Bounds are rounded to float32, as the actions are: else a bound of -0.4 that a user
    gave would differ from the same bound that an environment states.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self):
        """Rounds the bounds."""
        for name in ("low", "high"):
            bounds = np.asarray(getattr(self, name), np.float32)
            object.__setattr__(self, name, tuple(map(float, bounds)))

    @property
    def size(self) -> int:
        """A, the action width."""
        return len(self.low)


ActionSpace: TypeAlias = Discrete | Continuous
Recall: TypeAlias = Literal["played", "ascending"]


@dataclasses.dataclass(frozen=True)
class Spaces:
    """What an environment or a dataset shows and takes: O numbers, and actions."""

    observation: int
    action: ActionSpace


class Episode(NamedTuple):
    """One episode as arrays; step i is (observation i, action i, reward i, discount i).

    Attributes:
      observations: `[steps O]` float32, what was seen before each action.
      actions: `[steps A]` float32, or `[steps]` int32 for discrete actions.
      rewards: `[steps]` float32, what action i brought.
      discounts: `[steps]` float32.
      final_observation: `[O]` float32, what was seen after the last action; zeros
        where the source does not say (`has_final_observation` is then False).
      has_final_observation: whether `final_observation` is real.
      terminated: the task ended the episode.
      truncated: a time limit or the end of the recording did.
      task: name of the task; chains are made of episodes of one task.
      episode_id: unique within its dataset, in the order of collection.
      extras: further arrays `[steps ...]` by name (physics, infos).
    """

    observations: Float[np.ndarray, "steps O"]
    actions: Float[np.ndarray, "steps A"] | Int[np.ndarray, " steps"]
    rewards: Float[np.ndarray, " steps"]
    discounts: Float[np.ndarray, " steps"]
    final_observation: Float[np.ndarray, " O"]
    has_final_observation: bool
    terminated: bool
    truncated: bool
    task: str
    episode_id: int
    extras: dict[str, np.ndarray]


class Chain(NamedTuple):
    """Trajectories of one task, ascending by return, concatenated; one row a step.

    Attributes:
      observations: `[steps O]` float32.
      actions: `[steps A]` float32 or `[steps]` int32.
      rewards: `[steps]` float32.
      target_returns: `[steps]` float32, the chain's largest return minus the rewards
        of the episode so far: what is asked of the agent at that step.
      completions: `[steps]` float32, 1 at the last step of an episode whose return
        reaches the chain's largest, else 0.
      timesteps: `[steps]` int32, environment steps since the episode began.
      weights: `[steps]` float32, weight of the step's action in the loss.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    target_returns: np.ndarray
    completions: np.ndarray
    timesteps: np.ndarray
    weights: np.ndarray


class Tokens(NamedTuple):
    """What the transformer reads, one entry a token; absent fields are 0.

    An interleaved token shows one field, a fused one all of them (then action, reward
    and completion are those of the step before).

    Attributes:
      target_return: `[B T]`, units of return.
      observation: `[B T O]`.
      action: `[B T A]`, or int32 `[B T]` for discrete actions.
      reward: `[B T]`.
      completion: `[B T]`.
      present: `[B T 5]` bool, which of the five fields above the token shows.
      timestep: `[B T]` int32, environment steps since the episode began.
      positions: `[B T]` int32, the token's index within its chain.
      segments: `[B T]` int32, the chain's index within the row; -1 is padding.
    """

    target_return: Any
    observation: Any
    action: Any
    reward: Any
    completion: Any
    present: Any
    timestep: Any
    positions: Any
    segments: Any


class Batch(NamedTuple):
    """Tokens, and at the tokens where an action is read out, that action.

    Attributes:
      tokens: what is read.
      label: the action to predict, `[B T A]` or int32 `[B T]`; 0 elsewhere.
      weight: `[B T]`, weight in the loss; 0 where no action is read out.
    """

    tokens: Tokens
    label: Any
    weight: Any


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How raw numbers are brought to unit size before they are embedded.

    Computed from the training data and saved with the run: an agent that acts must
    scale as it did in training.
    """

    observation_mean: tuple[float, ...]
    observation_std: tuple[float, ...]
    return_scale: float
    reward_scale: float


@runtime_checkable
class VectorEnvironment(Protocol):
    """Several environments stepped together, one a row, never reset behind one's back.

    A row keeps its task until it is reset with another one. A row that has ended
    ignores the actions given to it until it is reset: its reward is 0 and it reports
    neither `terminated` nor `truncated` again.
    """

    rows: int
    spaces: Spaces
    max_episode_steps: int

    def reset(
        self, rows: Bool[np.ndarray, " B"], tasks: Sequence[str] | None = None
    ) -> Float[np.ndarray, "B O"]:
        """Starts an episode in the rows of the mask; all rows' observations.

        `tasks` has one name a row (those of rows outside the mask are not looked at).
        """
        ...

    def step(
        self, actions: Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]
    ) -> tuple[
        Float[np.ndarray, "B O"],
        Float[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
        Bool[np.ndarray, " B"],
    ]:
        """Observations, rewards, terminated, truncated, each one entry a row."""
        ...

    def close(self) -> None:
        """Frees what the environments hold."""
        ...


class Rollouts(NamedTuple):
    """What `rows` environments did over `trials` consecutive episodes each.

    Attributes:
      returns: `[rows trials]` float64, undiscounted.
      lengths: `[rows trials]` int64, environment steps.
      terminated: `[rows trials]`, whether the task (not the time limit) ended it.
      tasks: one task name a row (of its last trial, where a control changes tasks).
      environment_steps_per_second: of the whole rollout, compilation included.
      decode_milliseconds: median time of one acting step for all rows.
    """

    returns: Float[np.ndarray, "rows trials"]
    lengths: Int[np.ndarray, "rows trials"]
    terminated: Bool[np.ndarray, "rows trials"]
    tasks: tuple[str, ...]
    environment_steps_per_second: float
    decode_milliseconds: float
