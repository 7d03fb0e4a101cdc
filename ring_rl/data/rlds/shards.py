"""Episodes into record files, by one process or several: the files are the same."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from ring_rl.data.checks import check_episode
from ring_rl.data.rlds.records import encode_episode
from ring_rl.data.workers import make_executor
from ring_rl.types import Episode, Spaces

# A record file is closed once the arrays in it are this large. Not larger: what there
# is to share among processes is whole files.
_SHARD_BYTES = 32 << 20
_AHEAD = 2  # files that each other process has, begun or waiting
# One record a group, else random access reads the whole group for one. Floats hardly
# compress: with the default, zstd, Hopper's files were 6 % smaller, and took four times
# as long to read and to write.
_WRITER_OPTIONS = "group_size:1,snappy"


@dataclasses.dataclass(frozen=True)
class Written:
    """A record file, and what is in it.

    Attributes:
      path: of the file.
      size: bytes of all records.
      lengths: steps of each episode.
      returns: undiscounted return of each episode, summed in float64.
    """

    path: Path
    size: int
    lengths: list[int]
    returns: list[float]


def write_shards(
    episodes: Iterable[Episode], spaces: Spaces, directory: Path, *, processes: int
) -> list[Written]:
    """Checks episodes and writes them in their order to files part-0, part-1, ...

    Alone, this process has one episode in memory. Beside others it hands them the
    episodes of whole files, and writes a file itself while they all have enough to do.

    Raises:
      ValueError: an episode breaks its contract, or `processes` is below 1.
    """
    if processes < 1:
        raise ValueError(f"processes: expected at least 1, found {processes}")
    others = processes - 1
    written: list[Written | Future[Written]] = []
    first = None
    with make_executor(max(1, others), apart=others > 0) as executor:
        try:
            for number, group in itertools.groupby(_placed(episodes), lambda x: x[0]):
                placed = iter(group)
                _, index, episode = next(placed)
                first = first or episode
                shard = itertools.chain([episode], (item[2] for item in placed))
                path = directory / f"part-{number}"
                if _unfinished(written) >= _AHEAD * others:
                    written.append(_write_shard(path, shard, spaces, index, first))
                else:
                    arguments = path, list(shard), spaces, index, first
                    written.append(executor.submit(_write_shard, *arguments))
            return [_result(file) for file in written]
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _unfinished(written: list[Written | Future[Written]]) -> int:
    """How many files others still write; raises what one of them raised."""
    pending = 0
    for place, file in enumerate(written):
        if isinstance(file, Future):
            if file.done():
                written[place] = file.result()
            else:
                pending += 1
    return pending


def _result(file: Written | Future[Written]) -> Written:
    return file.result() if isinstance(file, Future) else file


def _placed(episodes: Iterable[Episode]) -> Iterator[tuple[int, int, Episode]]:
    """Episodes with the numbers of their record file and their own."""
    shard = size = 0
    for index, episode in enumerate(episodes):
        if size >= _SHARD_BYTES:
            shard, size = shard + 1, 0
        arrays = (episode.observations, episode.actions, *episode.extras.values())
        size += sum(values.nbytes for values in arrays)
        yield shard, index, episode


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What the writer raises where there is no room is a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path}: expected room to write to, found {error}") from error


def _write_shard(
    path: Path, episodes: Iterable[Episode], spaces: Spaces, index: int, like: Episode
) -> Written:
    """Writes one record file; `index` is the first episode's."""
    from array_record.python.array_record_module import ArrayRecordWriter

    size = 0
    lengths: list[int] = []
    returns: list[float] = []
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for number, episode in enumerate(episodes, start=index):
            check_episode(episode, spaces, number, like=like)
            record = encode_episode(episode)
            with _one_line(path):
                writer.write(record)
            size += len(record)
            lengths.append(len(episode.rewards))
            returns.append(float(episode.rewards.sum(dtype=np.float64)))
    finally:
        with _one_line(path):
            writer.close()
    return Written(path, size, lengths, returns)
