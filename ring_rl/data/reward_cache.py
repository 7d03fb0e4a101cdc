"""Computed rewards in files, by a hash of what they were computed from."""

import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32


@dataclasses.dataclass(frozen=True)
class RewardCache:
    """Rewards in files, by a hash of what they were computed from.

    A file that is not whole (a power cut, a full disk) counts as missing.

    Attributes:
      directory: made when the first entry is written.
    """

    directory: Path

    def read(self, key: str, steps: int) -> Float32[np.ndarray, " steps"] | None:
        """The rewards of an entry, or None where there is no sound one."""
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, values = content[:32], content[32:]
        if len(values) != 4 * steps or hashlib.sha256(values).digest() != digest:
            return None
        return np.frombuffer(values, "<f4").astype(np.float32)

    def write(self, key: str, rewards: Float32[np.ndarray, " steps"]) -> None:
        """Writes an entry; others see all of it or nothing."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rewards.astype("<f4").tobytes()
        handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(values).digest() + values)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key


def cache_key(identity: str, inputs: tuple[np.ndarray, ...]) -> str:
    """A hash of all that rewards are computed from."""
    digest = hashlib.sha256(identity.encode())
    for values in inputs:
        digest.update(f"|{values.dtype.str}{list(values.shape)}|".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
