"""Several processes as one run: how they find each other, agree, and end together.

Each process runs the same command. `join` puts them on JAX's distributed runtime; from
then on their devices are one mesh, and every process makes the same calls in the same
order. Where there is only one process all functions here return at once.

XLA waits without end for a process that was killed or stopped in the middle of a
collective, and then ends with a stack trace. So a thread of each process tells the
others that it is there, and ends its own, in one line, when another is not.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np

# Seconds of silence after which a process counts as lost.
LOST_AFTER = 40.0
# Seconds between two signs of life.
_BEAT = 1.0
# How long the coordinator stays after an error, for the others to hear of it.
_FAREWELL = 4.0
# Waiting is for the thread above to end, not for a clock.
_WITHOUT_END = 30 * 24 * 3600 * 1000

# What goes between processes, in the errors of it.
_BETWEEN = ("Gloo", "NCCL", "coordination")

_ALIVE = "ring_rl/alive/"
_DONE, _ENDED = "done", "ended: "
_GOES_ON = "the same commands go on from the last checkpoint"

Cluster: TypeAlias = Literal["auto", "slurm", "ompi", "mpi4py", "k8s"]

_watch: "_Watch | None" = None
_turns = itertools.count()


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    cluster: Cluster | None = None,
    patience: int = 300,
) -> None:
    """Makes this process one of several; call it before anything uses a JAX device.

    Args:
      coordinator: `HOST:PORT` of process 0, as all of them reach it.
      count: how many processes there are.
      index: which of them this is, from 0.
      cluster: where the three are found instead: by JAX's detection in general, or of
        one kind of cluster.
      patience: seconds that processes wait for each other at the start.

    Raises:
      ValueError: something is missing or makes no sense.
      OSError: the others were not there in time.
    """
    global _watch
    given = {
        "--coordinator": coordinator,
        "--num-processes": count,
        "--process-id": index,
    }
    missing = [name for name, value in given.items() if value is None]
    if cluster is None:
        if missing:
            raise ValueError(
                f"several processes: expected {', '.join(given)}, or --cluster to find "
                f"them; missing {', '.join(missing)}"
            )
        assert coordinator is not None and count is not None and index is not None
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(
                f"--coordinator: expected HOST:PORT, found {coordinator!r}"
            )
        if not 0 <= index < count:
            raise ValueError(
                f"--process-id: expected 0 to {count - 1} of {count} processes, found "
                f"{index}"
            )
    elif len(missing) < len(given):
        raise ValueError("--cluster: expected instead of --coordinator, found both")
    import jax

    _keep_output()
    # JAX's own answer to SIGTERM would be in the way of ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    found = None if cluster in (None, "auto") else cluster
    absent = f"several processes: they were not all there within {patience} s"
    _when_aborted(absent)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method="deactivate" if cluster is None else found,
            initialization_timeout=patience,
        )
    except ValueError as error:
        raise ValueError(
            f"--cluster {cluster}: this is none that JAX knows ({error}); give "
            "--coordinator, --num-processes and --process-id"
        ) from error
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise OSError(f"{absent} ({first})") from error
    if jax.process_count() > 1:
        _watch = _Watch(jax.process_index(), jax.process_count())
        _watch.start()


def _keep_output() -> None:
    """Leaves the standard output to Python: Gloo tells there what it connects to."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", buffering=1)


def several() -> bool:
    """Whether this process is one of several."""
    return _watch is not None


def leads() -> bool:
    """Whether this process is the one that writes what is written once."""
    return _watch is None or _watch.index == 0


def meet() -> None:
    """Waits until all processes are here, for as long as they all live."""
    if _watch is not None:
        name = f"ring_rl/meet/{next(_turns)}"
        _watch.client.wait_at_barrier(name, _WITHOUT_END)


def one_after_another(work: Callable[[], Any]) -> Any:
    """What `work` returns, done by the first process before all others do it.

    For what makes a file where there is none, and else reads it.
    """
    if _watch is None:
        return work()
    if _watch.index == 0:
        result = work()
        meet()
        return result
    meet()
    return work()


def compiled(function: Any, *arguments: Any) -> Any:
    """A jitted function, compiled for these arguments by all processes before one goes.

    From the first call that sends something, the others have 30 seconds to come to it;
    compiling takes as long as it takes.
    """
    if _watch is None:
        return function
    ready = function.lower(*arguments).compile()
    meet()
    return ready


def agree(facts: Mapping[str, str]) -> None:
    """Finds that the processes are of one mind.

    Args:
      facts: what has to be the same for all, by its name in a message.

    Raises:
      ValueError: this process or another differs from the first.
    """
    if _watch is None:
        return
    prefix, client = f"ring_rl/agree/{next(_turns)}", _watch.client
    for number, value in enumerate(facts.values()):
        client.key_value_set(f"{prefix}/{_watch.index}/{number}", value)
    meet()
    for number, name in enumerate(facts):
        values = [
            client.blocking_key_value_get(f"{prefix}/{index}/{number}", _WITHOUT_END)
            for index in range(_watch.count)
        ]
        for index, value in enumerate(values):
            if value != values[0]:
                raise ValueError(
                    f"several processes: expected the same {name} in all, found "
                    f"{_shortened(values[0])} in process 0 and {_shortened(value)} in "
                    f"process {index}"
                )


def exchange(own: np.ndarray) -> np.ndarray:
    """`[processes ...]`: what each of them brings, arrays of one shape and type."""
    from jax.experimental import multihost_utils

    plain = np.ascontiguousarray(own)
    # As bytes: numbers of 64 bits would else be rounded to 32.
    found = multihost_utils.process_allgather(plain.reshape(-1).view(np.uint8))
    count = 1 if _watch is None else _watch.count
    return np.asarray(found).reshape(-1).view(plain.dtype).reshape(count, *plain.shape)


class Agreed:
    """Whether any process wants something, told to all of them in the same call.

    All call it equally often. What is wanted travels as part of the devices' work, so
    that no process waits for another: the answer is `delay` calls old.
    """

    def __init__(self, wanted: Callable[[], bool], *, delay: int = 2):
        """`wanted` says what this process wants."""
        self._wanted, self._delay = wanted, delay
        self._asked: list[Any] = []
        self._any: Any = None

    def __call__(self) -> bool:
        """Asks, and answers what was asked `delay` calls ago."""
        if _watch is None:
            return self._wanted()
        import jax
        import jax.numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(jax.devices()), ("all",))
        spread = NamedSharding(mesh, PartitionSpec("all"))
        if self._any is None:
            whole = NamedSharding(mesh, PartitionSpec())
            self._any = jax.jit(jnp.any, out_shardings=whole)
        own = np.array([self._wanted()])
        asked = jax.make_array_from_callback((mesh.size,), spread, lambda _: own)
        self._asked.append(self._any(asked))
        if len(self._asked) <= self._delay:
            return False
        return bool(self._asked.pop(0))


def leave(code: int, error: BaseException | None = None) -> int:
    """Ends this process's part; returns the exit code, or does not return.

    Where it failed the others are told and end too, and so does this one, at once: it
    would else wait for them as it ends.

    Args:
      code: the exit code.
      error: why it is not 0.
    """
    if _watch is None:
        return code
    if code == 0:
        _watch.say(_DONE)
        return code
    _watch.say(_ENDED + (" ".join(str(error).split()) or f"exit code {code}"))
    # With the coordinator goes the others' way of hearing of it.
    time.sleep(_FAREWELL if _watch.index == 0 else 0)
    _exit(code)


def find_fault(error: Exception) -> None:
    """Does not return from an error that another process is the reason of.

    One that was killed closes its connections, so that a collective fails here before
    that process is missed. When it is, this one ends in a line that names it.
    """
    text = str(error)
    if _watch is not None and any(name in text for name in _BETWEEN):
        time.sleep(LOST_AFTER + 10 * _BEAT)


class _Watch:
    """Tells the other processes that this one lives, and ends it when another does not.

    Attributes:
      index, count: which process this is, and of how many.
      client: of JAX's coordination service, which has no public name.
    """

    def __init__(self, index: int, count: int):
        from jax._src import distributed

        self.index, self.count = index, count
        self.client: Any = distributed.global_state.client
        self._said = ""
        self._answered = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def start(self) -> None:
        """Starts the threads, which end with the process."""
        name = self.name(self.index)
        _when_aborted(f"{name}: its runtime ended it, see above; {_GOES_ON}")
        for work in (self._listen, self._mind):
            threading.Thread(target=work, daemon=True).start()
        # Before JAX's own, which waits for the others.
        atexit.register(self._over.set)

    def name(self, index: int) -> str:
        """A process in words."""
        return f"process {index} of {self.count}"

    def say(self, last: str) -> None:
        """The last that the others hear, unless nobody answers in a few seconds."""
        self._said = last

        def tell() -> None:
            with contextlib.suppress(Exception):
                self._tell(last)

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join(_FAREWELL)

    def _tell(self, what: str) -> None:
        # A sign of life must not come after what was said last.
        with self._lock:
            self.client.key_value_set(
                f"{_ALIVE}{self.index}", self._said or what, allow_overwrite=True
            )

    def _listen(self) -> None:
        """Signs of life, ours and theirs; the service may never answer."""
        began = time.monotonic()
        heard = dict.fromkeys(range(self.count), ("", began))
        for beat in itertools.count():
            try:
                self._tell(str(beat))
                found = dict(self.client.key_value_dir_get(_ALIVE))
            except Exception:  # whatever it is, `_mind` finds that there is no answer
                time.sleep(_BEAT)
                continue
            now = time.monotonic()
            self._answered = now
            for index in range(self.count):
                said = found.get(f"{_ALIVE}{index}", "")
                if said != heard[index][0] or said == _DONE:
                    heard[index] = (said, now)
                if index == self.index:
                    continue
                if said.startswith(_ENDED):
                    self._end(f"{self.name(index)} {said}")
                if now - heard[index][1] > LOST_AFTER:
                    self._end(_lost(self.name(index)))
            time.sleep(_BEAT)

    def _mind(self) -> None:
        """Minds the coordination service, which is in process 0."""
        while not self._over.wait(_BEAT):
            if time.monotonic() - self._answered > LOST_AFTER:
                self._end(_lost(self.name(0)))

    def _end(self, why: str) -> None:
        if not self._said and not self._over.is_set():
            _say(f"{self.name(self.index)} ends: {why}")
            _exit(1)


def _lost(name: str) -> str:
    return f"{name} has not been heard of for {LOST_AFTER:.0f} s; {_GOES_ON}"


def _say(why: str) -> None:
    print(f"ring-rl: error: {why}", file=sys.stderr, flush=True)


def _exit(code: int) -> NoReturn:
    """Ends without what else is done at the end, which waits for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _when_aborted(line: str) -> None:
    """Has XLA's way of ending a process end in a line, and not in a stack trace.

    It calls `abort` from a thread of its own; handlers of Python's own kind would only
    run after that.
    """

    def aborted(number: int) -> None:
        _say(line)
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    # What C may call must not be freed.
    _handlers.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


_handlers: list[Any] = []


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[:most] + "..."
