"""Which environments there are by name.

Any environment that Gymnasium knows can be used; `families` lists those that ring_rl
brings or has presets for.
"""

import dataclasses
import difflib

import gymnasium

from ring_rl.envs.from_dm_control import register_dm_control
from ring_rl.envs.hidden_tasks import register_hidden_tasks
from ring_rl.types import Continuous, Discrete, Spaces

_OURS = {"ring_rl/DarkRoom-v0": "ring_rl.envs.dark_room:DarkRoomEnv"}


@dataclasses.dataclass(frozen=True)
class Family:
    """One line of `ring-rl list`.

    Attributes:
      name: what `make_vector` and `gymnasium.make` take.
      what: one line for people.
      spaces: observations and actions with the default options.
      horizon: most environment steps of an episode.
      tasks: whether an episode can be given a task by name.
    """

    name: str
    what: str
    spaces: Spaces
    horizon: int
    tasks: bool = False


def _unit_box(width: int) -> Continuous:
    return Continuous((-1.0,) * width, (1.0,) * width)


_FAMILIES = (
    Family(
        "ring_rl/DarkRoom-v0",
        "hidden goal on a grid, found by its reward alone",
        Spaces(18, Discrete(5)),
        20,
        tasks=True,
    ),
    Family(
        "ring_rl/PointMassMaze-v0",
        "hidden goal anywhere in a maze, ExoRL's four corners held out",
        Spaces(4, _unit_box(2)),
        1000,
        tasks=True,
    ),
    Family(
        "ring_rl/PointMass-v0",
        "hidden goal anywhere in the same arena without walls",
        Spaces(4, _unit_box(2)),
        1000,
        tasks=True,
    ),
    Family(
        "ring_rl/Walker-v0",
        "hidden task: stand, walk, run or flip",
        Spaces(24, _unit_box(6)),
        1000,
        tasks=True,
    ),
    Family(
        "ring_rl/Cheetah-v0",
        "hidden task: run forward or backward",
        Spaces(17, _unit_box(6)),
        1000,
        tasks=True,
    ),
    Family("HalfCheetah-v5", "MuJoCo: run", Spaces(17, _unit_box(6)), 1000),
    Family("Hopper-v5", "MuJoCo: hop on one leg", Spaces(11, _unit_box(3)), 1000),
    Family("Walker2d-v5", "MuJoCo: walk on two legs", Spaces(17, _unit_box(6)), 1000),
    Family("Ant-v5", "MuJoCo: run on four legs", Spaces(105, _unit_box(8)), 1000),
    Family("CartPole-v1", "balance a pole on a cart", Spaces(4, Discrete(2)), 500),
    Family(
        "dmc/walker-walk",
        "DeepMind Control Suite; so is any task, as dmc/DOMAIN-TASK",
        Spaces(24, _unit_box(6)),
        1000,
    ),
    Family(
        "exorl/walker_flip",
        "ExoRL; so is any of its tasks, as exorl/DOMAIN_TASK",
        Spaces(24, _unit_box(6)),
        1000,
    ),
    Family(
        "Pendulum-v1",
        "swing up a pendulum",
        Spaces(3, Continuous((-2.0,), (2.0,))),
        200,
    ),
)


def register() -> None:
    """Adds ring_rl's environments to Gymnasium's registry; again does nothing.

    Importing `ring_rl.envs` calls it.
    """
    for name, entry_point in _OURS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point)
    register_dm_control()
    register_hidden_tasks()


def families() -> tuple[Family, ...]:
    """The environments that ring_rl brings or has presets for."""
    return _FAMILIES


def check_known(env_id: str) -> None:
    """Nothing where Gymnasium has an environment of this name.

    A name "module:id" passes: only importing the module can tell.

    Raises:
      ValueError: there is none; the message has the nearest names.
    """
    if env_id in gymnasium.registry or ":" in env_id:
        return
    nearest = _nearest_names(env_id)
    hint = f"the nearest are {', '.join(nearest)}" if nearest else "none is near"
    raise ValueError(
        f"environment: expected the name of a registered one, found {env_id!r}; {hint}"
    )


def _nearest_names(env_id: str, count: int = 3) -> list[str]:
    # Without namespace and case, so that "darkroom" finds "ring_rl/DarkRoom-v0".
    by_short_name: dict[str, list[str]] = {}
    for known in gymnasium.registry:
        by_short_name.setdefault(known.split("/")[-1].lower(), []).append(known)
    wanted = env_id.split("/")[-1].lower()
    close = difflib.get_close_matches(wanted, by_short_name, n=count, cutoff=0.5)
    return [name for short in close for name in by_short_name[short]][:count]
