"""Environments: rows stepped together, hidden-task families, what exists by name.

Importing this package registers ring_rl's environments with Gymnasium.
"""

from ring_rl.envs.dark_room import DARK_ROOM_ACTIONS as DARK_ROOM_ACTIONS
from ring_rl.envs.dark_room import DarkRoomEnv as DarkRoomEnv
from ring_rl.envs.dark_room import dark_room_tasks as dark_room_tasks
from ring_rl.envs.dark_room import split_tasks as split_tasks
from ring_rl.envs.from_gymnasium import GymnasiumRows as GymnasiumRows
from ring_rl.envs.from_gymnasium import make_vector as make_vector
from ring_rl.envs.hidden_tasks import HIDDEN_TASK_FAMILIES as HIDDEN_TASK_FAMILIES
from ring_rl.envs.hidden_tasks import TaskSplit as TaskSplit
from ring_rl.envs.hidden_tasks import split_hidden_tasks as split_hidden_tasks
from ring_rl.envs.peers import PeerRows as PeerRows
from ring_rl.envs.processes import ProcessRows as ProcessRows
from ring_rl.envs.processes import choose_processes as choose_processes
from ring_rl.envs.registry import Family as Family
from ring_rl.envs.registry import check_known as check_known
from ring_rl.envs.registry import families as families
from ring_rl.envs.registry import register as register

register()
