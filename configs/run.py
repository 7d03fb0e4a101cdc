"""A run as one value: what is trained on what, where, and how it is judged."""

import dataclasses
from typing import Any, TypeAlias

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.configs.sources import Collected, Dataset, Explored
from ring_rl.data.loader import LoaderConfig
from ring_rl.envs import (
    HIDDEN_TASK_FAMILIES,
    TaskSplit,
    make_vector,
    split_hidden_tasks,
    split_tasks,
)
from ring_rl.mesh import MeshConfig
from ring_rl.train.loop import LoopConfig
from ring_rl.train.optimiser import OptimiserConfig
from ring_rl.types import VectorEnvironment

AgentConfig: TypeAlias = AgenticTransformer | DecisionTransformer | BehaviorCloning


@dataclasses.dataclass(frozen=True)
class DarkRoom:
    """The dark room with some of its goals held out.

    Attributes:
      size: cells a side.
      max_steps: environment steps of an episode.
      held_out: goals that are never trained on, only evaluated.
      split_seed: of the draw of the held-out goals.
    """

    size: int = 9
    max_steps: int = 20
    held_out: int = 16
    split_seed: int = 0

    def __post_init__(self):
        """Checks that there is something to train on and something to judge by."""
        if self.held_out < 1 or self.max_steps < 1 or self.split_seed < 0:
            raise ValueError(
                "environment: held_out and max_steps must be at least 1 and split_seed "
                f"at least 0, found {self.held_out}, {self.max_steps} and "
                f"{self.split_seed}"
            )
        split_tasks(self.size, self.held_out, self.split_seed)

    id = "ring_rl/DarkRoom-v0"

    def make(self, rows: int, *, seed: int) -> VectorEnvironment:
        """Rows of this room."""
        return make_vector(
            self.id, rows, seed=seed, size=self.size, max_steps=self.max_steps
        )

    @property
    def training_tasks(self) -> tuple[str, ...]:
        """Goals that data is collected for."""
        return split_tasks(self.size, self.held_out, self.split_seed)[0]

    @property
    def evaluation_tasks(self) -> tuple[str, ...]:
        """Goals that agents are judged on."""
        return split_tasks(self.size, self.held_out, self.split_seed)[1]


@dataclasses.dataclass(frozen=True)
class PointMass:
    """A point mass and a hidden goal, with some of the goals held out.

    Attributes:
      walls: whether ExoRL's cross of walls is in the way; without, it starts in the
        middle, at rest.
      max_steps: environment steps of an episode.
      step_seconds: how long an action holds; at most 20 seconds an episode.
      goal_radius: metres within which the reward is full; ExoRL's is 0.015.
      goals: to train on.
      held_out: goals that are only evaluated, ExoRL's four corners among them.
      split_seed: of the draw of the goals.
    """

    walls: bool = False
    max_steps: int = 20
    step_seconds: float = 0.4
    goal_radius: float = 0.05
    goals: int = 512
    held_out: int = 16
    split_seed: int = 0

    def __post_init__(self):
        """Checks that an episode is no longer than the simulation."""
        if self.max_steps < 1 or not self.max_steps * self.step_seconds <= 20:
            raise ValueError(
                "environment: expected at least 1 step, and at most 20 seconds in all, "
                f"found {self.max_steps} steps of {self.step_seconds} seconds"
            )

    @property
    def id(self) -> str:
        """The environment's name."""
        return "ring_rl/PointMassMaze-v0" if self.walls else "ring_rl/PointMass-v0"

    def make(self, rows: int, *, seed: int) -> VectorEnvironment:
        """Rows of this arena."""
        return make_vector(self.id, rows, seed=seed, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What `gymnasium.make` is given."""
        return {
            "max_episode_steps": self.max_steps,
            "step_seconds": self.step_seconds,
            "goal_radius": self.goal_radius,
        }

    @property
    def _split(self) -> TaskSplit:
        return split_hidden_tasks(
            self.id, goals=self.goals, held_out=self.held_out, seed=self.split_seed
        )

    @property
    def training_tasks(self) -> tuple[str, ...]:
        """Goals that data is collected for."""
        return self._split.training

    @property
    def evaluation_tasks(self) -> tuple[str, ...]:
        """Goals that agents are judged on."""
        return self._split.evaluation


@dataclasses.dataclass(frozen=True)
class Gymnasium:
    """Any environment of Gymnasium.

    Of a family of hidden tasks, such as `ring_rl/Walker-v0`, agents are judged on all
    tasks that it holds out, or on all there are; other environments draw their tasks
    themselves if they have any.

    Attributes:
      id: its name, such as `Hopper-v5`; empty for data without an environment, which
        is trained on and not evaluated.
      max_steps: environment steps of an episode; 0 for the environment's own.
    """

    id: str = ""
    max_steps: int = 0

    def __post_init__(self):
        """Checks the range."""
        if self.max_steps < 0:
            raise ValueError(
                f"environment: max_steps must be at least 0, found {self.max_steps}"
            )

    def make(self, rows: int, *, seed: int) -> VectorEnvironment:
        """Rows of the environment."""
        options = {"max_episode_steps": self.max_steps} if self.max_steps else {}
        return make_vector(self.id, rows, seed=seed, **options)

    @property
    def training_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that data is collected for."""
        return split_hidden_tasks(self.id).training if self._hidden else ("",)

    @property
    def evaluation_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that agents are judged on."""
        return split_hidden_tasks(self.id).evaluation if self._hidden else ("",)

    @property
    def _hidden(self) -> bool:
        return self.id in HIDDEN_TASK_FAMILIES


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a trained agent is judged; the same for all agents that are compared.

    Attributes:
      trials: episodes in one context.
      rollouts: contexts for each task.
      target: the return that every trial is told to reach: a number, or a percentile
        of the training data's returns such as `95%`.
      temperature: of the sampled actions; 0 takes the likeliest.
      seed: of the environments and of the sampling.
    """

    trials: int = 4
    rollouts: int = 20
    target: str = "95%"
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        if self.trials < 1 or self.rollouts < 1:
            raise ValueError(
                "evaluation: trials and rollouts must be at least 1, found "
                f"{self.trials} and {self.rollouts}"
            )
        if not self.temperature >= 0 or self.seed < 0:
            raise ValueError(
                "evaluation: temperature and seed must be at least 0, found "
                f"{self.temperature} and {self.seed}"
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on.

    Attributes:
      name: of the run's folder.
      agent: the algorithm and its model.
      data: what it is trained on.
      environment: where it is evaluated.
      loader: shape of a batch.
      mesh: devices.
      optimiser: what becomes of a gradient.
      loop: how long to train, and how often to write.
      evaluation: how it is judged.
      seed: of parameters and batches.
    """

    name: str
    agent: AgentConfig
    data: Dataset | Collected | Explored
    environment: DarkRoom | PointMass | Gymnasium
    loader: LoaderConfig = LoaderConfig()
    mesh: MeshConfig = MeshConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 0

    def __post_init__(self):
        """Checks what the parts have to do with each other."""
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, found {self.seed}")
        parts = self.mesh.copies * self.loop.accumulate
        if self.loader.rows % parts:
            raise ValueError(
                "loader.rows must be a multiple of mesh.data x mesh.fsdp x "
                f"loop.accumulate={parts}, found {self.loader.rows}"
            )
        self.agent.trunk.check_tensor(self.mesh.tensor)


# What a saved configuration may name. Nothing else is made from a file.
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        AgenticTransformer, DecisionTransformer, BehaviorCloning, DarkRoom, PointMass,
        Gymnasium, Dataset, Collected, Explored,
    )
}  # fmt: skip
