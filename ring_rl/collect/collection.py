"""A collection from its first episode to the dataset: in parts, by several processes.

Each part is a file of its own in a hidden folder beside the dataset-to-be, and depends
on its number alone (and, of what learns, on the parts before it): not on the number of
processes, and not on how often the collection was ended and begun again. When there are
enough, the dataset is made of them, and the folder goes.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.collect.collectors import Collector
from ring_rl.collect.parts import part_path, read_lengths, read_part, write_part
from ring_rl.collect.recorder import Recorded
from ring_rl.data.checks import check_episode
from ring_rl.data.formats.exorl_export import check_exorl, write_exorl
from ring_rl.data.inspect import inspect
from ring_rl.data.provenance import add_to_manifest, describe_in_manifest
from ring_rl.data.resets import write_resets
from ring_rl.data.rlds import DATASET_MARKER, write_rlds_files
from ring_rl.data.staging import staged_directory
from ring_rl.data.store import open_store
from ring_rl.data.workers import make_executor
from ring_rl.types import Episode
from ring_rl.version import __version__

_BEGUN, _STOP, _LOCK = "collection.json", "stop", "lock"
_LIBRARIES = ("dm-control", "gymnasium", "jax", "mujoco", "numpy")


def collect_dataset(
    collector: Collector,
    out: Path,
    *,
    steps: int | None,
    processes: int = 1,
    exorl: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Collects an RLDS dataset; returns `inspect`'s summary of it.

    What the physics was at the resets goes to a file beside the records. After any
    failure there is no dataset at `out` (or the old one); the parts that were complete
    stay in the folder `.NAME.collecting` beside it, and the same call goes on with
    them: the dataset is the same as if nothing had happened.

    Args:
      collector: who makes the episodes.
      out: folder of the dataset: a new one, an empty one, or, to overwrite, a
        dataset's.
      steps: environment steps to collect at least; the episode that reaches them is the
        last, and is whole. None for all of the collector's parts.
      processes: that make parts; 1 is this one (unless the collector is `apart`).
      exorl: also write ExoRL's files, to a folder `buffer` in `out`.
      overwrite: replace the dataset that stands at `out`.
      progress: called with the episodes and environment steps done so far.

    Raises:
      ValueError: `out` is taken, another collection to it was begun or is running, or
        the environment or the behaviour failed; OSError: there is no room. The message
        says what is kept.
      KeyboardInterrupt: likewise.
    """
    out = Path(os.path.abspath(out))
    if steps is not None and steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    if steps is None and collector.parts is None:
        raise ValueError("steps: expected a number, found none")
    if exorl:
        check_exorl(collector.spaces)
    _check_free(out, overwrite)
    folder = out.parent / f".{out.name}.collecting"
    with (
        _work(folder, collector, steps) as lengths,
        _saying_what_is_kept(folder, lengths),
    ):
        _make_parts(collector, folder, lengths, steps, processes, progress)
        with staged_directory(
            out, overwrite=overwrite, marker=DATASET_MARKER
        ) as staging:
            summary = _write_dataset(
                collector, folder, staging, steps, processes, out.name
            )
            if exorl:
                write_exorl(staging, staging / "buffer")
        shutil.rmtree(folder)
        return summary


def _full_description(collector: Collector) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        **collector.description,
        "versions": {"ring_rl": __version__, **versions},
    }


def _check_free(out: Path, overwrite: bool) -> None:
    """Finds out before hours of work what would be refused after them."""
    with contextlib.suppress(FileNotFoundError):
        if not any(out.iterdir()):
            return
        if not overwrite:
            raise ValueError(
                f"{out}: expected a new directory, found an existing one; choose "
                "another, or ask to overwrite it"
            )
        if not (out / DATASET_MARKER).is_file():
            raise ValueError(
                f"{out}: expected a dataset to overwrite, found no {DATASET_MARKER} in "
                "it; nothing was touched"
            )


@contextlib.contextmanager
def _work(
    folder: Path, collector: Collector, steps: int | None
) -> Iterator[dict[int, list[int]]]:
    """Opens the folder of the parts, for one collection at a time.

    Yields the lengths of the episodes of every part that is there.
    """
    description = _full_description(collector)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ValueError(
            f"{folder.parent}: expected a place to write to, found {error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{folder}: expected no other collection to the same folder, found "
                "that one is running"
            ) from error
        (folder / _STOP).unlink(missing_ok=True)
        for partial in folder.glob(".partial-*"):
            partial.unlink()
        parts = sorted(folder.glob("part-*.npz"))
        _check_same(folder, description, begun=bool(parts))
        found = {
            int(path.stem.removeprefix("part-")): read_lengths(path) for path in parts
        }
        # One that ended where it was enough may not be enough any more.
        yield {
            number: lengths
            for number, lengths in found.items()
            if sum(lengths) >= min(collector.least, _enough(collector, number, steps))
        }
    finally:
        os.close(lock)


def _check_same(folder: Path, description: dict[str, Any], *, begun: bool) -> None:
    """Holds a collection against the one whose parts are in the folder, if any."""
    path = folder / _BEGUN
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    if not begun:
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
        return
    wanted = json.loads(text)
    try:
        held = dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        held = {}
    for key in [*wanted, *(key for key in held if key not in wanted)]:
        if held.get(key) != wanted.get(key):
            raise ValueError(
                f"{folder}: expected what is asked for, found parts of another "
                f"collection: {key} {_short(held.get(key))} instead of "
                f"{_short(wanted.get(key))}; finish that one, or remove the folder"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 200 else f"{text[:197]}..."


@contextlib.contextmanager
def _saying_what_is_kept(folder: Path, lengths: dict[int, list[int]]) -> Iterator[None]:
    """Adds to an error which parts there are."""

    def kept() -> str:
        steps = sum(map(sum, lengths.values()))
        if not steps:
            shutil.rmtree(folder, ignore_errors=True)
            return "nothing was complete yet"
        episodes = sum(map(len, lengths.values()))
        return (
            f"{episodes} episodes ({steps} steps) are kept in {folder}; the same "
            "command goes on from there"
        )

    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(kept()) from error
    except OSError as error:
        text = error.strerror or str(error)
        raise OSError(f"{_named(text, error.filename)}; {kept()}") from error
    except ValueError as error:
        raise ValueError(f"{error}; {kept()}") from error


def _named(text: str, filename: Any) -> str:
    return f"{filename}: {text}" if filename else text


def _make_parts(
    collector: Collector,
    folder: Path,
    lengths: dict[int, list[int]],
    steps: int | None,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Makes the parts that are missing; `lengths` grows as they are there."""
    running: dict[Future, int] = {}
    with make_executor(processes, apart=collector.apart) as executor:
        try:
            while True:
                _tell(progress, lengths)
                _hand_out(
                    executor, collector, folder, lengths, running, steps, processes
                )
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    lengths[number] = future.result()
        except BaseException:
            # Others look for this between two episodes.
            with contextlib.suppress(OSError):
                (folder / _STOP).touch()
            executor.shutdown(cancel_futures=True)
            for future, number in running.items():
                with contextlib.suppress(BaseException):
                    lengths[number] = future.result(timeout=0)
            raise


def _hand_out(
    executor: Executor,
    collector: Collector,
    folder: Path,
    lengths: dict[int, list[int]],
    running: dict[Future, int],
    steps: int | None,
    processes: int,
) -> None:
    """Begins parts while there is a process for one, and not enough is on its way."""
    taken = set(running.values())
    number = before = 0  # steps of the parts before, which come first in the dataset
    while len(running) < processes:
        if collector.parts is not None and number >= collector.parts:
            return
        if steps is not None and before >= steps:
            return
        earlier = number - collector.after
        ready = not collector.after or earlier < 0 or earlier in lengths
        if ready and number not in lengths and number not in taken:
            enough = _enough(collector, number, steps)
            future = executor.submit(_work_on, collector, number, folder, enough)
            running[future] = number
        before += sum(lengths[number]) if number in lengths else collector.least
        number += 1


def _enough(collector: Collector, number: int, steps: int | None) -> float:
    """Steps after which no more of a part are needed, if it is not needed whole."""
    left = math.inf if steps is None else float(steps - number * collector.least)
    return left if left < collector.least else math.inf


def _work_on(
    collector: Collector, number: int, folder: Path, enough: float
) -> list[int]:
    """Makes a part, or as much of it as is enough; the lengths of its episodes."""
    recorded: list[Recorded] = []
    state: dict[str, np.ndarray] = {}
    done = 0
    with contextlib.closing(collector.part(number, folder)) as episodes:
        while done < enough:
            if (folder / _STOP).exists():
                raise ValueError(f"part {number}: expected to go on, was told to stop")
            try:
                recorded.append(next(episodes))
            except StopIteration as end:
                state = end.value
                break
            except OSError:
                raise
            except Exception as error:
                text = " ".join(str(error).split())
                if not isinstance(error, ValueError):
                    text = (
                        "expected the environment and the policy to go on, found "
                        f"{type(error).__name__}: {text}"
                    )
                raise ValueError(
                    f"part {number}, episode {len(recorded)}: {text}"
                ) from error
            episode = recorded[-1].episode
            try:
                check_episode(episode, collector.spaces, len(recorded) - 1)
            except ValueError as error:
                raise ValueError(f"part {number}, {error}") from error
            done += len(episode.rewards)
    write_part(part_path(folder, number), recorded, state)
    return [len(entry.episode.rewards) for entry in recorded]


def _tell(
    progress: Callable[[int, int], None] | None, lengths: dict[int, list[int]]
) -> None:
    if progress is not None:
        progress(sum(map(len, lengths.values())), sum(map(sum, lengths.values())))


def _write_dataset(
    collector: Collector,
    folder: Path,
    directory: Path,
    steps: int | None,
    processes: int,
    name: str,
) -> dict:
    """Makes the dataset of the parts that it needs; `inspect`'s summary of it."""
    about = collector.description
    resets: list[dict[str, np.ndarray]] = []

    def episodes() -> Iterator[Episode]:
        done = number = 0
        while done < steps if steps is not None else number != collector.parts:
            for recorded in read_part(part_path(folder, number)):
                episode = recorded.episode._replace(episode_id=len(resets))
                yield episode._replace(task=episode.task or about["task"])
                resets.append(recorded.reset)
                done += len(recorded.episode.rewards)
                if steps is not None and done >= steps:
                    return
            number += 1

    write_rlds_files(
        episodes(),
        collector.spaces,
        directory,
        name=name,
        source=f"{about['environment']}, {about['policy']}, seed {about['seed']}",
        reader="collect",
        processes=processes,
    )
    if resets[0]:
        add_to_manifest(directory, [write_resets(directory, resets)])
    describe_in_manifest(directory, "collection", _full_description(collector))
    return inspect(open_store(directory))
