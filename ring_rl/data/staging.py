"""All or nothing on disk: a directory appears complete, or not at all."""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged_directory(
    directory: Path, *, overwrite: bool, marker: str
) -> Iterator[Path]:
    """Yields an empty directory that becomes `directory` if the block succeeds.

    It lies beside `directory`, so that the last step is one rename. If the block fails
    (also by Ctrl-C or SIGTERM) it is removed, with the parents made for it. What a
    SIGKILL or a power cut leaves behind is removed by the next call for the same
    `directory`.

    Args:
      directory: where the result is to stand.
      overwrite: replace what stands there, provided that it holds a file `marker`:
        a mistyped path must not cost someone their home directory.
      marker: name of a file that only a directory of this kind has.

    Raises:
      ValueError: if something stands at `directory` that is not to be replaced, was
        put there meanwhile, or nothing can be written there.
    """
    directory = Path(os.path.abspath(directory))
    prefix = f".{directory.name}.partial-"
    _remove_abandoned(directory, prefix)
    occupied = os.path.lexists(directory) and not (
        directory.is_dir() and not any(directory.iterdir())
    )
    if occupied and not overwrite:
        raise ValueError(
            f"{directory}: expected a new directory, found an existing one; choose "
            "another, or ask to overwrite it"
        )
    if occupied and not (directory / marker).is_file():
        raise ValueError(
            f"{directory}: expected a dataset to overwrite, found no {marker} in it; "
            "nothing was touched"
        )
    missing = [parent for parent in directory.parents if not parent.exists()]
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
    except OSError as error:
        raise ValueError(
            f"{directory}: expected a place to write to, found {error.filename}: "
            f"{error.strerror}"
        ) from error
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # says that the owner is alive
        with _terminate_as_exception():
            content = staging / "new"
            content.mkdir()
            yield content
            old = staging / "old"
            try:
                if occupied:
                    os.replace(directory, old)
                os.replace(content, directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise ValueError(
                    f"{directory}: expected it free at the end as at the start, found "
                    "that another process put something there meanwhile"
                ) from error
            finally:
                if old.exists() and not directory.exists():
                    os.replace(old, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # someone else's files are in it now
                parent.rmdir()
        raise
    finally:
        os.close(lock)
    shutil.rmtree(staging)


def _remove_abandoned(directory: Path, prefix: str) -> None:
    """Removes staging directories whose owner died without a chance to clean up.

    One that died between the two renames holds the only copy of what was to be
    replaced: that goes back to `directory` first.
    """
    for entry in directory.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):  # its owner lives, or it is not ours
            lock = os.open(entry, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                old = entry / "old"
                if old.exists() and not os.path.lexists(directory):
                    os.replace(old, directory)
                shutil.rmtree(entry)
            finally:
                os.close(lock)


@contextlib.contextmanager
def _terminate_as_exception() -> Iterator[None]:
    """Lets SIGTERM (a scheduler's farewell) unwind the stack as Ctrl-C does."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
