"""Reads hostile sources of one format in a process whose memory is bounded.

    python tests/data/hostile_worker.py FORMAT FOLDER MUTATIONS

Prints a JSON line before each case, its number and description, and one after it: what
came of it, `read` or `refused`, or what should not have. A process that dies leaves
the case that killed it as its last line.
"""

import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from hostile_arrays import changed
from hostile_bytes import mutations
from hostile_hdf5 import hdf5_tricks
from hostile_json import json_tricks
from hostile_sources import SOUND, Case, write, write_rlds
from hostile_zip import zip_tricks

from ring_rl.data.checks import check_episode
from ring_rl.data.importing import FORMATS, import_dataset

_MEMORY = 1 << 30  # bytes beyond what the process has when it starts to read
_SECONDS = 20  # after which a case counts as hanging, and ends the process
_EVERY = 8  # one case in so many is imported, not only read


def cases(format: str, folder: Path, count: int) -> Iterator[Case]:
    """All cases of a format, `count` mutations among them."""
    if format in SOUND:
        yield from changed(format, folder)
    if format in ("npz", "exorl"):
        yield from zip_tricks(format, folder)
    if format in ("d4rl", "hdf5", "minari"):
        yield from hdf5_tricks(format, folder)
    if format in ("minari", "rlds", "tfrecord"):
        yield from json_tricks(format, folder)
    yield from mutations(format, folder, count)


def main(format: str, folder: Path, count: int) -> None:
    os.chdir(folder)
    reader = "rlds" if format == "tfrecord" else format
    inside = folder / "source"
    warm_up(reader, format, inside)
    limit_memory()
    for number, (name, make) in enumerate(cases(format, inside, count)):
        for stale in inside.iterdir():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        print(json.dumps([number, name]), flush=True)
        source = make()
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        trouble = outcome(reader, source, folder, number % _EVERY == 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if (folder / "executed").exists() or (inside / "executed").exists():
            trouble = "content of the file was executed"
        print(json.dumps([number, trouble]), flush=True)


def outcome(reader: str, source: Path, folder: Path, whole: bool) -> str:
    """`read`, `refused`, or a description of what else happened."""
    target = folder / "imported"
    before = sorted(os.listdir(folder))
    try:
        if whole:
            import_dataset(source, reader, target)
            shutil.rmtree(target)
        else:
            spaces, episodes = FORMATS[reader].open(source)
            first, read = None, 0
            for index, episode in enumerate(episodes):
                check_episode(episode, spaces, index, like=first)
                first, read = first or episode, index + 1
            if not read:
                raise ValueError(f"{source}: expected episodes, found none")
    except ValueError as error:
        message = str(error)
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if sorted(os.listdir(folder)) != before:
            return f"left {sorted(os.listdir(folder))}"
        # An import says where it found what it does not write: in an episode.
        named = message.startswith((str(source), "episode ", "extras "))
        plain = "\n" not in message and len(message) < 2000
        if greedy(error):
            return f"asked for more memory than it may have: {message}"
        if named and plain and ("ring_rl" in raised_in or "hostile" in raised_in):
            return "refused"
        return f"unclear, from {raised_in}: {message}"
    except BaseException:
        return traceback.format_exc()
    return "read"


def greedy(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, memory that was asked for in vain.

    HDF5's own attempts do not count: it fills what it gets with what the file has.
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def warm_up(reader: str, format: str, inside: Path) -> None:
    """Reads and imports one sound source, so that all is imported, and checks it."""
    inside.mkdir()
    if format in ("rlds", "tfrecord"):
        source = write_rlds(inside, tfrecord=format == "tfrecord")
    else:
        source = write(format, inside, SOUND[format]())
    for whole in (False, True):
        found = outcome(reader, source, inside.parent, whole)
        assert found == "read", f"the sound source: {found}"


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3]))
