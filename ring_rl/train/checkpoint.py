"""Checkpoints of the training state: atomic, written while training goes on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from ring_rl.train.step import TrainState


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints stay.

    Attributes:
      last: how many of the newest.
      metric: name of a metric by whose best value one more is kept; empty for none.
      best: which value of it is best.
    """

    last: int = 2
    metric: str = ""
    best: Literal["lowest", "highest"] = "lowest"


@dataclasses.dataclass(frozen=True)
class Notes:
    """What is kept with a state so that `metrics.jsonl` goes on as if never stopped.

    Attributes:
      pending: metrics of each update after the last line, in their order.
      line: metrics of the last line; empty before there is one.
    """

    pending: Sequence[dict[str, float]] = ()
    line: dict[str, float] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoints of a run, by step; a half-written one is never seen.

    Raises:
      ValueError: `restore` finds none, or one of another shape.
    """

    def __init__(
        self,
        directory: Path,
        *,
        retention: Retention = Retention(),
        create: bool = True,
    ):
        """Opens or, if `create`, makes the folder.

        Raises:
          ValueError: there is no folder and none is to be made.
        """
        import orbax.checkpoint as ocp

        if not create and not directory.is_dir():
            raise ValueError(f"{directory}: expected checkpoints, found no folder")
        self.directory, self._metric = directory, retention.metric
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            directory.resolve(), options=_options(ocp, retention, create)
        )

    @property
    def latest(self) -> int | None:
        """Updates done at the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Updates done at the best checkpoint by the metric that they are kept by.

        None where there is no such metric, or none has been measured.
        """
        known = [step for step in self._manager.all_steps() if self._measured(step)]
        return self._manager.best_step() if self._metric and known else None

    def save(self, step: int, state: TrainState, notes: Notes = Notes()) -> None:
        """Begins to write; the state may be used up as soon as this returns."""
        measured = notes.line.get(self._metric)
        self._manager.save(
            step,
            args=self._ocp.args.StandardSave(_plain(state)),
            metrics=None if measured is None else {self._metric: measured},
            custom_metadata=dataclasses.asdict(notes),
        )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state of a step, or the newest, placed on devices as `like` is."""
        step = self.latest if step is None else step
        if step is None or step not in self._manager.all_steps():
            what = (
                "no complete checkpoint" if step is None else f"none of update {step}"
            )
            raise ValueError(f"{self.directory}: expected a checkpoint, found {what}")
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            _plain(like),
        )
        try:
            plain = self._manager.restore(
                step, args=self._ocp.args.StandardRestore(target)
            )
        except (ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{self.directory}: checkpoint {step} does not fit the "
                f"configuration beside it: {first}"
            ) from error
        paths = jax.tree_util.tree_leaves_with_path(like)
        leaves = [plain[_name(path)] for path, _ in paths]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def notes(self) -> Notes:
        """What was noted with the newest; older versions noted nothing."""
        if self.latest is None:
            return Notes()
        return Notes(**(self._manager.metadata(self.latest).custom_metadata or {}))

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _measured(self, step: int) -> bool:
        return self._manager.metrics(step) is not None


def _options(ocp: Any, retention: Retention, create: bool) -> Any:
    """Orbax's own options for the retention."""
    if not retention.metric:
        return ocp.CheckpointManagerOptions(max_to_keep=retention.last, create=create)

    def measured(metrics: dict[str, float]) -> float:
        return metrics[retention.metric]

    lowest = retention.best == "lowest"
    policies = ocp.checkpoint_managers
    return ocp.CheckpointManagerOptions(
        create=create,
        best_fn=measured,
        best_mode="min" if lowest else "max",
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(retention.last),
                policies.BestN(
                    get_metric_fn=measured,
                    reverse=lowest,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        ),
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as one flat dictionary, whatever classes it is made of."""
    return {
        _name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
