"""What the process needs to be told before JAX and MuJoCo start.

These are defaults for the command line. A library must not change its host's settings,
so nothing here runs on import, and whatever the user has set stands.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

CPU_DEVICES = 4
COLLECTIVE_TIMEOUT_SECONDS = 600

# JAX's own names in the environment.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_CACHE_FROM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

_TIMEOUT_FLAG = "--xla_cpu_collective_call_terminate_timeout_seconds"


def prepare(
    devices: int | None = None, *, collective_timeout: int = COLLECTIVE_TIMEOUT_SECONDS
) -> None:
    """Sets defaults; call it before anything uses a JAX device or imports MuJoCo.

    - `MUJOCO_GL=disabled`: unset, a renderer may be started, and can abort the process.
    - XLA on the CPU aborts the process when a collective waits about a minute for a
      late peer; long contexts on virtual devices need `collective_timeout` seconds.
    - The CPU backend shows `CPU_DEVICES` devices, so that meshes of up to that size
      work on a laptop. `JAX_NUM_CPU_DEVICES` in the environment says otherwise. The
      devices of other backends are not touched.
    - Its thread pool gets a thread for each of them besides one for each core. Matrix
      products leave notes there for threads to help with them, and where every thread
      runs a device of its own nobody throws the notes away: 8 MB a second in a step of
      512,000 tokens on 8 devices.

    Args:
      devices: of the CPU, at least; None for the default.
      collective_timeout: in seconds.
    """
    os.environ.setdefault("MUJOCO_GL", "disabled")
    flags = os.environ.get("XLA_FLAGS", "")
    if _TIMEOUT_FLAG not in flags:
        flag = f"{_TIMEOUT_FLAG}={collective_timeout}"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    if "xla_force_host_platform_device_count" in flags:
        return
    import jax

    # From JAX_NUM_CPU_DEVICES, where that is set.
    count = getattr(jax.config, "jax_num_cpu_devices", -1)
    if count < 1:
        count = CPU_DEVICES if devices is None else 1
    count = max(count, devices or 1)
    if count > 1:
        os.environ.setdefault("PJRT_NPROC", str(count + (os.cpu_count() or 1)))
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        # Devices are in use already, as in a notebook: their number stands.
        pass


def keep_compilations() -> None:
    """Keeps what XLA compiles on disk, so that the next process finds it there.

    In `compilations/` of the user's cache folder (`~/.cache/ring_rl`, or where
    `XDG_CACHE_HOME`, macOS or Windows have it), from where it may be removed at any
    time; a folder for each kind of processor, since programs for one need not run on
    another and home folders are shared. What is compiled, and so what it computes, is
    the same with and without.

    `JAX_COMPILATION_CACHE_DIR` in the environment names another folder, or none if it
    is empty, and `JAX_ENABLE_COMPILATION_CACHE=false` switches it off. A program is
    kept however fast it was compiled, unless
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` says otherwise.
    """
    import jax

    if _CACHE_FROM not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if _CACHE in os.environ or getattr(jax.config, _CACHE.lower(), None) is not None:
        return
    try:
        folder = user_cache() / "ring_rl" / "compilations" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        # There is no home, or nothing may be written there.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def user_cache() -> Path:
    """Where programs of this user keep what they can make again."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if given:
        return Path(given)
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"])
    apple = sys.platform == "darwin"
    return Path.home() / ("Library/Caches" if apple else ".cache")


def _processor() -> str:
    """Names the kind of processor, with what of instructions it has."""
    about = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "Features", "CPU part")
    # The same for all cores; the order of these lines is the kernel's.
    about += sorted({line for line in lines if line.startswith(names)})
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"
