"""`ring-rl bench rollout`: acting in environments, and what its parts cost.

- `dark-room`: whole rollouts, after compilation, of an Agentic Transformer of the
  quickstart's size in the dark room.
- `dm_control` steps one of its environments in a bare loop, `adapter` the same behind
  Gymnasium's interface, and `vector` as many as there are dark rooms, as rows of a
  rollout.
- `decode` acts once in every row with a long context in its cache, and `again` runs
  the whole context through the model for that, as it would be without a cache.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ring_rl.agents import AgenticTransformer
from ring_rl.agents.reading import read_tokens
from ring_rl.bench.config import check_counts
from ring_rl.bench.records import Record, Say, make_record
from ring_rl.bench.synthetic import make_store
from ring_rl.bench.timing import Times, race, warm_up
from ring_rl.data.chains import make_chain
from ring_rl.envs import make_vector
from ring_rl.envs.from_dm_control import suite_tasks
from ring_rl.evaluate.rollout import rollout
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Continuous, Rollouts, Scaling

_OBSERVATION, _ACTION = 24, 6  # widths where a context is made of random numbers


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """What is rolled out, stepped and decoded.

    Attributes:
      environments: dark rooms that are rolled out together.
      trials: of each.
      task: of the DeepMind Control Suite, `domain-task`.
      steps: environment steps of one measurement of it.
      tokens: of context in each row, one a step, when decoding.
      rows: that decode together.
      layers: of the model; its width is `heads` times `head_dim`.
      heads: of attention.
      head_dim: width of a head.
      devices: that share out the context.
      runs: timed repetitions of each, after one that is not.
    """

    environments: int = 16
    trials: int = 8
    task: str = "walker-walk"
    steps: int = 500
    tokens: int = 8000
    rows: int = 8
    layers: int = 3
    heads: int = 4
    head_dim: int = 16
    devices: int = 1
    runs: int = 3

    def __post_init__(self):
        """Checks the values."""
        names = (
            "environments trials steps tokens rows layers heads head_dim devices runs"
        )
        check_counts(self, tuple(names.split()), least=1)
        if tuple(self.task.split("-", 1)) not in suite_tasks():
            raise ValueError(
                "bench: task must be one of the DeepMind Control Suite such as "
                f"walker-walk, found {self.task!r}"
            )

    def agent(self) -> AgenticTransformer:
        """The agent, with fused tokens."""
        width = self.heads * self.head_dim
        return AgenticTransformer(
            trunk=TrunkConfig(layers=self.layers, width=width, heads=self.heads)
        )


def measure(config: RolloutConfig, say: Say) -> Iterator[Record]:
    """A record of each of the above.

    Raises:
      ValueError: there are not so many devices.
    """
    rules = ShardingRules(make_mesh(MeshConfig(sequence=config.devices)))
    yield _dark_room(config, rules, say)
    yield from _adapter(config, say)
    yield from _decode(config, rules, say)


def _record(config: RolloutConfig, what: str, times: Times, **values: Any) -> Record:
    model = {"layers": config.layers, "heads": config.heads,
             "head_dim": config.head_dim, "devices": config.devices}  # fmt: skip
    return make_record(
        "rollout",
        implementation=what,
        runs=config.runs,
        **{**(model if what in ("dark-room", "decode", "again") else {}), **values},
        **times.summary(),
    )


def _dark_room(config: RolloutConfig, rules: ShardingRules, say: Say) -> Record:
    agent = config.agent()
    environment = make_vector("ring_rl/DarkRoom-v0", config.environments, seed=0)
    spaces = environment.spaces
    zeros, ones = (0.0,) * spaces.observation, (1.0,) * spaces.observation
    model = agent.build(spaces, Scaling(zeros, ones, 20.0, 1.0), rules, seed=0)
    found: list[Rollouts] = []

    def run() -> None:
        one = rollout(
            agent,
            model,
            environment,
            trials=config.trials,
            target_return=15.0,
            temperature=1.0,
            seed=0,
        )
        found.append(one)

    say("compile dark-room")
    _, call = warm_up(run)
    times = race({"dark-room": call._replace(times=1)}, config.runs, say)["dark-room"]
    environment.close()
    steps = int(found[-1].lengths.sum())
    return _record(
        config,
        "dark-room",
        times,
        environments=config.environments,
        trials=config.trials,
        tokens=config.trials * environment.max_episode_steps,
        steps=steps,
        steps_per_second=steps / times.summary()["wall_seconds"],
        decode_milliseconds=float(np.median([x.decode_milliseconds for x in found])),
    )


def _adapter(config: RolloutConfig, say: Say) -> Iterator[Record]:
    import gymnasium
    from dm_control import suite

    domain, task = config.task.split("-", 1)
    bare = suite.load(domain, task, task_kwargs={"random": 0})
    name = f"dmc/{config.task}"
    adapter = gymnasium.make(name, disable_env_checker=True)
    rows = make_vector(name, config.environments, seed=0)
    space, everyone = rows.spaces.action, np.ones(config.environments, bool)
    assert isinstance(space, Continuous)
    size = (config.steps, space.size)
    random = np.random.default_rng(0)
    actions = random.uniform(space.low, space.high, size).astype(np.float32)

    def step_bare() -> None:
        over = True
        for action in actions:
            if over:
                bare.reset()
            over = bare.step(action).last()

    def step_adapter() -> None:
        over = True
        for action in actions:
            if over:
                adapter.reset()
            _, _, terminated, truncated, _ = adapter.step(action)
            over = terminated or truncated

    # As many steps in all.
    turns = -(-config.steps // config.environments)
    many = np.repeat(actions[:turns, None], config.environments, axis=1)

    def step_vector() -> None:
        over = everyone
        for action in many:
            if over.any():
                rows.reset(over)
            _, _, terminated, truncated = rows.step(action)
            over = terminated | truncated

    programs: dict[str, Callable[[], None]] = {
        "dm_control": step_bare,
        "adapter": step_adapter,
        "vector": step_vector,
    }
    calls = {}
    for name, program in programs.items():
        say(f"warm up {name}")
        calls[name] = warm_up(program)[1]
    # A run of each is short, and what it is compared by a few percent.
    times = race(calls, 5 * config.runs, say)
    for environment in (rows, adapter, bare):
        environment.close()
    for name in programs:
        several = config.environments if name == "vector" else 1
        steps = turns * several if name == "vector" else config.steps
        record = _record(
            config, name, times[name], task=config.task, environments=several
        )
        record["steps"] = steps
        record["steps_per_second"] = steps / record["wall_seconds"]
        if name != "dm_control":
            share = times[name].share(times["dm_control"], "cpu")
            record["speed_ratio"] = steps / config.steps / share
        yield record


def _decode(config: RolloutConfig, rules: ShardingRules, say: Say) -> Iterator[Record]:
    agent = config.agent()
    store = make_store(1, config.tokens, observation=_OBSERVATION, action=_ACTION)
    zeros, ones = (0.0,) * _OBSERVATION, (1.0,) * _OBSERVATION
    scaling = Scaling(zeros, ones, float(config.tokens), 1.0)
    model = agent.build(store.spaces, scaling, rules, seed=0)
    graph, parameters = nnx.split(model)
    chains: list[Chain] = [make_chain(store, np.arange(1), "all")] * config.rows
    say(f"read {config.tokens} tokens in {config.rows} rows")
    zero = jnp.zeros(config.rows, jnp.float32)
    # Each decoded step is one more.
    state = agent.start(model, zero, trials=2, steps=config.tokens)
    state = agent.prefill(model, state, chains)
    state = agent.make_room(model, state, steps=2 * config.tokens)
    placed = jax.tree.map(lambda x: x.sharding, state)
    tokens = read_tokens(chains, agent.tokens, store.spaces, rules)
    everyone, none = jnp.ones(config.rows, bool), jnp.zeros(config.rows, bool)
    observations = jnp.zeros((config.rows, _OBSERVATION), jnp.float32)
    # A copy: the state is used up.
    outcome = jnp.copy(state.action), zero, none, everyone

    def act(state, parameters):
        model = nnx.merge(graph, parameters)
        state = agent.observe(state, *outcome)
        key, warm = jax.random.key(0), jnp.float32(1)
        return agent.act(model, state, observations, everyone, key, warm)

    # The cache is updated where it lies, as in a rollout.
    compiled = jax.jit(act, donate_argnums=0, out_shardings=(None, placed))

    def decode() -> Any:
        nonlocal state
        actions, state = compiled(state, parameters)
        return actions

    @jax.jit
    def whole(parameters, tokens):
        return nnx.merge(graph, parameters)(tokens)[:, -1]

    calls = {}
    programs: dict[str, Callable[[], Any]] = {
        "again": lambda: whole(parameters, tokens),
        "decode": decode,
    }
    for name, program in programs.items():
        say(f"compile {name}")
        jax.block_until_ready(program())
        calls[name] = warm_up(program)[1]
    # Few enough to stay within the room that the context has.
    most = max(1, (config.tokens - 2) // (config.runs + 1))
    calls["decode"] = calls["decode"]._replace(times=min(calls["decode"].times, most))
    times = race(calls, config.runs, say)
    agent.check(state)
    for name in programs:
        record = _record(
            config,
            name,
            times[name],
            tokens=config.tokens,
            rows=config.rows,
            environments=config.rows,
        )
        if name == "decode":
            for clock in ("cpu", "wall"):
                record[f"{clock}_ratio"] = times[name].share(times["again"], clock)
        yield record
