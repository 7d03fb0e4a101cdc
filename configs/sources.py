"""What a run is trained on, as values: data on disk, or data that it collects."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Datasets on disk, in RLDS form; `ring-rl data import` makes one.

    Attributes:
      path: the folder of one, or of several of the same spaces.
      weights: of several, how likely a chain is to be of each; equally unless given.
      normalise: whether observations are brought to mean 0 and deviation 1.
    """

    path: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    normalise: bool = True

    def __post_init__(self):
        """Checks the weights."""
        good = all(0 < weight < float("inf") for weight in self.weights)
        if not good or len(self.weights) not in (0, len(self.path)):
            raise ValueError(
                "data: expected a weight above 0 for each path, found "
                f"{len(self.path)} paths and weights {list(self.weights)}"
            )


@dataclasses.dataclass(frozen=True)
class Collected:
    """A dataset that the run collects itself, by its environment's own behaviour.

    Attributes:
      parent: folder of such datasets; one that is there already is used again.
      episodes: behaviour episodes a training task.
      mistaken: share of them that look for the goal in a place drawn at random.
      relabelled: as many episodes of other tasks are added to each training task, with
        the rewards that they would have got in it; for a point mass.
      seed: of the collection.
      normalise: whether observations are brought to mean 0 and deviation 1.
    """

    parent: str = "datasets"
    episodes: int = 200
    mistaken: float = 0.5
    relabelled: int = 0
    seed: int = 0
    normalise: bool = False

    weights = ()

    def __post_init__(self):
        """Checks the ranges."""
        if self.episodes < 1 or min(self.seed, self.relabelled) < 0:
            raise ValueError(
                "data: episodes must be at least 1, seed and relabelled at least 0, "
                f"found {self.episodes}, {self.seed} and {self.relabelled}"
            )
        if not 0 <= self.mistaken <= 1:
            raise ValueError(
                f"data: mistaken must be from 0 to 1, found {self.mistaken}"
            )


@dataclasses.dataclass(frozen=True)
class Explored:
    """Exploration of an ExoRL domain that the run collects itself, as ExoRL's was.

    The explorer does not see the task; the episodes then get the rewards of the task
    that the run's environment is, or of each that it has.

    Attributes:
      parent: folder of such datasets; one that is there already is used again.
      explorer: `rnd`, DDPG on novelty, or `random`, uniform actions.
      steps: environment steps to collect at least.
      seed: of the collection.
      normalise: whether observations are brought to mean 0 and deviation 1.
    """

    parent: str = "datasets"
    explorer: Literal["rnd", "random"] = "rnd"
    steps: int = 100_000
    seed: int = 0
    normalise: bool = True

    weights = ()

    def __post_init__(self):
        """Checks the ranges."""
        if self.explorer not in ("rnd", "random"):
            raise ValueError(
                f"data: explorer must be rnd or random, found {self.explorer!r}"
            )
        if self.steps < 1 or self.seed < 0:
            raise ValueError(
                "data: steps must be at least 1 and seed at least 0, found "
                f"{self.steps} and {self.seed}"
            )
