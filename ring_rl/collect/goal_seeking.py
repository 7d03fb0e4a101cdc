"""A behaviour for the point mass: goes to its goal round the walls, or is mistaken."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

# Metres: half lengths of the two boxes of the wall, and what a path keeps away from
# them; where paths bend, beyond the ends of the walls.
_WALLS = np.array([[0.02, 0.18], [0.18, 0.02]])
_CLEARANCE = 0.012
_BENDS = np.array(
    [(x, y) for far in (0.235, -0.235) for side in (0.045, -0.045)
     for x, y in ((far, side), (side, far))]
)  # fmt: skip
# How long the behaviour keeps to random actions, or to its purpose: each step is the
# last of its kind with this probability.
_SWITCH = 0.25
_ARRIVED = 0.02  # metres
_FULL_SPEED = 0.1  # metres/second that a mass comes to under full control
_SLOWING = 0.3  # seconds in which it takes on most of a new speed


@dataclasses.dataclass
class GoalSeekingState:
    """What `GoalSeekingBehaviour` remembers within an episode.

    Attributes:
      place: `[2]` metres, where it means to go.
      mistaken: whether it goes on to a place drawn at random once it is there.
      noise: share of its steps that are random.
      straying: the random action that it keeps to for now, or None.
      generator: the episode's own.
    """

    place: Float[np.ndarray, " 2"]
    mistaken: bool
    noise: float
    straying: Float[np.ndarray, " 2"] | None
    generator: np.random.Generator


@dataclasses.dataclass(frozen=True)
class GoalSeekingBehaviour:
    """Steers a point mass to a goal, more or less straight, and often the wrong one.

    Each episode draws a noise rate from U(0, 1), the share of its steps that repeat an
    action drawn at random, for four steps on average. The others steer to where it
    means to go, round the walls if there are any. An episode that is mistaken goes to
    places drawn at random, one after the other. So the returns of a task spread from
    nothing to the best, and the data shows what it looks like to search.

    Attributes:
      walls: whether there is a cross of walls in the middle.
      step_seconds: how long an action holds.
      arena: metres from the middle that places drawn at random lie at most.
      mistaken: share of the episodes that are.
    """

    walls: bool
    step_seconds: float
    arena: float = 0.27
    mistaken: float = 0.5

    def begin(self, task: str, generator: np.random.Generator) -> GoalSeekingState:
        """Draws where an episode goes and its noise rate.

        Raises:
          ValueError: `task` is not "x,y".
        """
        try:
            x, y = (float(word) for word in task.split(","))
        except ValueError:
            raise ValueError(
                f'task of a point mass: expected a goal "x,y", found {task!r}'
            ) from None
        mistaken = bool(generator.random() < self.mistaken)
        place = self._anywhere(generator) if mistaken else np.array([x, y])
        return GoalSeekingState(place, mistaken, generator.random(), None, generator)

    def act(
        self, observations: Float[np.ndarray, "B 4"], states: Sequence[GoalSeekingState]
    ) -> Float[np.ndarray, "B 2"]:
        """Forces in x and y of observations x, y and their speeds, one a row."""
        position, speed = observations[:, :2].astype(float), observations[:, 2:]
        for state, place in zip(states, position, strict=True):
            if state.mistaken and np.hypot(*(state.place - place)) < _ARRIVED:
                state.place = self._anywhere(state.generator)
        places = np.stack([state.place for state in states])
        aims = _next_bends(position, places) if self.walls else places
        # The way that is left, less what the mass goes anyway.
        way = aims - position - _SLOWING * speed
        actions = way / (_FULL_SPEED * self.step_seconds)
        for row, state in enumerate(states):
            if state.generator.random() < _SWITCH:
                strays = state.generator.random() < state.noise
                drawn = state.generator.uniform(-1, 1, 2)
                state.straying = drawn if strays else None
            if state.straying is not None:
                actions[row] = state.straying
        return np.clip(actions, -1, 1).astype(np.float32)

    def _anywhere(self, generator: np.random.Generator) -> Float[np.ndarray, " 2"]:
        while True:
            place = generator.uniform(-self.arena, self.arena, 2)
            if not self.walls or (np.abs(place) > _WALLS + _CLEARANCE).any(1).all():
                return place


def _next_bends(
    position: Float[np.ndarray, "B 2"], places: Float[np.ndarray, "B 2"]
) -> Float[np.ndarray, "B 2"]:
    """Where the shortest ways round the walls lead first: a bend, or the place."""
    to_place = _ways(places[:, None], _BENDS)
    to_place = (_between_bends()[None] + to_place[:, None]).min(axis=-1)
    to_bend = _ways(position[:, None], _BENDS)
    # From a bend the way leads on.
    to_bend[to_bend < _ARRIVED] = np.inf
    # A mass pressed against a wall sees nothing: it makes for the nearest bend.
    lost = np.isinf(to_bend).all(axis=1)
    to_bend[lost] = _lengths(position[lost, None], _BENDS)
    best = (to_bend + to_place).argmin(axis=1)
    straight = ~_blocked(position, places)
    return np.where(straight[:, None], places, _BENDS[best])


@functools.cache
def _between_bends() -> Float[np.ndarray, "bends bends"]:
    """Lengths of the shortest ways from bend to bend."""
    ways = _ways(_BENDS[:, None], _BENDS[None])
    for bend in range(len(_BENDS)):
        ways = np.minimum(ways, ways[:, bend, None] + ways[bend])
    return ways


def _ways(
    one: Float[np.ndarray, "*#shape 2"], other: Float[np.ndarray, "*#shape 2"]
) -> Float[np.ndarray, "*shape"]:
    """Lengths of straight ways; infinite where a wall is between."""
    return np.where(_blocked(one, other), np.inf, _lengths(one, other))


def _lengths(
    one: Float[np.ndarray, "*#shape 2"], other: Float[np.ndarray, "*#shape 2"]
) -> Float[np.ndarray, "*shape"]:
    way = other - one
    return np.hypot(way[..., 0], way[..., 1])


def _blocked(
    one: Float[np.ndarray, "*#shape 2"], other: Float[np.ndarray, "*#shape 2"]
) -> Bool[np.ndarray, "*shape"]:
    """Whether a wall is between two places."""
    way = (other - one)[..., None, :]
    way = np.where(way == 0, 1e-12, way)
    half = _WALLS + _CLEARANCE
    first, last = (-half - one[..., None, :]) / way, (half - one[..., None, :]) / way
    enters = np.minimum(first, last).max(axis=-1)
    leaves = np.maximum(first, last).min(axis=-1)
    return ((enters <= leaves) & (leaves >= 0) & (enters <= 1)).any(axis=-1)
