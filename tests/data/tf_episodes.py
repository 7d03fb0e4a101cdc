"""What the checks with TensorFlow make their datasets of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.data.rlds import write_rlds
from ring_rl.types import Continuous, Episode, Spaces

SPACES = Spaces(3, Continuous((-2.0, -0.1), (0.1, 1.0)))


def episode(steps: int, index: int = 0, **fields: Any) -> Episode:
    """An episode of random numbers."""
    random = np.random.default_rng([steps, index])
    made = Episode(
        observations=random.normal(size=(steps, 3)).astype(np.float32),
        actions=random.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=random.normal(size=steps).astype(np.float32),
        discounts=random.uniform(size=steps).astype(np.float32),
        final_observation=random.normal(size=3).astype(np.float32),
        has_final_observation=True,
        terminated=bool(index % 2),
        truncated=not index % 2,
        task="reach",
        episode_id=index,
        extras={"infos/qpos": random.normal(size=(steps, 4))},
    )
    return made._replace(**fields)


def written(folder: Path, episodes: list[Episode], spaces: Spaces = SPACES) -> Path:
    write_rlds(episodes, spaces, folder / "ours", name="Reach", source="a test")
    return folder / "ours"


@contextmanager
def raises(words: str) -> Iterator[None]:
    """The block raises a ValueError of one line with these words."""
    try:
        yield
    except ValueError as error:
        assert words in str(error) and "\n" not in str(error), error
        return
    raise AssertionError(f"expected a ValueError with {words!r}, found none")


def map_steps(dataset: Any, function: Callable[[Any], Any]) -> Any:
    """The dataset with each episode's steps replaced."""
    return dataset.map(lambda whole: {**whole, "steps": function(whole["steps"])})
