"""No action prediction may depend on its own action, or on anything after it.

Gradients where fields are numbers; exact equality of logits where they are not.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer
from ring_rl.data.chains import make_chain
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.tokens import FIELDS, TokenConfig, pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Continuous, Discrete, Episode, Scaling, Spaces

CONTINUOUS = Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
DISCRETE = Spaces(3, Discrete(4))
SCALING = Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
LENGTHS = (3, 2, 3)
STEPS = sum(LENGTHS)
RULES = ShardingRules(make_mesh(MeshConfig(sequence=2), jax.devices()[:2]))
LAYOUTS = ("fused", "interleaved")


@functools.cache
def make_model(layout, spaces):
    agent = AgenticTransformer(
        trunk=TrunkConfig(layers=2, width=16, heads=2),
        tokens=TokenConfig(layout=layout),
        bins=5,
    )
    return agent.tokens, agent.build(spaces, SCALING, RULES, seed=0)


@functools.cache
def predictor(layout, spaces):
    """Compiled logits at the acting tokens of a chain, `[steps outputs]`."""
    config, model = make_model(layout, spaces)
    forward = jax.jit(lambda tokens: model(tokens))

    def predict(chain):
        length = STEPS * config.tokens_per_step
        batch = pack([(0, chain)], 1, length, config, spaces)
        logits = np.asarray(forward(batch.tokens))[0]
        return logits[batch.weight[0] > 0]

    return predict


def random_chain(spaces, seed=0):
    random = np.random.default_rng(seed)

    def numbers(*shape):
        return random.normal(size=shape).astype(np.float32)

    discrete = isinstance(spaces.action, Discrete)
    return Chain(
        numbers(STEPS, 3),
        random.integers(4, size=STEPS, dtype=np.int32)
        if discrete
        else random.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        numbers(STEPS), numbers(STEPS), numbers(STEPS),
        np.concatenate([np.arange(n, dtype=np.int32) for n in LENGTHS]),
        np.ones(STEPS, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_reach_back_only(layout):
    config, model = make_model(layout, CONTINUOUS)
    stride = config.tokens_per_step
    length = STEPS * stride
    batch = pack([(0, random_chain(CONTINUOUS))], 1, length, config, CONTINUOUS)
    acting = np.flatnonzero(batch.weight[0])
    tokens = jax.tree.map(jnp.asarray, batch.tokens)
    assert len(acting) == STEPS

    @jax.jit
    def predict(fields):
        logits = model(tokens._replace(**fields))
        # One number a prediction, which no symmetry of the logits makes flat.
        return (logits[0, acting] * jnp.arange(1.0, 11.0)[None]).sum(axis=1)

    fields = {name: getattr(tokens, name) for name in FIELDS}
    jacobian = jax.jacrev(predict)(fields)
    for name in FIELDS:
        # [predictions tokens], the components of a field taken together.
        found = np.abs(np.asarray(jacobian[name])[:, 0]).reshape(STEPS, length, -1)
        found = found.sum(axis=-1)
        for step in range(STEPS):
            token, before = source(layout, name, step, stride)
            if token >= length:
                continue  # the fused token after the last step is not in the chain
            for prediction in range(STEPS):
                value = found[prediction, token]
                if prediction < step or (prediction == step and not before):
                    assert value == 0, (name, step, prediction)
                else:
                    assert value > 0, (name, step, prediction)


def source(layout, field, step, stride):
    """The token that shows a step's field, and whether it is known before acting."""
    before = field in ("target_return", "observation")
    if layout == "fused":
        return (step if before else step + 1), before
    return step * stride + FIELDS.index(field), before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
def test_a_changed_step_changes_later_predictions_only(layout, spaces):
    predict, chain = predictor(layout, spaces), random_chain(spaces)
    logits = predict(chain)
    assert logits.shape[0] == STEPS
    for field in ("actions", "rewards", "completions", "target_returns",
                  "observations"):  # fmt: skip
        for step in range(STEPS):
            values = getattr(chain, field).copy()
            if field == "actions" and spaces is DISCRETE:
                values[step] = (values[step] + 1) % 4
            else:
                values[step] += 0.5
            changed = predict(chain._replace(**{field: values}))
            first = step + (field in ("actions", "rewards", "completions"))
            np.testing.assert_array_equal(changed[:first], logits[:first])
            differs = (changed[first:] != logits[first:]).any(axis=1)
            assert differs.all(), (field, step)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
def test_what_an_episode_did_later_does_not_change_what_is_predicted(layout, spaces):
    """Changed in the store: the whole path from episodes to logits."""
    chain = random_chain(spaces)
    rewards = np.array([1, 0, 0, 1, 1, 1, 2, 0], np.float32)
    starts = np.cumsum((0, *LENGTHS))
    predict = predictor(layout, spaces)

    def logits(actions, rewards):
        episodes = [
            Episode(
                observations=chain.observations[a:b],
                actions=actions[a:b],
                rewards=rewards[a:b],
                discounts=np.ones(b - a, np.float32),
                final_observation=np.zeros(3, np.float32),
                has_final_observation=False,
                terminated=True,
                truncated=False,
                task="only",
                episode_id=index,
                extras={},
            )
            for index, (a, b) in enumerate(zip(starts[:-1], starts[1:], strict=True))
        ]
        store = EpisodeStore.from_episodes(episodes, spaces)
        # Returns 1, 2, 3: the chain has the episodes in their order here.
        return predict(make_chain(store, np.arange(len(LENGTHS)), "all"))

    before = logits(chain.actions, rewards)
    for step in range(STEPS):
        actions = chain.actions.copy()
        if spaces is DISCRETE:
            actions[step] = (actions[step] + 1) % 4
        else:
            actions[step] *= -0.5
        after = logits(actions, rewards)
        np.testing.assert_array_equal(after[: step + 1], before[: step + 1])
        assert (after[step + 1 :] != before[step + 1 :]).any(axis=1).all()
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        for step in range(first, last - 1):
            moved = rewards.copy()
            moved[step] += 0.5  # earned a step earlier: the return is the same
            moved[step + 1] -= 0.5
            after = logits(chain.actions, moved)
            np.testing.assert_array_equal(after[: step + 1], before[: step + 1])
            assert (after[step + 1 :] != before[step + 1 :]).any(axis=1).all()
