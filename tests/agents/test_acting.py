"""Acting token by token with a cache is reading the whole sequence at once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.attention import Mask
from ring_rl.data.tokens import TokenConfig, pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Continuous, Discrete, Scaling, Spaces

CONTINUOUS = Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
DISCRETE = Spaces(3, Discrete(4))
SCALING = Scaling((0.1, 0.0, -0.2), (1.0, 2.0, 0.5), 4.0, 2.0)
SLOW = pytest.mark.slow
TRUNK = TrunkConfig(layers=2, width=16, heads=2)
# Environment steps of three trials in each row; rows end at turns of their own.
LENGTHS = np.array([[2, 3, 1], [4, 1, 2], [1, 2, 5]])
ROWS, TRIALS = LENGTHS.shape
TOTALS = LENGTHS.sum(axis=1)
# Rows that are left out of a turn although they have not finished.
PAUSED = {2: 1, 3: 0, 5: 2}
TOLD = np.array([1.5, 2.0, -0.5], np.float32)


@dataclasses.dataclass(frozen=True)
class LogitsAsActions:
    """Stands in for the action head: what an agent acts on is what it returns."""

    space: Any

    def act(self, key, logits, temperature):
        return logits


class Script:
    """What each row sees and does at each of its steps; quarters add up exactly."""

    def __init__(self, spaces, seed=0):
        random = np.random.default_rng(seed)
        most = TOTALS.max()
        shape = (ROWS, most)
        self.observations = random.normal(size=(*shape, 3)).astype(np.float32)
        self.rewards = (random.integers(-4, 5, shape) / 4).astype(np.float32)
        if isinstance(spaces.action, Discrete):
            self.actions = random.integers(4, size=shape, dtype=np.int32)
        else:
            self.actions = random.uniform(-1, 1, (*shape, 2)).astype(np.float32)
        self.ends = np.zeros(shape, bool)
        for row, lengths in enumerate(LENGTHS):
            self.ends[row, np.cumsum(lengths) - 1] = True

    def chains(self, row, trials_in_context):
        """What a row's trials are as chains: one for each context."""
        bounds = np.cumsum((0, *LENGTHS[row]))
        size = trials_in_context or TRIALS
        for first in range(0, TRIALS, size):
            trials = range(first, min(first + size, TRIALS))
            steps = slice(bounds[first], bounds[trials[-1] + 1])
            targets, completions = [], []
            for trial in trials:
                rewards = self.rewards[row, bounds[trial] : bounds[trial + 1]]
                targets += [TOLD[row] - rewards[:i].sum() for i in range(len(rewards))]
                reached = float(rewards.sum() >= TOLD[row])
                completions += [0.0] * (len(rewards) - 1) + [reached]
            yield Chain(
                self.observations[row, steps],
                self.actions[row, steps],
                self.rewards[row, steps],
                np.array(targets, np.float32),
                np.array(completions, np.float32),
                np.concatenate([np.arange(n) for n in LENGTHS[row, trials]]),
                np.ones(len(targets), np.float32),
            )

    def first_trials(self, trials):
        """One chain a row of its first trials, told something else."""
        for row, count in enumerate(trials):
            end = LENGTHS[row, :count].sum()
            chain = next(self.chains(row, 0))
            other = np.full(len(chain.rewards), 99, np.float32)
            chain = chain._replace(target_returns=other, completions=other)
            yield Chain(*(field[:end] for field in chain))


@functools.cache
def build(agent, spaces, devices):
    """A model whose actions are its logits, and the compiled step of a rollout."""
    mesh = make_mesh(MeshConfig(sequence=devices), jax.devices()[:devices])
    model = agent.build(spaces, SCALING, ShardingRules(mesh), seed=0)
    model.head = LogitsAsActions(spaces.action)

    @jax.jit
    def advance(state, outcome, observations, active):
        state = agent.observe(state, *outcome)
        key, warm = jax.random.key(0), jnp.float32(1)
        logits, after = agent.act(model, state, observations, active, key, warm)
        return logits, state, after

    return model, advance


def drive(agent, spaces, devices, script, watch=lambda *states: None, read=()):
    """Logits `[ROWS steps outputs]` of acting through the script.

    Rows that `read` so many of their trials before they act have none for their steps.
    """
    model, advance = build(agent, spaces, devices)
    told, most = jnp.asarray(TOLD), int(LENGTHS.max())
    state = agent.start(model, told, trials=TRIALS, steps=most)
    done = np.zeros(ROWS, int)
    if read:
        state = agent.prefill(model, state, list(script.first_trials(read)))
        done += [LENGTHS[row, :trials].sum() for row, trials in enumerate(read)]
    none = np.zeros(ROWS, bool)
    outcome = (np.asarray(state.action), np.zeros(ROWS, np.float32), none, none)
    found = [[] for _ in range(ROWS)]
    turn = 0
    while (done < TOTALS).any():
        active = (done < TOTALS) & (np.arange(ROWS) != PAUSED.get(turn))
        index = np.arange(ROWS), np.minimum(done, TOTALS - 1)
        logits, before, state = advance(
            state, outcome, script.observations[index], active
        )
        watch(before, state, active)
        for row in np.flatnonzero(active):
            found[row].append(np.asarray(logits)[row])
        # What rows that do not act report is to be ignored: the worst of it.
        outcome = (
            script.actions[index],
            script.rewards[index] + 100 * ~active,
            script.ends[index] | ~active,
            active,
        )
        done += active
        turn += 1
    assert read or turn > TOTALS.max()
    return found


@functools.cache
def at_once(agent, spaces):
    """The same logits from whole sequences, on one device."""
    model, _ = build(agent, spaces, 1)
    script = Script(spaces)
    chains = [
        (row, chain)
        for row in range(ROWS)
        for chain in script.chains(row, agent.trials_in_context)
    ]
    length = int(TOTALS.max()) * agent.tokens.tokens_per_step
    batch = pack(chains, ROWS, length, agent.tokens, spaces)
    slides = agent.when_full == "slide"
    window = agent.context_steps * agent.tokens.tokens_per_step if slides else None

    @jax.jit
    def run(tokens):
        mask = Mask.self_attention(tokens.positions, tokens.segments, window=window)
        return model.logits(model.trunk(model.embedding(tokens), mask))

    logits = np.asarray(run(batch.tokens))
    return [logits[row][batch.weight[row] > 0] for row in range(ROWS)]


def assert_equal_to_at_once(agent, spaces, devices, watch=lambda *states: None):
    found = drive(agent, spaces, devices, Script(spaces), watch)
    expected = at_once(agent, spaces)
    for row in range(ROWS):
        assert len(found[row]) == len(expected[row]) == TOTALS[row]
        # f32 sums in another order; logits are of size 1.
        np.testing.assert_allclose(found[row], expected[row], rtol=0, atol=1e-5)
    return found


def assert_state_is_kept(before, after, active):
    """Rows that do not act keep every bit; the others fill their cache evenly."""
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(
            np.asarray(old)[~active], np.asarray(new)[~active], strict=True
        )
    fill = np.asarray(after.cache.fill)
    assert (fill.max(axis=1) - fill.min(axis=1) <= 1).all()
    written = (np.asarray(after.cache.segments) >= 0).sum(axis=1)
    np.testing.assert_array_equal(written, fill.sum(axis=1))
    added = fill.sum(axis=1) - np.asarray(before.cache.fill).sum(axis=1)
    assert (added[active] > 0).all()


@pytest.mark.parametrize(
    ("spaces", "layout", "devices"),
    [
        pytest.param(DISCRETE, "fused", 4, id="discrete-fused-4"),
        pytest.param(CONTINUOUS, "interleaved", 4, id="box-interleaved-4"),
        pytest.param(DISCRETE, "interleaved", 1, id="discrete-interleaved-1"),
        pytest.param(CONTINUOUS, "fused", 1, id="box-fused-1"),
        # The other half of the combinations.
        pytest.param(DISCRETE, "fused", 1, id="discrete-fused-1", marks=SLOW),
        pytest.param(CONTINUOUS, "interleaved", 1, id="box-interleaved-1", marks=SLOW),
        pytest.param(
            DISCRETE, "interleaved", 4, id="discrete-interleaved-4", marks=SLOW
        ),
        pytest.param(CONTINUOUS, "fused", 4, id="box-fused-4", marks=SLOW),
    ],
)
def test_three_trials_act_as_they_would_be_read(spaces, layout, devices):
    agent = AgenticTransformer(trunk=TRUNK, tokens=TokenConfig(layout=layout), bins=5)
    found = assert_equal_to_at_once(agent, spaces, devices, assert_state_is_kept)
    # The test can fail: other rewards in an earlier trial are another prediction.
    script = Script(spaces)
    script.rewards[0, 0] += 1
    other = drive(agent, spaces, devices, script)
    np.testing.assert_array_equal(other[0][0], found[0][0])
    assert np.abs(np.array(other[0][2:]) - np.array(found[0][2:])).max(1).min() > 1e-4


def test_a_context_is_cleared_after_its_trials():
    agent = AgenticTransformer(trunk=TRUNK, trials_in_context=2)
    assert_equal_to_at_once(agent, DISCRETE, 4)


@pytest.mark.parametrize(("layout", "devices"), [("fused", 4), ("interleaved", 1)])
def test_a_context_that_slides_acts_on_its_last_steps(layout, devices):
    agent = AgenticTransformer(
        trunk=TRUNK, tokens=TokenConfig(layout), context_steps=2, when_full="slide"
    )
    assert_equal_to_at_once(agent, DISCRETE, devices)
    assert_reading_is_acting(agent, DISCRETE, devices, read=(2, 0, 1))
    whole = at_once(dataclasses.replace(agent, when_full="error"), DISCRETE)
    apart = [
        np.abs(a - b).max(axis=1)
        for a, b in zip(at_once(agent, DISCRETE), whole, strict=True)
    ]
    assert all((row[:2] < 1e-5).all() and (row[2:] > 1e-4).all() for row in apart)


@pytest.mark.smoke
@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_decision_transformer_begins_each_trial_afresh(layout):
    fields = ("target_return", "observation", "action")
    agent = DecisionTransformer(trunk=TRUNK, tokens=TokenConfig(layout, fields))
    assert_equal_to_at_once(agent, CONTINUOUS, 4)
    script = Script(CONTINUOUS)
    found = drive(agent, CONTINUOUS, 4, script)
    # Everything of the first trials changed; the later ones are the same bit by bit.
    for row, length in enumerate(LENGTHS[:, 0]):
        script.observations[row, :length] += 1
        script.actions[row, :length] *= -0.5
    other = drive(agent, CONTINUOUS, 4, script)
    for row, length in enumerate(LENGTHS[:, 0]):
        assert (np.array(other[row][:length]) != found[row][:length]).any(1).all()
        np.testing.assert_array_equal(other[row][length:], found[row][length:])


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_behaviour_cloning_begins_each_step_afresh(layout):
    tokens = TokenConfig(layout, ("observation",), "step")
    agent = BehaviorCloning(trunk=TRUNK, tokens=tokens)
    script = Script(DISCRETE)
    script.observations[:] = script.observations[:1, :1]
    found = drive(agent, DISCRETE, 4, script)
    assert_equal_to_at_once(agent, DISCRETE, 4)
    # The same observation at the same time step: the same logits, whatever was before.
    for row, lengths in enumerate(LENGTHS):
        starts = np.cumsum(lengths)[:-1]
        for start in starts:
            np.testing.assert_array_equal(found[row][start], found[0][0])
    model, _ = build(agent, DISCRETE, 4)
    state = agent.start(model, jnp.asarray(TOLD), trials=9, steps=1000)
    assert state.cache.segments.shape == (ROWS, 4)


def assert_reading_is_acting(agent, spaces, devices, read):
    """To the last field of the state, and in all that follows."""
    script = Script(spaces)
    found = drive(agent, spaces, devices, script, read=read)
    acted = at_once(agent, spaces)
    for row, trials in enumerate(read):
        begun = LENGTHS[row, :trials].sum()
        assert len(found[row]) == TOTALS[row] - begun
        np.testing.assert_allclose(found[row], acted[row][begun:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("spaces", "layout", "devices"),
    [
        pytest.param(DISCRETE, "interleaved", 4, id="discrete-interleaved-4"),
        pytest.param(CONTINUOUS, "fused", 4, id="box-fused-4"),
        pytest.param(DISCRETE, "fused", 1, id="discrete-fused-1", marks=SLOW),
        pytest.param(CONTINUOUS, "interleaved", 8, id="box-interleaved-8", marks=SLOW),
    ],
)
def test_trials_that_are_read_are_as_if_acted(spaces, layout, devices):
    agent = AgenticTransformer(trunk=TRUNK, tokens=TokenConfig(layout=layout), bins=5)
    assert_reading_is_acting(agent, spaces, devices, read=(2, 0, 1))


def test_trials_that_are_read_are_cleared_as_if_acted():
    agent = AgenticTransformer(trunk=TRUNK, trials_in_context=2)
    assert_reading_is_acting(agent, DISCRETE, 4, read=(1, 2, 0))
    fields = ("target_return", "observation", "action")
    agent = DecisionTransformer(trunk=TRUNK, tokens=TokenConfig("interleaved", fields))
    assert_reading_is_acting(agent, CONTINUOUS, 4, read=(1, 2, 0))
    tokens = TokenConfig("fused", ("observation",), "step")
    agent = BehaviorCloning(trunk=TRUNK, tokens=tokens)
    assert_reading_is_acting(agent, DISCRETE, 4, read=(1, 2, 0))


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_the_state_after_reading_is_the_state_after_acting(layout):
    agent = AgenticTransformer(trunk=TRUNK, tokens=TokenConfig(layout=layout))
    script, every = Script(DISCRETE), np.ones(ROWS, bool)
    model, advance = build(agent, DISCRETE, 1)

    def start():
        return agent.start(model, jnp.asarray(TOLD), trials=TRIALS, steps=5)

    acted, row = start(), 0
    nothing = np.zeros(ROWS, bool)
    outcome = (np.asarray(acted.action), np.zeros(ROWS, np.float32), nothing, nothing)
    steps = LENGTHS[row, :2].sum()
    for step in range(steps):
        seen = np.tile(script.observations[row, step], (ROWS, 1))
        _, _, acted = advance(acted, outcome, seen, every)
        outcome = (
            np.full(ROWS, script.actions[row, step]),
            np.full(ROWS, script.rewards[row, step]),
            np.full(ROWS, script.ends[row, step]),
            every,
        )
    acted = agent.observe(acted, *map(jnp.asarray, outcome))
    read = agent.prefill(model, start(), list(script.first_trials((2, 0, 0)))[:1] * 3)
    for name in acted._fields[1:]:
        old, new = getattr(acted, name), getattr(read, name)
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        # A sum of rewards in another order of rounding.
        np.testing.assert_array_equal(old[row], new[row], err_msg=name)
    np.testing.assert_array_equal(acted.cache.fill, read.cache.fill)


def test_chains_that_cannot_be_read():
    agent = AgenticTransformer(trunk=TRUNK)
    model, _ = build(agent, DISCRETE, 1)
    chains = list(Script(DISCRETE).first_trials((3, 1, 1)))
    state = agent.start(model, jnp.asarray(TOLD), trials=1, steps=5)
    with pytest.raises(ValueError, match="expected 3 chains, one a row, found 2"):
        agent.prefill(model, state, chains[:2])
    with pytest.raises(ValueError, match="at most 5 steps.* found 6 for row 0"):
        agent.prefill(model, state, chains)


@pytest.mark.parametrize("steps", [24, 60, 900])
def test_a_target_is_reached_to_the_rounding_of_its_sum(steps):
    agent = AgenticTransformer(trunk=TRUNK)
    model, _ = build(agent, DISCRETE, 1)
    # Rewards that f32 sums do not add up exactly; told by training's f64 sum.
    total = float(np.float64(np.float32(0.1)) * steps)
    told = jnp.array([total, total * 1.001], jnp.float32)
    state = agent.start(model, told, trials=1, steps=steps)
    observe = jax.jit(agent.observe)
    every, nothing = jnp.ones(2, bool), jnp.zeros(2, bool)
    for step in range(steps):
        ended = every if step == steps - 1 else nothing
        rewards = jnp.full(2, 0.1, jnp.float32)
        state = observe(state, state.action, rewards, ended, every)
        assert step == steps - 1 or not state.completion.any()
    assert state.completion.tolist() == [1, 0]
