"""The machine that is measured on: its devices, versions, load and memory."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from ring_rl import runtime
from ring_rl.version import __version__

# One update on the CPU's virtual devices may take an hour, and its first device waits
# for its last all that time.
COLLECTIVE_TIMEOUT_SECONDS = 6 * 3600


def prepare(devices: int) -> None:
    """Splits the CPU into at least `devices`, where nothing has used JAX yet.

    Other backends' devices are not touched. What is too few for a mesh is found when
    the mesh is made.
    """
    runtime.prepare(devices, collective_timeout=COLLECTIVE_TIMEOUT_SECONDS)


def describe() -> dict[str, Any]:
    """What a measurement was made on, and how busy it was."""
    import jax

    device = jax.devices()[0]
    return {
        "device_kind": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "ring_rl": __version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def free_bytes(devices: int) -> int | None:
    """Memory that a program may take on each of `devices`; None where nobody says."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        # Virtual devices share it.
        free = _kibibytes(Path("/proc/meminfo"), "MemAvailable")
        return None if free is None else free // devices
    limits = device.memory_stats() or {}
    if "bytes_limit" not in limits:
        return None
    return limits["bytes_limit"] - limits.get("bytes_in_use", 0)


def peak_device_bytes() -> int | None:
    """The most of a device's memory that was in use at once since the process began.

    None on a CPU.
    """
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def peak_resident_bytes() -> int:
    """The most memory that this process has held at once, compilation included."""
    found = memory_bytes("VmHWM")
    if found is not None:
        return found
    import resource

    # Bytes on macOS, where there is no /proc.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_bytes(name: str) -> int | None:
    """A figure of this process's memory by the kernel's name of it.

    `VmHWM` is the most that was resident, `VmRSS` what is now, `RssAnon` what of that
    is not pages of a file. None where there is no /proc.
    """
    return _kibibytes(Path("/proc/self/status"), name)


def _kibibytes(file: Path, name: str) -> int | None:
    """The value of a line such as `VmHWM:  1024 kB` in bytes."""
    if not file.exists():
        return None
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
