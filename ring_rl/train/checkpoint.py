"""Checkpoints of the training state: atomic, written while training goes on."""

from pathlib import Path
from typing import Any

import jax

from ring_rl.train.step import TrainState


class Checkpoints:
    """The checkpoints of a run, by step; a half-written one is never seen.

    Raises:
      ValueError: `restore` finds none, or one of another shape.
    """

    def __init__(self, directory: Path, *, keep: int = 2, create: bool = True):
        """Opens or, if `create`, makes the folder; the last `keep` are kept.

        Raises:
          ValueError: there is no folder and none is to be made.
        """
        import orbax.checkpoint as ocp

        if not create and not directory.is_dir():
            raise ValueError(f"{directory}: expected checkpoints, found no folder")
        self.directory = directory
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=create),
        )

    @property
    def latest(self) -> int | None:
        """Updates done at the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Begins to write; the state may be used up as soon as this returns."""
        self._manager.save(step, args=self._ocp.args.StandardSave(_plain(state)))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, placed on devices as `like` is."""
        if self.latest is None:
            raise ValueError(f"{self.directory}: no complete checkpoint found")
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            _plain(like),
        )
        try:
            plain = self._manager.restore(
                self.latest, args=self._ocp.args.StandardRestore(target)
            )
        except (ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{self.directory}: checkpoint {self.latest} does not fit the "
                f"configuration beside it: {first}"
            ) from error
        paths = jax.tree_util.tree_leaves_with_path(like)
        leaves = [plain[_name(path)] for path, _ in paths]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as one flat dictionary, whatever classes it is made of."""
    return {
        _name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
