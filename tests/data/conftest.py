"""Episodes and D4RL files made on the spot, in their real schemas."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ring_rl.types import Continuous, Discrete, Episode, Spaces


@pytest.fixture(scope="session")
def spaces() -> Spaces:
    return Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    """An episode of random numbers; any field can be given instead."""

    def make(
        steps: int, *, seed: int = 0, spaces: Spaces | None = None, **fields
    ) -> Episode:
        random = np.random.default_rng([seed, steps])
        action = spaces.action if spaces else Continuous((-1.0,) * 2, (1.0,) * 2)
        width = spaces.observation if spaces else 3
        episode = Episode(
            observations=random.normal(size=(steps, width)).astype(np.float32),
            actions=(
                random.integers(action.size, size=steps, dtype=np.int32)
                if isinstance(action, Discrete)
                else random.uniform(-1, 1, (steps, action.size)).astype(np.float32)
            ),
            rewards=random.normal(size=steps).astype(np.float32),
            discounts=np.ones(steps, np.float32),
            final_observation=random.normal(size=width).astype(np.float32),
            has_final_observation=True,
            terminated=bool(seed % 2),
            truncated=not seed % 2,
            task="reach",
            episode_id=seed,
            extras={"infos/qpos": random.normal(size=(steps, 4))},
        )
        return episode._replace(**fields)

    return make


@pytest.fixture
def d4rl_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an HDF5 file in D4RL's schema; None leaves an array out.

    Flags are given as the rows that have them, or as the array itself.
    """

    def write(
        steps: int = 12,
        *,
        terminals: tuple[int, ...] | np.ndarray = (3,),
        timeouts: tuple[int, ...] | np.ndarray | None = (8,),
        name: str = "hopper-medium-v2.hdf5",
        **replaced: np.ndarray | None,
    ) -> Path:
        random = np.random.default_rng(steps)

        def flags(rows: tuple[int, ...] | np.ndarray | None) -> np.ndarray | None:
            return np.isin(np.arange(steps), rows) if isinstance(rows, tuple) else rows

        arrays: dict[str, np.ndarray | None] = {
            "observations": random.normal(size=(steps, 3)).astype(np.float32),
            "next_observations": random.normal(size=(steps, 3)).astype(np.float32),
            "actions": random.uniform(-1, 1, (steps, 2)).astype(np.float32),
            "rewards": random.normal(size=steps).astype(np.float32),
            "infos/qpos": random.normal(size=(steps, 4)),
            "infos/action_log_probs": random.normal(size=steps),
            "metadata/algorithm": np.bytes_(b"SAC"),
            "terminals": flags(terminals),
            "timeouts": flags(timeouts),
            **replaced,
        }
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, values in arrays.items():
                if values is not None:
                    compressed = {} if values.ndim == 0 else {"compression": "gzip"}
                    file.create_dataset(key, data=values, **compressed)
        return path

    return write


@pytest.fixture(scope="session")
def assert_same_episode() -> Callable[[Episode, Episode], None]:
    """Every field equal, bit for bit and type for type."""

    def check(left: Episode, right: Episode) -> None:
        arrays = ("observations", "actions", "rewards", "discounts")
        for name in (*arrays, "final_observation"):
            np.testing.assert_array_equal(
                getattr(left, name), getattr(right, name), name, strict=True
            )
        for name in ("has_final_observation", "terminated", "truncated", "task"):
            assert getattr(left, name) == getattr(right, name), name
        assert left.episode_id == right.episode_id
        assert left.extras.keys() == right.extras.keys()
        for name, values in left.extras.items():
            np.testing.assert_array_equal(values, right.extras[name], name, strict=True)

    return check
