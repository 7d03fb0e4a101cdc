"""Collecting data: behaviours, and the recorder of their episodes."""

from ring_rl.collect.behaviours import DarkRoomBehaviour as DarkRoomBehaviour
from ring_rl.collect.behaviours import DarkRoomState as DarkRoomState
from ring_rl.collect.behaviours import UniformBehaviour as UniformBehaviour
from ring_rl.collect.recorder import Behaviour as Behaviour
from ring_rl.collect.recorder import record as record
