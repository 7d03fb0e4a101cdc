"""Collecting data: behaviours, the recorder of their episodes, and whole datasets."""

from ring_rl.collect.actors import ActorBehaviour as ActorBehaviour
from ring_rl.collect.actors import read_actor as read_actor
from ring_rl.collect.behaviours import DarkRoomBehaviour as DarkRoomBehaviour
from ring_rl.collect.behaviours import DarkRoomState as DarkRoomState
from ring_rl.collect.behaviours import UniformBehaviour as UniformBehaviour
from ring_rl.collect.collection import collect_dataset as collect_dataset
from ring_rl.collect.collectors import BehaviourCollector as BehaviourCollector
from ring_rl.collect.collectors import Collector as Collector
from ring_rl.collect.collectors import MakesEnvironment as MakesEnvironment
from ring_rl.collect.collectors import describe as describe
from ring_rl.collect.collectors import look as look
from ring_rl.collect.goal_seeking import GoalSeekingBehaviour as GoalSeekingBehaviour
from ring_rl.collect.noise import NoiseLadder as NoiseLadder
from ring_rl.collect.recorder import Behaviour as Behaviour
from ring_rl.collect.recorder import ContextPolicy as ContextPolicy
from ring_rl.collect.recorder import Recorded as Recorded
from ring_rl.collect.recorder import record as record
from ring_rl.collect.recorder import record_trials as record_trials
from ring_rl.collect.recorder import record_with_resets as record_with_resets
from ring_rl.collect.rnd import RndCollector as RndCollector
from ring_rl.collect.rnd import RndConfig as RndConfig
