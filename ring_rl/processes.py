"""Several processes as one run: how they find each other, agree, and end together.

Each process runs the same command. `join` puts them on JAX's distributed runtime; from
then on their devices are one mesh, and every process makes the same calls in the same
order. Where there is only one process all functions here return at once.
"""

import itertools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from ring_rl import watching
from ring_rl.watching import Watch

# Seconds that processes wait for each other at the start.
_PATIENCE = 300
# Waiting ends with the watch, not with a clock.
_WITHOUT_END = 30 * 24 * 3600 * 1000
Cluster: TypeAlias = Literal["auto", "slurm", "ompi", "mpi4py"]

_turns = itertools.count()


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    cluster: Cluster | None = None,
) -> None:
    """Makes this process one of several; call it before anything uses a JAX device.

    Args:
      coordinator: `HOST:PORT` of process 0, as all of them reach it.
      count: how many processes there are.
      index: which of them this is, from 0.
      cluster: where the three are found instead: by JAX's detection in general, or of
        one kind of cluster.

    Raises:
      ValueError: something is missing or makes no sense.
      OSError: the others were not there in time.
    """
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

    # JAX's own answer to SIGTERM would be in the way of ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    found = None if cluster in (None, "auto") else cluster
    absent = f"several processes: they were not all there within {_PATIENCE} s"
    watching.when_aborted(absent)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method="deactivate" if cluster is None else found,
            initialization_timeout=_PATIENCE,
        )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"--cluster {cluster}: this process was not started by such a cluster, as "
            f"JAX knows it ({error}); give --coordinator, --num-processes and "
            "--process-id"
        ) from error
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        what = absent if "DEADLINE" in first else "several processes"
        raise OSError(f"{what} ({first})") from error
    finally:
        watching.when_aborted(None)
    if jax.process_count() > 1:
        _keep_output()
        watching.current = Watch(jax.process_index(), jax.process_count())
        watching.current.start()


def _keep_output() -> None:
    """Leaves the standard output to Python: Gloo tells there what it connects to."""
    old = sys.stdout
    old.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(
        own, "w", buffering=1, encoding=old.encoding, errors=old.errors
    )


def several() -> bool:
    """Whether this process is one of several."""
    return watching.current is not None


def leads() -> bool:
    """Whether this process is the one that writes what is written once."""
    return watching.current is None or watching.current.index == 0


def meet() -> None:
    """Waits until all processes are here, for as long as they all live."""
    if watching.current is not None:
        name = f"ring_rl/meet/{next(_turns)}"
        watching.current.client.wait_at_barrier(name, _WITHOUT_END)


def one_after_another(work: Callable[[], Any]) -> Any:
    """What `work` returns, done by the first process before all others do it.

    For what makes a file where there is none, and else reads it.
    """
    if not several():
        return work()
    if leads():
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
    if not several():
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
    watch = watching.current
    if watch is None:
        return
    prefix, client = f"ring_rl/agree/{next(_turns)}", watch.client
    for number, value in enumerate(facts.values()):
        client.key_value_set(f"{prefix}/{watch.index}/{number}", value)
    meet()
    for number, name in enumerate(facts):
        values = [
            client.blocking_key_value_get(f"{prefix}/{index}/{number}", _WITHOUT_END)
            for index in range(watch.count)
        ]
        for index, value in enumerate(values):
            if value != values[0]:
                first, other = _difference(values[0], value)
                raise ValueError(
                    f"several processes: expected the same {name} in all, found "
                    f"{first} in process 0 and {other} in process {index}"
                )


def exchange(own: np.ndarray) -> np.ndarray:
    """`[processes ...]`: what each of them brings, arrays of one shape and type."""
    if not several():
        return np.asarray(own)[None]
    from jax.experimental import multihost_utils

    # As bytes: numbers of 64 bits would else be rounded to 32.
    plain = np.ascontiguousarray(own).reshape(-1).view(np.uint8)
    found = np.asarray(multihost_utils.process_allgather(plain))
    return found.reshape(-1).view(own.dtype).reshape(-1, *own.shape)


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
        """Asks, and answers what was asked `delay` calls ago; see `now`."""
        if not several():
            return self._wanted()
        import jax
        import jax.numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        if self._any is None:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self._spread = NamedSharding(mesh, PartitionSpec("all"))
            whole = NamedSharding(mesh, PartitionSpec())
            self._any = jax.jit(jnp.any, out_shardings=whole)
        own = np.array([self._wanted()])
        asked = jax.make_array_from_callback(
            (jax.device_count(),), self._spread, lambda _: own
        )
        self._asked.append(self._any(asked))
        if len(self._asked) <= self._delay:
            return False
        return bool(self._asked.pop(0))

    def now(self) -> bool:
        """Waits for what all want now."""
        return bool(exchange(np.array(self._wanted())).any())


def _difference(one: str, other: str, before: int = 30, after: int = 40) -> list[str]:
    """Both texts from a little before to a little after where they begin to differ."""
    first = len(os.path.commonprefix([one, other]))
    begin = max(0, first - before)
    dots = "..." if begin else ""
    return [
        f"{dots}{text[begin : first + after]}{'...' * (len(text) > first + after)}"
        for text in (one, other)
    ]
