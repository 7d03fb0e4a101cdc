"""What the process needs to be told before JAX and MuJoCo start.

These are defaults for the command line. A library must not change its host's settings,
so nothing here runs on import, and whatever the user has set stands.
"""

import os

CPU_DEVICES = 4
COLLECTIVE_TIMEOUT_SECONDS = 600

_TIMEOUT_FLAG = "--xla_cpu_collective_call_terminate_timeout_seconds"


def prepare() -> None:
    """Sets defaults; call it before anything uses a JAX device or imports MuJoCo.

    - `MUJOCO_GL=disabled`: unset, a renderer may be started, and can abort the process.
    - XLA on the CPU aborts the process when a collective waits about a minute for a
      late peer; long contexts on virtual devices need `COLLECTIVE_TIMEOUT_SECONDS`.
    - The CPU backend shows `CPU_DEVICES` devices, so that meshes of up to that size
      work on a laptop. `JAX_NUM_CPU_DEVICES` in the environment says otherwise. The
      devices of other backends are not touched.
    """
    os.environ.setdefault("MUJOCO_GL", "disabled")
    flags = os.environ.get("XLA_FLAGS", "")
    if _TIMEOUT_FLAG not in flags:
        flag = f"{_TIMEOUT_FLAG}={COLLECTIVE_TIMEOUT_SECONDS}"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    if (
        "JAX_NUM_CPU_DEVICES" in os.environ
        or "xla_force_host_platform_device_count" in flags
    ):
        return
    import jax

    if getattr(jax.config, "jax_num_cpu_devices", -1) > 0:
        return
    try:
        jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    except RuntimeError:
        # Devices are in use already, as in a notebook: their number stands.
        pass
