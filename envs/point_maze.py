"""Mazes of gymnasium-robotics, an extra: a point that is to reach a goal it is shown.

`PointMaze_UMaze-v3` and its kin register with Gymnasium when that package is imported,
which happens here when the first of them is made. Their observations are a Dict, flat:
achieved goal, desired goal, position and velocity.
"""

import importlib

import gymnasium


def register_point_maze(env_id: str) -> None:
    """Sees that a maze is known; nothing for other environments.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """
    if (
        not env_id.startswith(("PointMaze_", "AntMaze_"))
        or env_id in gymnasium.registry
    ):
        return
    try:
        robotics = importlib.import_module("gymnasium_robotics")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{env_id}: expected the package gymnasium-robotics, found none; "
            "pip install 'ring_rl[maze]'"
        ) from error
    gymnasium.register_envs(robotics)
