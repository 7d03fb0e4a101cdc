"""Devices as a mesh, and which logical axis of an array lies on which of its axes.

From the outermost axis to the innermost, which gets the fastest links:

- `data`: copies of the model, each with its rows of a batch;
- `fsdp`: rows too, and parameters and the optimiser's state are shared out over it;
- `sequence`: the ring, which shares out the tokens of each row;
- `tensor`: heads of attention and the hidden width of the feed-forward.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ring_rl.processes import several

DATA, FSDP, SEQUENCE, TENSOR = "data", "fsdp", "sequence", "tensor"
# The axes that share out the rows of a batch.
ROWS = (DATA, FSDP)

# Logical axes of parameters, by the end of their names; others lie whole everywhere.
_PARAMETERS = {
    "queries.kernel": ("width", "heads"),
    "keys.kernel": ("width", "heads"),
    "values.kernel": ("width", "heads"),
    "output.kernel": ("heads", "width"),
    "feed_forward.1.kernel": ("width", "hidden"),
    "feed_forward.2.kernel": ("hidden", "width"),
    "logits.kernel": ("width", "outputs"),
    "embedding.observation.kernel": ("observation", "width"),
    "embedding.action.kernel": ("action", "width"),
    "embedding.time.kernel": ("time", "width"),
}
_AXES = {"width": FSDP, "heads": TENSOR, "hidden": TENSOR}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each axis of the mesh has.

    Attributes:
      data: copies of the model that share out the rows of a batch.
      fsdp: devices that share out rows, and parameters and the optimiser's state.
      sequence: devices of the ring, which share out the tokens of each row; 0 takes
        all devices that the others leave.
      tensor: devices that share out heads and the feed-forward's hidden width.
    """

    data: int = 1
    fsdp: int = 1
    sequence: int = 0
    tensor: int = 1

    @property
    def copies(self) -> int:
        """Parts that the rows of a batch are cut into."""
        return self.data * self.fsdp

    @property
    def devices(self) -> int:
        """That it needs at least."""
        return self.copies * max(1, self.sequence) * self.tensor


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a configuration, outermost axis first.

    Raises:
      ValueError: a negative size, or more devices asked for than there are; or, where
        they are of several processes, fewer.
    """
    devices = jax.devices() if devices is None else devices
    if min(config.data, config.fsdp, config.tensor) < 1 or config.sequence < 0:
        raise ValueError(
            "mesh: data, fsdp and tensor must be at least 1 and sequence at least 0, "
            f"found {_in_words(config)}"
        )
    if not config.sequence:
        config = dataclasses.replace(
            config, sequence=max(1, len(devices) // config.devices)
        )
    if config.devices > len(devices):
        raise ValueError(
            f"mesh: {_in_words(config)} needs {config.devices} devices, found "
            f"{len(devices)} ({devices[0].platform}); on a CPU the environment "
            "variable JAX_NUM_CPU_DEVICES sets their number"
        )
    if several() and config.devices != len(devices):
        raise ValueError(
            f"mesh: {_in_words(config)} needs {config.devices} devices, found "
            f"{len(devices)} in all processes, which all have to be part of it; "
            "mesh.sequence 0 takes all that the other axes leave"
        )
    shape = (config.data, config.fsdp, config.sequence, config.tensor)
    return Mesh(
        np.array(devices[: config.devices]).reshape(shape),
        (DATA, FSDP, SEQUENCE, TENSOR),
        axis_types=(AxisType.Auto,) * 4,
    )


def _in_words(config: MeshConfig) -> str:
    sizes = dataclasses.asdict(config)
    # Axes of size 1 say nothing, but for those that there always were.
    told = (DATA, SEQUENCE)
    return " x ".join(
        f"{name}={size}" for name, size in sizes.items() if size != 1 or name in told
    )


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Where arrays lie: the one place that maps logical axes to mesh axes."""

    mesh: Mesh

    @property
    def ring(self) -> int:
        """R, the number of devices that share out the sequence."""
        return self.mesh.shape[SEQUENCE]

    @property
    def copies(self) -> int:
        """Parts that the rows of a batch are cut into."""
        return math.prod(self.mesh.shape[axis] for axis in ROWS)

    @property
    def tokens(self) -> PartitionSpec:
        """Of arrays `[B T ...]`: rows over `data` and `fsdp`, tokens over the ring."""
        return PartitionSpec(ROWS, SEQUENCE)

    @property
    def replicated(self) -> PartitionSpec:
        """Of everything small."""
        return PartitionSpec()

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """The spec on this mesh."""
        return NamedSharding(self.mesh, spec)

    def constrain_tokens(self, x: jax.Array) -> jax.Array:
        """Tells the compiler that `[B T ...]` stays sharded as tokens are."""
        return jax.lax.with_sharding_constraint(x, self.sharding(self.tokens))

    def specs(self, tree: Any, *, within: str = "", gathered: bool = False) -> Any:
        """The spec of every array of parameters, or of what is kept for each of them.

        An axis that its mesh axis does not divide lies whole.

        Args:
          tree: parameters or a state of the optimiser: names are looked at.
          within: name of the module that the tree is of, where its parameters' own
            names do not say it.
          gathered: as they are used: shared out over `tensor`, not over `fsdp`.
        """

        def spec(path: Any, leaf: Any) -> PartitionSpec:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            for end, axes in _PARAMETERS.items():
                # Wrappers may add words at the end.
                found = f".{end}." in f".{within}.{name}."
                if found and len(leaf.shape) == len(axes):
                    return self._spec(axes, leaf.shape, gathered)
            return PartitionSpec()

        return jax.tree_util.tree_map_with_path(spec, tree)

    def _spec(
        self, axes: tuple[str, ...], shape: tuple[int, ...], gathered: bool
    ) -> PartitionSpec:
        found = []
        for logical, size in zip(axes, shape, strict=True):
            axis = _AXES.get(logical)
            whole = axis is None or size % self.mesh.shape[axis]
            found.append(None if whole or (gathered and axis == FSDP) else axis)
        return PartitionSpec(*found)

    def shardings(self, tree: Any) -> Any:
        """Of every array of a training state, where it is kept."""
        return jax.tree.map(
            self.sharding,
            self.specs(tree),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )

    def gather(self, parameters: Any) -> Any:
        """Parameters as they are used: whole but for what `tensor` shares out."""
        specs = self.specs(parameters, gathered=True)
        return jax.tree.map(
            lambda x, spec: jax.lax.with_sharding_constraint(x, self.sharding(spec)),
            parameters,
            specs,
        )
