"""Sources with arrays that are not what they should be, or none."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hostile_sources import EPISODES, SOUND, STEPS, TIME, Case, write


def changed_arrays(name: str, values: np.ndarray) -> Iterator[tuple[str, object]]:
    """What may stand in the place of an array, and a word for it; None is nothing."""
    yield "missing", None
    for dtype in ("f2", ">f8", "i1", "u8", "?", "c8"):
        if values.dtype.kind != "S":
            with np.errstate(invalid="ignore"):
                yield dtype, values.astype(dtype)
    for dtype in ("S3", "U2"):
        yield dtype, np.full(values.shape, "x", dtype)
    yield "one row less", values[:-1]
    yield "one row more", np.concatenate([values, values[:1]])
    yield "no row", values[:0]
    yield "another axis", values[..., None, None]
    yield "one number", np.float32(1)
    yield "no width", np.zeros((len(values), 0), np.float32)
    yield "wider", np.stack([values] * 3, axis=-1)
    yield "reversed", values[::-1].copy()
    yield "fortran", np.asfortranarray(values)
    if values.dtype.kind in "fiu":
        for number in (np.nan, np.inf, -np.inf, 1e300, -1.0, 2.0**63, 0.5):
            odd = values.astype(np.float64)
            odd.reshape(-1)[odd.size // 2] = number
            yield f"{number}", odd
    if values.dtype.kind in "iu":
        for row in range(len(values)):
            for number in (-1, 0, STEPS, 2**31, 2**62):
                odd = values.copy()
                odd[row] = number
                yield f"{number} in row {row}", odd


def changed(format: str, folder: Path) -> Iterator[Case]:
    """Sources with one array changed, missing, or more than there should be."""
    sound = SOUND[format]()

    def made(arrays: dict[str, object]) -> Callable[[], Path]:
        return lambda: write(format, folder, arrays)

    for name, values in sound.items():
        if format == "minari" and not name.startswith("episode_1"):
            continue
        for word, other in changed_arrays(name, values):
            arrays = {k: v for k, v in (sound | {name: other}).items() if v is not None}
            yield f"{name}: {word}", made(arrays)
    more: dict[str, object] = {
        "further": np.zeros(3),
        "deep/further": np.zeros((STEPS, 2)),
        "lengths": np.full(EPISODES, TIME),
        "starts": np.arange(STEPS) == 0,
        "name with spaces": np.zeros(STEPS),
        "na\nme": np.zeros(STEPS),
        "metadata/\N{SNOWMAN}": np.zeros(2),
        "infos/steps": np.zeros(STEPS, "S4"),
    }
    for name, values in more.items():
        yield f"further {name!r}", made(sound | {name: values})
    yield "nothing", made({})
