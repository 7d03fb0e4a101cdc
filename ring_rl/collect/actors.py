"""A trained actor from an .npz file, as a behaviour.

The file is a multilayer perceptron of two hidden layers, as soft actor-critics have:
`a = tanh(mu(relu(l2(relu(l0 s)))))`, with `latent_pi.0`, `latent_pi.2` and `mu`, each a
`.weight` `[out in]` and a `.bias` `[out]`. The actions in [-1, 1] are brought to the
environment's bounds. `log_std`, of mu's shapes, is needed to sample only.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ring_rl.data.formats.archives import Archive, open_npz
from ring_rl.types import Continuous, Spaces

# Soft actor-critics clip the logarithm of the deviation to these.
_LOG_STD = -20.0, 2.0
_LAYERS = ("latent_pi.0", "latent_pi.2", "mu")
_LARGEST_FILE = 1 << 28  # bytes


class Layer(NamedTuple):
    """`x @ weight + bias`: weight `[in out]`, bias `[out]`, float32."""

    weight: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ActorBehaviour:
    """Acts by a trained actor.

    Attributes:
      name: of the file it is from, and its hash.
      hidden: the two hidden layers.
      mean: the last one, of the action before its tanh.
      log_std: the layer of its deviation, to sample; None takes the likeliest action.
      low: of each action.
      high: of each action.
    """

    name: str
    hidden: tuple[Layer, Layer]
    mean: Layer
    log_std: Layer | None
    low: Float32[np.ndarray, " A"]
    high: Float32[np.ndarray, " A"]

    def __repr__(self) -> str:
        """The file and what is done with it."""
        return f"{self.name}, {'sampled' if self.log_std else 'deterministic'}"

    def begin(self, task: str, generator: np.random.Generator) -> np.random.Generator:
        """The state of an episode is its generator."""
        return generator

    def act(
        self,
        observations: Float32[np.ndarray, "B O"],
        states: Sequence[np.random.Generator],
    ) -> Float32[np.ndarray, "B A"]:
        """Actions within the bounds, one a row."""
        x = observations
        for layer in self.hidden:
            x = np.maximum(x @ layer.weight + layer.bias, 0)
        action = x @ self.mean.weight + self.mean.bias
        if self.log_std is not None:
            spread = np.clip(x @ self.log_std.weight + self.log_std.bias, *_LOG_STD)
            draws = [state.standard_normal(action.shape[1]) for state in states]
            action = action + np.exp(spread) * np.array(draws, np.float32)
        unit = (np.tanh(action) + 1) / 2
        return (self.low + unit * (self.high - self.low)).astype(np.float32)


def read_actor(path: Path, spaces: Spaces, *, sample: bool = False) -> ActorBehaviour:
    """Reads an actor for an environment of these spaces; arrays it does not know pass.

    Nothing in the file is unpickled.

    Args:
      path: the .npz file.
      spaces: of the environment that it is to act in.
      sample: draw actions rather than take the likeliest ones.

    Raises:
      ValueError: one line that starts with the path: an array is missing, of another
        type or shape than the layers before it and the spaces ask for, or not finite.
    """
    path = Path(path)
    action = spaces.action
    if not isinstance(action, Continuous):
        raise ValueError(
            f"{path}: expected an environment of continuous actions for an actor, "
            f"found {action.size} discrete ones"
        )
    with open_npz(path) as archive:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(
                f"{path}: expected {_LARGEST_FILE} bytes at most, found "
                f"{path.stat().st_size}"
            )
        first = _layer(archive, _LAYERS[0], spaces.observation, None)
        second = _layer(archive, _LAYERS[1], len(first.bias), None)
        mean = _layer(archive, _LAYERS[2], len(second.bias), action.size)
        spread = None
        if sample:
            spread = _layer(archive, "log_std", len(second.bias), action.size)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ActorBehaviour(
        f"{path.name} sha256 {digest}",
        (first, second),
        mean,
        spread,
        np.array(action.low, np.float32),
        np.array(action.high, np.float32),
    )


def _layer(archive: Archive, name: str, inputs: int, outputs: int | None) -> Layer:
    """A layer, checked; `outputs` None leaves its width to the file."""
    weight = _numbers(archive, f"{name}.weight")
    bias = _numbers(archive, f"{name}.bias")
    width = "any" if outputs is None else str(outputs)
    if weight.ndim != 2 or weight.shape[1] != inputs or not weight.size:
        raise archive.mismatch(
            f"{name}.weight", f"[{width} {inputs}] numbers", list(weight.shape)
        )
    if outputs is not None and len(weight) != outputs:
        raise archive.mismatch(
            f"{name}.weight", f"[{width} {inputs}] numbers", list(weight.shape)
        )
    if bias.shape != (len(weight),):
        raise archive.mismatch(
            f"{name}.bias", f"[{len(weight)}] numbers", list(bias.shape)
        )
    return Layer(np.ascontiguousarray(weight.T), bias)


def _numbers(archive: Archive, name: str) -> np.ndarray:
    """An array of the archive as float32, all of it finite."""
    header = archive.headers.get(name)
    if header is not None and header.dtype.kind != "f":
        raise archive.mismatch(name, "floating-point numbers", header)
    with np.errstate(over="ignore"):  # too large for float32: not finite, and so found
        values = archive.read(name).astype(np.float32)
    if not np.isfinite(values).all():
        raise archive.mismatch(name, "finite float32 numbers", "others")
    return values
