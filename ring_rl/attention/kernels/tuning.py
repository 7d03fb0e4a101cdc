"""How the kernels for GPUs are cut and launched: shipped, or measured on this machine.

`ring-rl bench tune` times the candidates and keeps the fastest on disk, by kind of
device, kernel and class of shapes; a class without an entry takes what is shipped. The
length of a tile changes results by the order in which they are rounded, nothing else.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from ring_rl.attention.tiles import Blocks
from ring_rl.runtime import user_cache

# Of GPUs for which kernels are compiled.
LEAST_CAPABILITY = 8.0


def compute_capability() -> float:
    """Of this process's NVIDIA GPUs; 0 where the devices are others."""
    try:
        # Other makers' have words for it.
        return float(getattr(jax.devices()[0], "compute_capability", 0))
    except ValueError:
        return 0.0


class Launch(NamedTuple):
    """How one kernel is cut.

    Attributes:
      q: queries of a tile.
      k: keys of a tile.
      stages: tiles of the other side that are on their way, or held, at once.
      groups: of threads in a program: warps with `triton`; with `hopper` warpgroups
        that compute, each with a tile of its own.
    """

    q: int
    k: int
    stages: int
    groups: int


class Launches(NamedTuple):
    """Of forward, and of backward's two passes, over queries and over keys."""

    forward: Launch
    queries: Launch
    keys: Launch


class ShapeClass(NamedTuple):
    """What the best launches depend on.

    Attributes:
      kernel: its name in `KERNELS`.
      bits: of a number of the inputs, 16 or 32.
      width: of a head, rounded up to a power of two.
    """

    kernel: str
    bits: int
    width: int

    def __str__(self) -> str:
        """The class in the file of measured launches."""
        return f"{self.kernel}, {self.bits} bits, width {self.width}"


def shape_class(kernel: str, q: Float[Array, "B T N H"]) -> ShapeClass:
    """The class of such queries."""
    width = max(32, pl.next_power_of_2(q.shape[3]))
    return ShapeClass(kernel, q.dtype.itemsize * 8, width)


# Measured on an H100 with 32,768 tokens (see RESULTS.md), but for `triton` with 32 bits
# and with widths below 128, which are chosen to fit registers and shared memory.
_SHIPPED = {
    ShapeClass("hopper", 16, 128): Launches(
        Launch(64, 128, 2, 2), Launch(64, 128, 2, 2), Launch(64, 64, 2, 2)
    ),
    ShapeClass("hopper", 16, 64): Launches(
        Launch(64, 256, 2, 2), Launch(64, 128, 2, 2), Launch(128, 64, 2, 2)
    ),
    ShapeClass("triton", 16, 128): Launches(
        Launch(128, 64, 3, 8), Launch(128, 64, 2, 8), Launch(64, 64, 2, 4)
    ),
    ShapeClass("triton", 16, 64): Launches(
        Launch(128, 64, 3, 8), Launch(128, 64, 2, 8), Launch(64, 64, 2, 4)
    ),
    ShapeClass("triton", 16, 32): Launches(
        Launch(128, 64, 3, 4), Launch(128, 64, 2, 4), Launch(64, 64, 2, 4)
    ),
    ShapeClass("triton", 32, 128): Launches(
        Launch(32, 32, 2, 4), Launch(32, 32, 2, 4), Launch(32, 32, 2, 4)
    ),
    ShapeClass("triton", 32, 64): Launches(
        Launch(64, 32, 2, 4), Launch(32, 32, 2, 4), Launch(32, 32, 2, 4)
    ),
    ShapeClass("triton", 32, 32): Launches(
        Launch(64, 64, 2, 4), Launch(64, 32, 2, 4), Launch(32, 64, 2, 4)
    ),
}


def candidates(shapes: ShapeClass) -> list[Launch]:
    """What is worth timing; some do not fit the device and do not compile."""
    if shapes.kernel == "hopper":
        cuts = [(64, 64), (64, 128), (128, 64), (64, 256), (128, 128)]
        groups = [2]
    else:
        cuts = [(32, 32), (64, 32), (32, 64), (64, 64)]
        if shapes.bits == 16:
            cuts += [(128, 32), (128, 64), (64, 128), (128, 128)]
        groups = [4, 8]
    return [
        Launch(q, k, stages, group)
        for q, k in cuts
        for stages in (2, 3)
        for group in groups
    ]


_TRIED: dict[ShapeClass, Launches] = {}


@contextlib.contextmanager
def trying(shapes: ShapeClass, launches: Launches) -> Iterator[None]:
    """What is traced within takes these launches for this class."""
    _TRIED[shapes] = launches
    try:
        yield
    finally:
        del _TRIED[shapes]


def choose_launches(kernel: str, q: Float[Array, "B T N H"]) -> Launches:
    """Measured on this machine's kind of device, or shipped."""
    shapes = shape_class(kernel, q)
    if shapes in _TRIED:
        return _TRIED[shapes]
    try:
        measured = _measured(tuning_file())
    except (OSError, RuntimeError):
        # There is no home, or nothing may be read there.
        measured = {}
    kind = jax.devices()[0].device_kind
    return measured.get((kind, str(shapes)), _SHIPPED[shapes])


def cut_for_triton(
    launch: Launch,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    blocks: Blocks,
) -> Launch:
    """With tiles as asked for, or no longer than the arrays.

    Sides of a product must be powers of two, at least 16.
    """

    def cut(asked: int | None, chosen: int, length: int) -> int:
        return max(
            16, pl.next_power_of_2(min(asked or chosen, pl.next_power_of_2(length)))
        )

    return launch._replace(
        q=cut(blocks.q, launch.q, q.shape[1]), k=cut(blocks.k, launch.k, k.shape[1])
    )


def tuning_file() -> Path:
    """Where measured launches are kept; it may be removed at any time."""
    return user_cache() / "ring_rl" / "launches.json"


def keep_launches(shapes: ShapeClass, launches: Launches) -> Path:
    """Adds to the file, or replaces in it, what was measured on this kind of device.

    Raises:
      ValueError: the file is there and is not one of launches.
      OSError: it cannot be written; the one before stays.
    """
    file, kind = tuning_file(), jax.devices()[0].device_kind
    known = _read(file)
    known.setdefault(kind, {})[str(shapes)] = [list(x) for x in launches]
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, written = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with open(handle, "w") as stream:
            json.dump(known, stream, indent=1)
        os.replace(written, file)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(written)
        raise
    _measured.cache_clear()
    return file


@functools.cache
def _measured(file: Path) -> dict[tuple[str, str], Launches]:
    return {
        (kind, shapes): Launches(*(Launch(*x) for x in launches))
        for kind, entries in _read(file).items()
        for shapes, launches in entries.items()
    }


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What is there: by kind of device and class, lists in place of launches."""
    found: Any = None
    try:
        found = json.loads(file.read_text())
        classes = {str(shapes): shapes for shapes in _SHIPPED}
        fits = all(
            _are_launches(classes.get(name), launches)
            for entries in found.values()
            for name, launches in entries.items()
        )
    except FileNotFoundError:
        return {}
    except (AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        fits = False
    if not fits:
        raise ValueError(
            f"{file}: expected launches as `ring-rl bench tune` writes them, found "
            "something else; remove the file"
        )
    return found


def _are_launches(shapes: ShapeClass | None, found: Any) -> bool:
    """Whether they are of those that this class may have."""
    if shapes is None or not isinstance(found, list):
        return False
    # As text: 64.0 and True are no lengths.
    known = {str(list(x)) for x in (*_SHIPPED[shapes], *candidates(shapes))}
    return len(found) == len(Launches._fields) and {str(x) for x in found} <= known


class DecodeLaunch(NamedTuple):
    """How the kernel for decoding is cut.

    Attributes:
      queries: of a tile.
      places: of the cache in a tile.
      splits: programs that share out a row's places.
      stages: tiles that are on their way at once.
      warps: of a program.
    """

    queries: int
    places: int
    splits: int
    stages: int
    warps: int


# Programs that keep a GPU with some hundred multiprocessors busy to the end.
_DECODE_PROGRAMS = 1024


def choose_decode_launch(q: Float[Array, "B K M H"], places: int) -> DecodeLaunch:
    """By arithmetic, not by measuring: a tile of keys is 16 KiB, at least 32 places."""
    queries = min(64, max(16, pl.next_power_of_2(q.shape[2])))
    width = max(32, pl.next_power_of_2(q.shape[3]))
    tile = max(32, min(128, 2**14 // (width * q.dtype.itemsize)))
    programs = q.shape[0] * q.shape[1] * pl.cdiv(q.shape[2], queries)
    splits = min(pl.cdiv(_DECODE_PROGRAMS, programs), pl.cdiv(places, tile))
    return DecodeLaunch(queries, tile, splits, stages=3, warps=4)
