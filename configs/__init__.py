"""Presets, as values, and what runs them."""

from ring_rl.configs import dark_room, exorl, gym_mujoco, point_mass
from ring_rl.configs.run import RunConfig as RunConfig

_PRESETS = {
    **dark_room.PRESETS,
    **point_mass.PRESETS,
    **exorl.PRESETS,
    **gym_mujoco.PRESETS,
}


def presets() -> dict[str, RunConfig]:
    """The preset configurations by name."""
    return {name: config for name, (config, _) in _PRESETS.items()}


def describe() -> dict[str, str]:
    """One line about each preset."""
    return {name: what for name, (_, what) in _PRESETS.items()}
