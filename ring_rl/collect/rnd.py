"""Exploration without a task: DDPG on the novelty that random distillation finds.

A network learns to predict what another one, drawn at random and fixed, says of an
observation. Where it errs, little has been seen: that error is the reward, and an
actor and two critics are trained on it off-policy while the data is collected. The
environment's own rewards are recorded and not looked at. This is the sort of data that
ExoRL has of its explorer `rnd`.

Source: Burda et al. 2018, Exploration by Random Network Distillation, arXiv 1810.12894;
Lillicrap et al. 2015, arXiv 1509.02971; Laskin et al. 2021, URLB, arXiv 2110.15191.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from ring_rl.collect.collectors import (
    PART_STEPS,
    Episodes,
    MakesEnvironment,
    part_seed,
)
from ring_rl.collect.parts import part_path, read_part, read_state
from ring_rl.collect.recorder import record_with_resets
from ring_rl.types import Continuous, Episode, Spaces

_CLIP = 5.0  # deviations that a normalised observation is clipped to


@dataclasses.dataclass(frozen=True)
class RndConfig:
    """How the explorer learns.

    Attributes:
      width: of the hidden layers, of which every network has two.
      features: outputs of the random network.
      batch: transitions of an update.
      every: environment steps for one update.
      burst: updates made in a row, on the same acting policy.
      warmup: environment steps with random actions, before the first update.
      noise: deviation of the actions' noise, of bounds -1 to 1.
      discount: of the next step's value.
      learning_rate: of Adam.
      polyak: share of the critics that goes to their targets at each update.
    """

    width: int = 128
    features: int = 64
    batch: int = 256
    every: int = 8
    burst: int = 8
    warmup: int = 2000
    noise: float = 0.2
    discount: float = 0.99
    learning_rate: float = 3e-4
    polyak: float = 0.01


class Transitions(NamedTuple):
    """What updates are made of, in actions of bounds -1 to 1.

    Attributes:
      observations: `[... O]`.
      actions: `[... A]`.
      following: `[... O]`, the next observations.
      discounts: `[...]`, 0 where the episode terminated.
    """

    observations: Any
    actions: Any
    following: Any
    discounts: Any


class Learner(NamedTuple):
    """All that is learned, as a pytree of arrays.

    Attributes:
      actor: parameters.
      critics: parameters of both.
      targets: the critics', following slowly.
      predictor: parameters.
      features: parameters of the random network, which stay.
      optimisers: states of Adam: actor, critics, predictor.
      errors: `[3]`, count, mean and sum of squares about it of the prediction errors.
      updates: how many were made.
    """

    actor: Any
    critics: Any
    targets: Any
    predictor: Any
    features: Any
    optimisers: Any
    errors: Float[Array, " 3"]
    updates: Any


class _Critics(nnx.Module):
    """Two estimates `[2 B]` of the value of actions."""

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        self.one = _network(inputs, width, 1, rngs)
        self.two = _network(inputs, width, 1, rngs)

    def __call__(
        self, observations: Float[Array, "B O"], actions: Float[Array, "B A"]
    ) -> Float[Array, "2 B"]:
        x = jnp.concatenate([observations, actions], axis=1)
        return jnp.stack([self.one(x)[:, 0], self.two(x)[:, 0]])


def _network(inputs: int, width: int, outputs: int, rngs: nnx.Rngs) -> Any:
    return nnx.Sequential(
        nnx.Linear(inputs, width, rngs=rngs), nnx.relu,
        nnx.Linear(width, width, rngs=rngs), nnx.relu,
        nnx.Linear(width, outputs, rngs=rngs),
    )  # fmt: skip


class Programs:
    """The updates, compiled once for a configuration and widths."""

    def __init__(self, config: RndConfig, observation: int, action: int):
        """Nothing is computed yet."""
        self._config = config
        self._widths = observation, action
        self._optimiser = optax.adam(config.learning_rate)
        self._graphs = tuple(nnx.graphdef(model) for model in self._models(0))
        self.update = jax.jit(self._update, donate_argnums=0)

    def _models(self, seed: int) -> tuple[nnx.Module, ...]:
        """Actor, critics, predictor, random network."""
        observation, action = self._widths
        width, features = self._config.width, self._config.features
        rngs = nnx.Rngs(seed)
        return (
            _network(observation, width, action, rngs),
            _Critics(observation + action, width, rngs),
            _network(observation, width, features, rngs),
            _network(observation, width, features, rngs),
        )

    def begin(self, seed: int) -> Learner:
        """Nothing learned, parameters drawn from the seed."""
        actor, critics, predictor, features = (
            nnx.to_pure_dict(nnx.state(model)) for model in self._models(seed)
        )
        optimisers = tuple(map(self._optimiser.init, (actor, critics, predictor)))
        return Learner(
            actor, critics, jax.tree.map(jnp.copy, critics), predictor, features,
            optimisers, jnp.zeros(3), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def _update(self, learner: Learner, batches: Transitions, seed: Array) -> Learner:
        """One update for each batch; observations `[updates batch O]` normalised."""

        def one(learner: Learner, batch: Transitions) -> tuple[Learner, None]:
            key = jax.random.fold_in(jax.random.key(seed), learner.updates)
            return self._step(learner, batch, key), None

        return jax.lax.scan(one, learner, batches)[0]

    def _step(self, learner: Learner, batch: Transitions, key: Array) -> Learner:
        config = self._config
        actor_graph, critics_graph, predictor_graph, features_graph = self._graphs
        wanted = nnx.merge(features_graph, learner.features)(batch.following)

        def prediction_loss(parameters):
            found = nnx.merge(predictor_graph, parameters)(batch.following)
            errors = jnp.mean((found - wanted) ** 2, axis=1)
            return jnp.mean(errors), errors

        gradient, errors = jax.grad(prediction_loss, has_aux=True)(learner.predictor)
        moments = _more(learner.errors, errors)
        rewards = errors / (jnp.sqrt(moments[2] / moments[0]) + 1e-8)

        def act(parameters, observations):
            return jnp.tanh(nnx.merge(actor_graph, parameters)(observations))

        shake = config.noise * jax.random.normal(key, batch.actions.shape)
        following = act(learner.actor, batch.following) + jnp.clip(shake, -0.3, 0.3)
        values = nnx.merge(critics_graph, learner.targets)(
            batch.following, jnp.clip(following, -1, 1)
        )
        aims = rewards + config.discount * batch.discounts * values.min(0)

        def critic_loss(parameters):
            critics = nnx.merge(critics_graph, parameters)
            found = critics(batch.observations, batch.actions)
            return jnp.mean((found - aims[None]) ** 2)

        def actor_loss(parameters):
            actions = act(parameters, batch.observations)
            found = nnx.merge(critics_graph, critics)(batch.observations, actions)
            return -jnp.mean(found.min(0))

        actor_state, critics_state, predictor_state = learner.optimisers
        predictor, predictor_state = self._apply(
            gradient, predictor_state, learner.predictor
        )
        critics, critics_state = self._apply(
            jax.grad(critic_loss)(learner.critics), critics_state, learner.critics
        )
        actor, actor_state = self._apply(
            jax.grad(actor_loss)(learner.actor), actor_state, learner.actor
        )
        targets = jax.tree.map(
            lambda old, new: old + config.polyak * (new - old), learner.targets, critics
        )
        return Learner(
            actor, critics, targets, predictor, learner.features,
            (actor_state, critics_state, predictor_state), moments, learner.updates + 1,
        )  # fmt: skip

    def _apply(self, gradient: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
        changes, state = self._optimiser.update(gradient, state, parameters)
        return optax.apply_updates(parameters, changes), state


def _more(moments: Float[Array, " 3"], values: Float[Array, " n"]) -> Array:
    """Count, mean and sum of squares about it, with further values."""
    count, mean, squares = moments
    total = count + values.size
    apart = values.mean() - mean
    return jnp.stack([
        total,
        mean + apart * values.size / total,
        squares + values.var() * values.size + apart**2 * count * values.size / total,
    ])  # fmt: skip


@functools.lru_cache(maxsize=2)
def _programs(config: RndConfig, observation: int, action: int) -> Programs:
    return Programs(config, observation, action)


class Explorer:
    """A behaviour that learns as it acts; a `Behaviour` for one row.

    Episodes enter its memory when they have ended, through `remember`.
    """

    def __init__(
        self, config: RndConfig, spaces: Spaces, room: int, *, seed: int, draws: int
    ):
        """One that has learned nothing.

        Args:
          config: how it learns.
          spaces: of the environment.
          room: transitions that it will have to remember.
          seed: of the parameters and of the noise in the updates.
          draws: seed of the actions' noise and of which transitions are learned from.
        """
        assert isinstance(spaces.action, Continuous)
        observation, action = spaces.observation, spaces.action.size
        self._config, self._seed = config, np.uint32(seed)
        self._low = np.array(spaces.action.low, np.float32)
        self._range = np.array(spaces.action.high, np.float32) - self._low
        self._programs = _programs(config, observation, action)
        self._learner = self._programs.begin(seed)
        self._random = np.random.default_rng(draws)
        self._memory = Transitions(
            np.zeros((room, observation), np.float32),
            np.zeros((room, action), np.float32),
            np.zeros((room, observation), np.float32),
            np.zeros(room, np.float32),
        )
        self._size = self._steps = 0
        # Count, sums and sums of squares of the observations in memory.
        self._sums = np.zeros((3, observation))
        self._prepare()

    def remember(self, episode: Episode) -> None:
        """An episode to learn from."""
        steps = slice(self._size, self._size + len(episode.rewards))
        following = np.concatenate(
            [episode.observations[1:], episode.final_observation[None]]
        )
        self._memory.observations[steps] = episode.observations
        unit = (episode.actions - self._low) / self._range
        self._memory.actions[steps] = 2 * unit - 1
        self._memory.following[steps] = following
        self._memory.discounts[steps] = episode.discounts
        self._size = steps.stop
        seen = following.astype(np.float64)
        self._sums += [np.full(seen.shape[1], len(seen)), seen.sum(0), (seen**2).sum(0)]

    def begin(self, task: str, generator: np.random.Generator) -> None:
        """An episode has nothing of its own."""
        del task, generator

    def act(
        self, observations: Float32[np.ndarray, "1 O"], states: Sequence[None]
    ) -> Float32[np.ndarray, "1 A"]:
        """The next action; now and then after some updates."""
        del states
        config = self._config
        self._steps += 1
        if self._size < config.warmup:
            unit = self._random.uniform(-1, 1, (1, len(self._low)))
        else:
            if self._steps % (config.every * config.burst) == 0:
                self._learn()
            x = self._normal(observations)
            for kernel, bias in self._layers[:-1]:
                x = np.maximum(x @ kernel + bias, 0)
            kernel, bias = self._layers[-1]
            unit = np.tanh(x @ kernel + bias)
            noise = config.noise * self._random.standard_normal(unit.shape)
            unit = np.clip(unit + noise, -1, 1)
        return (self._low + (unit + 1) / 2 * self._range).astype(np.float32)

    def _learn(self) -> None:
        config = self._config
        rows = self._random.integers(self._size, size=(config.burst, config.batch))
        batches = Transitions(*(values[rows] for values in self._memory))
        batches = batches._replace(
            observations=self._normal(batches.observations),
            following=self._normal(batches.following),
        )
        self._learner = self._programs.update(self._learner, batches, self._seed)
        self._prepare()

    def _prepare(self) -> None:
        """What acting needs, in NumPy: a call of JAX costs more than the network."""
        layers = self._learner.actor["layers"]
        self._layers = [
            (np.array(layers[place]["kernel"]), np.array(layers[place]["bias"]))
            for place in sorted(layers)
            if layers[place]
        ]
        count, sums, squares = self._sums
        self._mean = np.zeros_like(sums, np.float32)
        self._deviation = np.ones_like(self._mean)
        if count[0]:
            mean = sums / count
            variance = np.maximum(squares / count - mean**2, 0)
            self._mean = mean.astype(np.float32)
            self._deviation = (np.sqrt(variance) + 1e-3).astype(np.float32)

    def _normal(self, observations: np.ndarray) -> np.ndarray:
        return np.clip((observations - self._mean) / self._deviation, -_CLIP, _CLIP)

    def state(self) -> dict[str, np.ndarray]:
        """All but the memory, for `restore`."""
        leaves = jax.tree.leaves(self._learner)
        return {
            "steps": np.array(self._steps),
            **{f"{index:03d}": np.array(leaf) for index, leaf in enumerate(leaves)},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Undoes `state`, once the same episodes are remembered.

        Raises:
          ValueError: it is of another learner.
        """
        leaves, structure = jax.tree.flatten(self._learner)
        found = [state[name] for name in sorted(state) if name != "steps"]
        if [leaf.shape for leaf in found] != [leaf.shape for leaf in leaves]:
            raise ValueError("rnd: expected the state of this explorer, found another")
        self._learner = jax.tree.unflatten(structure, map(jnp.asarray, found))
        self._steps = int(state["steps"])
        self._prepare()


@dataclasses.dataclass(frozen=True)
class RndCollector:
    """Parts by explorers that learn: part k by explorer k mod `learners`.

    A part is begun with what its explorer had learned and seen in its earlier ones, and
    goes round the tasks as those of `BehaviourCollector` do.

    Attributes:
      environment: where; its actions are continuous.
      config: how they learn.
      tasks: of the episodes, "" leaving them to the environment.
      seed: of everything.
      learners: how many explorers there are, which know nothing of each other.
      spaces: of the environment.
      horizon: most steps of an episode.
      description: as `Collector` has it.
      part_steps: environment steps of a part.
    """

    environment: MakesEnvironment
    config: RndConfig
    tasks: tuple[str, ...]
    seed: int
    learners: int
    spaces: Spaces
    horizon: int
    description: dict[str, Any]
    part_steps: int = PART_STEPS

    # JAX stays out of the process that answers to Ctrl-C.
    parts, apart = None, True

    def __post_init__(self):
        """Checks what can be explored."""
        if not isinstance(self.spaces.action, Continuous):
            raise ValueError(
                "rnd: expected an environment of continuous actions, found "
                f"{self.spaces.action.size} discrete ones"
            )
        if self.learners < 1:
            raise ValueError(f"learners: expected at least 1, found {self.learners}")

    @property
    def least(self) -> int:
        """Steps of a part at least."""
        return self.part_steps

    @property
    def after(self) -> int:
        """Its explorer's last part before."""
        return self.learners

    def part(self, number: int, folder: Path) -> Episodes:
        """The episodes of a part, and what was learned by its end."""
        if multiprocessing.parent_process() is not None:
            # Small networks: an accelerator would wait most of the time.
            jax.config.update("jax_platforms", "cpu")
        earlier = [
            [recorded.episode for recorded in read_part(part_path(folder, index))]
            for index in range(number % self.learners, number, self.learners)
        ]
        seen = sum(len(episode.rewards) for part in earlier for episode in part)
        explorer = Explorer(
            self.config,
            self.spaces,
            seen + self.part_steps + self.horizon,
            seed=part_seed(self.seed, number % self.learners, 2),
            draws=part_seed(self.seed, number, 1),
        )
        for part in earlier:
            for episode in part:
                explorer.remember(episode)
        if earlier:
            last = part_path(folder, number - self.learners)
            explorer.restore(read_state(last))
        done = 0

        def tasks() -> Iterator[str]:
            index = number * max(1, self.part_steps // self.horizon)
            while done < self.part_steps:
                yield self.tasks[index % len(self.tasks)]
                index += 1

        rows = self.environment.make(1, seed=part_seed(self.seed, number, 0))
        with contextlib.closing(rows):
            for recorded in record_with_resets(
                rows, explorer, tasks=tasks(), seed=self.seed
            ):
                explorer.remember(recorded.episode)
                done += len(recorded.episode.rewards)
                yield recorded
        return explorer.state()
