"""Devices as a mesh, and which logical axis of an array lies on which of its axes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA, SEQUENCE = "data", "sequence"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh has.

    Attributes:
      data: copies of the model that share out the rows of a batch.
      sequence: devices of the ring, which share out the tokens of each row; 0 takes
        all devices that `data` leaves.
    """

    data: int = 1
    sequence: int = 0


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a configuration, outermost axis first.

    Raises:
      ValueError: a negative size, or more devices asked for than there are.
    """
    devices = jax.devices() if devices is None else devices
    if config.data < 1 or config.sequence < 0:
        raise ValueError(
            "mesh: data must be at least 1 and sequence at least 0, found "
            f"data={config.data}, sequence={config.sequence}"
        )
    sequence = config.sequence or max(1, len(devices) // config.data)
    wanted = config.data * sequence
    if wanted > len(devices):
        raise ValueError(
            f"mesh: data={config.data} x sequence={sequence} needs {wanted} devices, "
            f"found {len(devices)} ({devices[0].platform}); on a CPU the environment "
            "variable JAX_NUM_CPU_DEVICES sets their number"
        )
    shape = (config.data, sequence)
    return Mesh(
        np.array(devices[:wanted]).reshape(shape),
        (DATA, SEQUENCE),
        axis_types=(AxisType.Auto,) * 2,
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
    def tokens(self) -> PartitionSpec:
        """Of arrays `[B T ...]`: rows over `data`, tokens over `sequence`."""
        return PartitionSpec(DATA, SEQUENCE)

    @property
    def replicated(self) -> PartitionSpec:
        """Of parameters and of everything small."""
        return PartitionSpec()

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """The spec on this mesh."""
        return NamedSharding(self.mesh, spec)

    def constrain_tokens(self, x: jax.Array) -> jax.Array:
        """Tells the compiler that `[B T ...]` stays sharded as tokens are."""
        return jax.lax.with_sharding_constraint(x, self.sharding(self.tokens))
