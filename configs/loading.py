"""Trained runs read back: their model, and as a policy for one's own loop."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from ring_rl.configs.datasets import Derived, read_derived
from ring_rl.configs.run import RunConfig
from ring_rl.configs.saved import load_config
from ring_rl.evaluate.acting import Actor
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.train.checkpoint import Checkpoints
from ring_rl.types import Chain, Spaces

Which: TypeAlias = Literal["last", "best"]

# In a run's folder: what it derived from its data, and its weights.
DERIVED, _CHECKPOINTS = "data.json", "checkpoints"


class Policy:
    """Acts in B rows at once; each row keeps its context from trial to trial.

    ```
    policy = ring_rl.load("runs/dark-room")
    policy.reset(rows=4, trials=8, steps=20)
    actions = policy.act(observations)
    policy.observe(rewards, terminated, truncated)
    ```

    In a Gymnasium vector environment with `AutoresetMode.DISABLED`, a row that has
    ended is reset by `reset(options={"reset_mask": terminated | truncated})` before the
    next `act`. With the default, `AutoresetMode.NEXT_STEP`, the step after an end
    ignores the action and resets: leave such rows out of that turn,
    `act(observations, ~over)` with `over` what ended in the step before.

    Attributes:
      spaces: what it sees and does; observations are flat float32 `[B O]`, actions
        int32 `[B]` or float32 `[B A]`.
      target_return: what every trial is told to reach, as in the run's evaluation.
      temperature: of the sampled actions, likewise.
    """

    def __init__(
        self,
        agent: Any,
        model: Any,
        spaces: Spaces,
        *,
        target_return: float,
        temperature: float,
    ):
        """Of a trained model; `ring_rl.load` makes one from a run folder."""
        self._agent, self._model = agent, model
        self.spaces = spaces
        self.target_return, self.temperature = target_return, temperature
        self._actor: Actor | None = None

    def reset(
        self,
        rows: int,
        *,
        trials: int,
        steps: int,
        target_return: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        demonstrations: Sequence[Chain] | None = None,
    ) -> None:
        """Begins new contexts.

        Args:
          rows: B, environments that are stepped together.
          trials: episodes that each will play before the next reset.
          steps: environment steps of an episode at most.
          target_return: the run's own if None.
          temperature: of the sampled actions, 0 takes the likeliest; that of the
            run's evaluation if None.
          seed: of the sampling.
          demonstrations: one chain a row that it reads first, as if it had acted them;
            they do not count as trials.

        Raises:
          ValueError: a chain is longer than a context.
        """
        target = self.target_return if target_return is None else target_return
        self._actor = Actor(
            self._agent,
            self._model,
            rows,
            trials=trials,
            steps=steps,
            target_return=target,
            temperature=self.temperature if temperature is None else temperature,
            seed=seed,
            demonstrations=demonstrations,
        )
        self._trials, self._steps = trials, steps
        self._played = np.zeros(rows, np.int64)
        self._length = np.zeros(rows, np.int64)
        self._acted = False
        self._active = np.zeros(rows, bool)

    def act(
        self,
        observations: Float[np.ndarray, "B O"],
        rows: Bool[np.ndarray, " B"] | None = None,
    ) -> Float[np.ndarray, "B A"] | Int[np.ndarray, " B"]:
        """Actions; rows that have played all their trials no longer act.

        Args:
          observations: of all rows.
          rows: those that act now; the others are left as they are: what they see, and
            what `observe` is told of them, does not count. All if None.

        Raises:
          ValueError: before `reset`, twice without `observe` between, for observations
            of another shape, or where a context that may not forget is full.
        """
        expected = (len(self._played_rows()), self.spaces.observation)
        if observations.shape != expected:
            raise ValueError(
                f"act: expected observations of shape {expected}, found "
                f"{observations.shape}"
            )
        if self._acted:
            raise ValueError(
                "act: expected observe first, what came of the last actions"
            )
        self._acted = True
        self._active = self._played < self._trials
        if rows is not None:
            self._active &= rows
        assert self._actor is not None
        return self._actor.act(observations.astype(np.float32), self._active)

    def observe(
        self,
        rewards: Float[np.ndarray, " B"],
        terminated: Bool[np.ndarray, " B"],
        truncated: Bool[np.ndarray, " B"],
    ) -> None:
        """What came of the last actions; a row that ended begins its next trial.

        Raises:
          ValueError: before `act`, or where an episode is longer than was said.
        """
        self._played_rows()
        live = self._active
        if not self._acted:
            raise ValueError("observe: expected act first, found nothing acted upon")
        ended = (terminated | truncated) & live
        length = np.where(live, self._length + 1, self._length)
        if (length[live & ~ended] >= self._steps).any():
            raise ValueError(
                f"observe: expected episodes of at most {self._steps} steps, as reset "
                "was told, found a longer one"
            )
        assert self._actor is not None
        self._actor.observe(rewards, ended)
        self._acted = False
        self._length = np.where(ended, 0, length)
        self._played = self._played + ended

    def _played_rows(self) -> np.ndarray:
        if self._actor is None:
            raise ValueError("policy: expected a call of reset first")
        return self._played


def load_policy(run: str | Path, checkpoint: int | Which = "last") -> Policy:
    """The policy of a run folder that `ring-rl train` wrote.

    Args:
      run: the folder.
      checkpoint: as of `load_model`.

    Raises:
      ValueError: there is no trained run in it, or no such checkpoint.
    """
    config, derived, model = load_model(Path(run), checkpoint)
    return Policy(
        config.agent,
        model,
        derived.spaces,
        target_return=derived.target_return,
        temperature=config.evaluation.temperature,
    )


def load_model(
    run: Path, checkpoint: int | Which = "last"
) -> tuple[RunConfig, Derived, Any]:
    """A trained run's configuration, what it derived from its data, and its model.

    Args:
      run: the folder.
      checkpoint: `last`, that of the run's end; `best`, by `loop.best_metric`; or that
        after so many updates, of those that were kept.

    Raises:
      ValueError: there is no run in the folder, one that is not trained to its end
        where its last checkpoint is asked for, or no such checkpoint.
    """
    from flax import nnx

    from ring_rl.train.optimiser import make_optimiser
    from ring_rl.train.step import initial_state

    config = load_config(run)
    derived = read_derived(run / DERIVED)
    try:
        rules = ShardingRules(make_mesh(config.mesh))
    except ValueError:
        # Other devices than it was trained on: all that there are.
        rules = ShardingRules(make_mesh(MeshConfig()))
    model = config.agent.build(derived.spaces, derived.scaling, rules, seed=config.seed)
    optimiser = make_optimiser(config.optimiser, config.loop.steps)
    average = config.optimiser.average > 0
    like = initial_state(model, optimiser, rules, seed=config.seed, average=average)
    checkpoints = Checkpoints(
        run / _CHECKPOINTS, retention=config.loop.retention, create=False
    )
    try:
        step = checkpoints.best if checkpoint == "best" else checkpoint
        if step is None:
            raise ValueError(
                f"{run}: has no best checkpoint; it was trained with "
                f"loop.best_metric={config.loop.best_metric!r}"
            )
        if step == "last" and checkpoints.latest != config.loop.steps:
            raise ValueError(
                f"{run}: is not trained to its end, {checkpoints.latest or 0} of "
                f"{config.loop.steps} updates; the command that began it goes on"
            )
        step = config.loop.steps if step == "last" else step
        nnx.update(model, checkpoints.restore(like, step).evaluated)
    finally:
        checkpoints.close()
    return config, derived, model


def trained_digest(run: Path, config: RunConfig) -> str:
    """Names what was trained: SHA-256 of configuration, numbers and weights.

    Of the bytes in `config.json`, `data.json` and the last checkpoint, about a second
    for a gigabyte; nothing is restored, and a file that is missing counts as none.
    """
    last = run / _CHECKPOINTS / str(config.loop.steps)
    files = [run / "config.json", run / DERIVED, *sorted(last.rglob("*"))]
    found = hashlib.sha256()
    for path in filter(Path.is_file, files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f"{path.relative_to(run).as_posix()} {content}\n".encode())
    return found.hexdigest()


def check_spaces(spaces: Spaces, config: RunConfig) -> None:
    """Raises ValueError where the data's spaces are not the environment's."""
    environment = config.environment.make(1, seed=0)
    environment.close()
    if environment.spaces != spaces:
        raise ValueError(
            f"the dataset does not fit {config.environment.id}: expected "
            f"{environment.spaces}, found {spaces}"
        )
