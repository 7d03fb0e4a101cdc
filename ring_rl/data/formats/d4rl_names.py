"""D4RL's dataset names, and where each dataset's file is to be fetched.

Source: the table `DATASET_URLS` of the package d4rl 1.1, for the families whose scores
`evaluate` knows: Gym's MuJoCo tasks, Maze2D, AntMaze, Kitchen and Adroit.
"""

import functools
import itertools
import re
from collections.abc import Iterator

_HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
_GYM = ("halfcheetah", "hopper", "walker2d", "ant")
_ADROIT = ("pen", "hammer", "door", "relocate")
_QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
_ADROIT_V0_FILES = {
    "human": "{}-v0_demos_clipped",
    "cloned": "{}-demos-v0-bc-combined",
    "expert": "{}-v0_expert_clipped",
}
_ANT_MAZES = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
_KITCHENS = {
    "complete": "mini_kitchen_microwave_kettle_light_slider",
    "partial": "kitchen_microwave_kettle_light_slider",
    "mixed": "kitchen_microwave_kettle_bottomburner_light",
}
_TFDS_NAME = re.compile(
    r"d4rl_(?:mujoco|adroit)_(?P<task>\w+)/(?P<version>v\d)-(?P<quality>[a-z-]+)"
    r"|d4rl_(?P<maze>antmaze/[a-z-]+-v\d)"
)


@functools.cache
def d4rl_addresses() -> dict[str, str]:
    """The address of the HDF5 file of every dataset, by the dataset's name."""
    files = itertools.chain(_gym(), _adroit(), _mazes(), _kitchens())
    return {name: f"{_HOST}/{file}.hdf5" for name, file in files}


def d4rl_name_of_tfds(name: str) -> str | None:
    """D4RL's name of what TFDS calls `BUILDER/CONFIG`, or None where it is not D4RL's.

    `d4rl_mujoco_hopper/v2-medium` is `hopper-medium-v2`.
    """
    match = _TFDS_NAME.fullmatch(name)
    if match is None:
        return None
    if match["maze"]:
        return match["maze"].replace("/", "-")
    # What D4RL's files of version 0 call mixed, its names call medium-replay.
    quality = match["quality"].replace("mixed", "medium-replay")
    return f"{match['task']}-{quality}-{match['version']}"


def _gym() -> Iterator[tuple[str, str]]:
    for task, quality in itertools.product(_GYM, _QUALITIES):
        old = quality.replace("medium-replay", "mixed").replace("-", "_")
        # One file has another name for its task.
        old_task = "walker" if (task, old) == ("walker2d", "mixed") else task
        yield f"{task}-{quality}-v0", f"gym_mujoco/{old_task}_{old}"
    for task, quality, version in itertools.product(
        _GYM, (*_QUALITIES, "full-replay"), ("v1", "v2")
    ):
        file = f"{task}_{quality.replace('-', '_')}-{version}"
        yield f"{task}-{quality}-{version}", f"gym_mujoco_{version}/{file}"


def _adroit() -> Iterator[tuple[str, str]]:
    for task, (quality, file) in itertools.product(_ADROIT, _ADROIT_V0_FILES.items()):
        yield f"{task}-{quality}-v0", f"hand_dapg/{file.format(task)}"
        yield f"{task}-{quality}-v1", f"hand_dapg_v1/{task}-{quality}-v1"


def _mazes() -> Iterator[tuple[str, str]]:
    for size, (name, kind) in itertools.product(
        _ANT_MAZES, (("", "sparse"), ("-dense", "dense"))
    ):
        yield f"maze2d-{size}{name}-v1", f"maze2d/maze2d-{size}-{kind}-v1"
    for (size, maze), diverse in itertools.product(_ANT_MAZES.items(), (False, True)):
        plain = "" if size == "umaze" else "-play"
        # The small maze has one start, unless it is diverse.
        starts, goals = diverse or size != "umaze", diverse
        name = f"antmaze-{size}{'-diverse' if diverse else plain}"
        file = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse"
        yield f"{name}-v0", f"ant_maze_new/{file}"
        yield f"{name}-v2", f"ant_maze_v2/{file}_fixed"


def _kitchens() -> Iterator[tuple[str, str]]:
    for quality, file in _KITCHENS.items():
        yield f"kitchen-{quality}-v0", f"kitchen/{file}-v0"
