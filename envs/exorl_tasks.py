"""The environments behind ExoRL's tasks, made of what dm_control brings.

Importing this module imports dm_control. Where its suite lacks a task, the task is a
short subclass here; numbers that are ExoRL's own say so.

Source: Yarats et al. 2022, ExoRL, arXiv 2201.13425; Laskin et al. 2021, URLB, arXiv
2110.15191; Tassa et al. 2018, DeepMind Control Suite, arXiv 1801.00690.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from dm_control import composer, suite
from dm_control.manipulation import reach
from dm_control.manipulation.shared import (
    arenas,
    constants,
    observations,
    robots,
    workspaces,
)
from dm_control.rl import control
from dm_control.suite import cheetah, point_mass, walker
from dm_control.utils import rewards

CHEETAH_SPEED = 10.0  # metres/second; the suite's, for running forward
FLIP_MOMENTUM = 5.0  # kg m²/s of the torso about y; URLB's
WALKER_TIMESTEP = 0.025  # seconds of a step; the suite's
# Of the four corners: half of what the arena of the point mass is wide, and where the
# hand's targets lie on the table (metres; both ExoRL's).
MAZE_CORNER = 0.15
JACO_CORNER, JACO_HEIGHT = 0.09, 0.001
# Half lengths in x, y and z of the boxes that cross in the maze's middle; ExoRL's.
MAZE_WALLS = {"maze_x": (0.02, 0.18, 0.02), "maze_y": (0.18, 0.02, 0.02)}
# A point mass starts in the top left part: ranges of x and y; ExoRL's.
MAZE_START = ((-0.29, -0.15), (0.15, 0.29))
OPEN_START = ((0.0, 0.0), (0.0, 0.0))  # without walls: the middle
JACO_SECONDS = 10.0
_WALKER_SPEEDS = {"stand": 0, "walk": 1, "run": 8}  # metres/second; the suite's


def make_environment(
    domain: str,
    task: str,
    seed: int,
    *,
    step_seconds: float | None = None,
    walls: bool = True,
    goal_radius: float | None = None,
) -> Any:
    """The environment of a task, not yet reset; a `dm_env.Environment`.

    It has dm_control's `physics` and `task`.

    Args:
      domain: one of ExoRL's.
      task: of that domain.
      seed: of the starts of episodes.
      step_seconds: how long an action holds; the domain's own if None. Rewards are
        those of the state at its end. For walker, cheetah and point_mass_maze alone.
      walls: of point_mass_maze: without, the mass starts in the middle, at rest.
      goal_radius: of point_mass_maze, metres; ExoRL's, 0.015, if None.

    Raises:
      ValueError: an option is not one of this domain, or not above 0.
    """
    for name, value in (("step_seconds", step_seconds), ("goal_radius", goal_radius)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: expected a number above 0, found {value}")
    if domain == "point_mass_maze":
        target = _corner(task, MAZE_CORNER, 0.01)
        return _point_mass(target, seed, step_seconds, walls, goal_radius)
    if not walls or goal_radius is not None:
        raise ValueError(f"walls, goal_radius: expected none for {domain}")
    if domain == "walker":
        physics = walker.Physics.from_xml_string(*walker.get_model_and_assets())
        if task == "flip":
            body = WalkerFlip(seed)
        else:
            body = walker.PlanarWalker(_WALKER_SPEEDS[task], random=seed)
        return control.Environment(
            physics,
            body,
            control_timestep=step_seconds or WALKER_TIMESTEP,
            time_limit=25,
        )
    if domain == "cheetah":
        physics = cheetah.Physics.from_xml_string(*cheetah.get_model_and_assets())
        body = (cheetah.Cheetah if task == "run" else CheetahBackward)(random=seed)
        return control.Environment(
            physics, body, control_timestep=step_seconds, time_limit=10
        )
    if step_seconds is not None:
        raise ValueError(f"step_seconds: expected none for {domain}")
    if domain == "jaco":
        return _jaco(_corner(task, JACO_CORNER, JACO_HEIGHT), seed)
    return suite.load(domain, task, task_kwargs={"random": seed})


class CheetahBackward(cheetah.Cheetah):
    """The suite's run, the other way."""

    def get_reward(self, physics: Any) -> Any:
        """Grows linearly with the speed backward, up to 1."""
        return rewards.tolerance(
            -physics.speed(),
            bounds=(CHEETAH_SPEED, math.inf),
            margin=CHEETAH_SPEED,
            value_at_margin=0,
            sigmoid="linear",
        )


class WalkerFlip(walker.PlanarWalker):
    """Turning over forward, rather than getting on, for as much as standing allows."""

    def __init__(self, random: int):
        """Seeds the start of the episodes."""
        super().__init__(move_speed=0, random=random)

    def get_reward(self, physics: Any) -> Any:
        """A sixth of the reward for standing, and the rest by how fast it turns."""
        standing = super().get_reward(physics)
        turning = rewards.tolerance(
            physics.named.data.subtree_angmom["torso"][1],
            bounds=(FLIP_MOMENTUM, math.inf),
            margin=FLIP_MOMENTUM,
            value_at_margin=0,
            sigmoid="linear",
        )
        return standing * (1 + 5 * turning) / 6


class PointMassMaze(point_mass.PointMass):
    """The suite's point mass, starting within ranges of x and y, at rest."""

    def __init__(self, random: int, start: Sequence[tuple[float, float]] = MAZE_START):
        """Seeds the start of the episodes."""
        super().__init__(randomize_gains=False, random=random)
        self._start = start

    def initialize_episode(self, physics: Any) -> None:
        """Draws the place."""
        super().initialize_episode(physics)
        for axis, (low, high) in enumerate(self._start):
            physics.data.qpos[axis] = self.random.uniform(low, high)


def _corner(task: str, distance: float, height: float) -> tuple[float, float, float]:
    """Where `reach_{top,bottom}_{left,right}` is, in metres."""
    _, vertical, horizontal = task.split("_")
    x = distance if horizontal == "right" else -distance
    y = distance if vertical == "top" else -distance
    return x, y, height


def _point_mass(
    target: Sequence[float],
    seed: int,
    step_seconds: float | None,
    walls: bool,
    goal_radius: float | None,
) -> control.Environment:
    """The suite's arena with the target moved; with a cross of walls, and contacts."""
    text, assets = point_mass.get_model_and_assets()
    model = ElementTree.fromstring(text)
    option, world = model.find("option"), model.find("worldbody")
    assert option is not None and world is not None
    if walls:
        for flag in option.findall("flag"):  # it turns contacts off
            option.remove(flag)
        for name, size in MAZE_WALLS.items():
            wall = {"name": name, "type": "box", "pos": "0 0 .02"}
            ElementTree.SubElement(world, "geom", wall | {"size": _numbers(size)})
    place = model.find(".//geom[@name='target']")
    assert place is not None
    place.attrib |= {"pos": _numbers(target), "contype": "0", "conaffinity": "0"}
    if goal_radius is not None:
        place.attrib["size"] = str(goal_radius)
    physics = point_mass.Physics.from_xml_string(ElementTree.tostring(model), assets)
    body = PointMassMaze(seed, MAZE_START if walls else OPEN_START)
    return control.Environment(
        physics, body, control_timestep=step_seconds, time_limit=20
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(map(str, values))


class _Workspace(NamedTuple):
    """Where the hand starts, and where targets are drawn."""

    target_bbox: Any
    tcp_bbox: Any
    arm_offset: Any


def _jaco(target: Sequence[float], seed: int) -> composer.Environment:
    """The suite's reaching for a site, which stands still.

    Unlike ExoRL's, its observation shows the target; the physics are the same.
    """
    place = np.asarray(target)
    settings = observations.PERFECT_FEATURES
    box = workspaces.BoundingBox(lower=(-0.2, -0.2, 0.02), upper=(0.2, 0.2, 0.4))
    task = reach.Reach(
        arena=arenas.Standard(),
        arm=robots.make_arm(obs_settings=settings),
        hand=robots.make_hand(obs_settings=settings),
        prop=None,
        obs_settings=settings,
        workspace=_Workspace(
            # Drawn from a box without extent, it is where it should be.
            target_bbox=workspaces.BoundingBox(lower=place, upper=place),
            tcp_bbox=box,
            arm_offset=robots.ARM_OFFSET,
        ),
        control_timestep=constants.CONTROL_TIMESTEP,
    )
    return composer.Environment(task, time_limit=JACO_SECONDS, random_state=seed)
