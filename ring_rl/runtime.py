"""What the process needs to be told before JAX and MuJoCo start.

These are defaults for the command line. A library must not change its host's settings,
so nothing here runs on import, and whatever the user has set stands.
"""

import os

CPU_DEVICES = 4
COLLECTIVE_TIMEOUT_SECONDS = 600

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
