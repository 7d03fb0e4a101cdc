"""Attention weights, against a dense forward pass that is written out here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ring_rl.agents import AgenticTransformer, BehaviorCloning, DecisionTransformer
from ring_rl.agents.looking import attention_weights, look
from ring_rl.agents.reading import as_told, read_tokens
from ring_rl.attention import Mask
from ring_rl.data.tokens import TokenConfig, pack
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.nn.trunk import TrunkConfig
from ring_rl.types import Chain, Continuous, Scaling, Spaces

SPACES = Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
TRUNK = TrunkConfig(layers=2, width=16, heads=4, kv_heads=2)
LENGTHS = (4, 2, 5)
TOLD = 2.0


def make_chain():
    random, steps = np.random.default_rng(0), sum(LENGTHS)
    zeros = np.zeros(steps, np.float32)
    return Chain(
        observations=random.normal(size=(steps, 3)).astype(np.float32),
        actions=random.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=random.normal(size=steps).astype(np.float32),
        target_returns=zeros,
        completions=zeros,
        timesteps=np.concatenate([np.arange(n) for n in LENGTHS]).astype(np.int32),
        weights=zeros,
    )


def build(agent, data=1, sequence=1):
    devices = jax.devices()[: data * sequence]
    mesh = make_mesh(MeshConfig(data=data, sequence=sequence), devices)
    scaling = Scaling((0.0,) * 3, (1.0,) * 3, 1.0, 1.0)
    model = agent.build(SPACES, scaling, ShardingRules(mesh), seed=0)
    for block in model.trunk.blocks:
        # Sharper than at the start of training, where all weights are nearly equal.
        block.queries.kernel[...] = block.queries.kernel[...] * 4
    return model


def norm(x, module):
    root = np.sqrt((x**2).mean(-1, keepdims=True) + module.epsilon)
    return x / root * np.asarray(module.scale[...], np.float64)


def linear(x, module):
    return x @ np.asarray(module.kernel[...], np.float64)


def turn(x, heads):
    """Rotary embedding of `[S D]` at positions 0, 1, ...; `[S heads H]`."""
    x = x.reshape(len(x), heads, -1)
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * 10_000.0 ** (-np.arange(half) / half)
    complex_x = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([complex_x.real, complex_x.imag], axis=-1)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(model, agent, chain):
    """All weights `[L N S S]` of one chain, in NumPy and f64."""
    length = len(chain.rewards) * agent.tokens.tokens_per_step
    tokens = pack([(0, chain)], 1, length, agent.tokens, SPACES).tokens
    embedded = model.embedding(jax.tree.map(jnp.asarray, tokens))
    x, found = np.asarray(embedded, np.float64)[0], []
    N, K = model.config.heads, model.config.kv_heads
    for block in model.trunk.blocks:
        y = norm(x, block.attention_norm)
        q, k = turn(linear(y, block.queries), N), turn(linear(y, block.keys), K)
        v = linear(y, block.values).reshape(length, K, -1)
        k, v = (np.repeat(array, N // K, axis=1) for array in (k, v))
        scores = np.einsum("tnh,snh->nts", q, k) / np.sqrt(q.shape[-1])
        scores[:, ~np.tri(length, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found.append(weights)
        attended = np.einsum("nts,snh->tnh", weights, v).reshape(length, -1)
        x = x + linear(attended, block.output)
        scale, up, down = block.feed_forward
        x = x + linear(gelu(linear(norm(x, scale), up)), down)
    return np.stack(found)


@pytest.mark.parametrize(
    ("layout", "mesh"),
    [("fused", (1, 1)), ("interleaved", (2, 2))],
)
def test_masses_are_those_of_a_dense_pass(layout, mesh):
    agent = AgenticTransformer(trunk=TRUNK, tokens=TokenConfig(layout=layout))
    model, chain = build(agent, *mesh), make_chain()
    queries = (10, 0, 6)
    found = look(agent, model, chain, told=TOLD, queries=queries)
    assert found.masses.shape == (3, 2, 4, 11)
    np.testing.assert_allclose(found.masses.sum(-1), 1, atol=1e-6)
    stride = agent.tokens.tokens_per_step
    weights = dense(model, agent, as_told(chain, TOLD))
    rows = np.array(queries) * stride + (1 if layout == "interleaved" else 0)
    expected = weights[:, :, rows].reshape(2, 4, 3, 11, stride).sum(-1)
    np.testing.assert_allclose(found.masses, np.moveaxis(expected, 2, 0), atol=1e-5)
    # Not what no attention at all would give.
    assert found.masses[0].max() > 0.3
    trials = found.by_trial()
    np.testing.assert_allclose(trials[0, ..., 1], found.masses[0, ..., 4:6].sum(-1))
    assert trials.shape == (3, 2, 4, 3)


def test_weights_make_the_output_of_attention():
    agent = AgenticTransformer(trunk=TRUNK)
    model = build(agent)
    chain = as_told(make_chain(), TOLD)
    tokens = read_tokens([chain], agent.tokens, SPACES, model.rules)
    mask = Mask.self_attention(tokens.positions, tokens.segments)

    @jax.jit
    def run(tokens):
        x, found = model.embedded(tokens), []
        for block in model.trunk.blocks:
            q, k, v = block.project(x, tokens.positions)
            made = (attention_weights(q, k, mask), v, block.attend(q, k, v, mask))
            found.append(made)
            x = block(x, mask)
        return found

    known = np.asarray(tokens.segments)[0] >= 0
    for weights, v, output in jax.tree.map(np.asarray, run(tokens)):
        made = np.einsum(
            "bnts,bsnh->btnh", weights[..., known], np.repeat(v[:, known], 2, axis=2)
        )
        np.testing.assert_allclose(made[:, known], output[:, known], atol=1e-5)


def test_a_look_is_at_what_the_context_holds():
    queries = (1, 5, 10)
    alone = DecisionTransformer(trunk=TRUNK)
    chain = make_chain()
    found = look(alone, build(alone), chain, told=TOLD, queries=queries)
    for masses, trial in zip(found.by_trial(), (0, 1, 2), strict=True):
        np.testing.assert_allclose(masses[..., trial], 1, atol=1e-6)
    sliding = AgenticTransformer(trunk=TRUNK, context_steps=3, when_full="slide")
    masses = look(sliding, build(sliding), chain, told=TOLD, queries=queries).masses
    np.testing.assert_allclose(masses[2, ..., 8:].sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(masses[1, ..., 3:6].sum(-1), 1, atol=1e-6)
    assert np.flatnonzero(found.seen[1]).tolist() == [4, 5]
    cloning = BehaviorCloning(trunk=TRUNK)
    masses = look(cloning, build(cloning), chain, told=TOLD, queries=queries).masses
    np.testing.assert_allclose(masses[[0, 1, 2], :, :, queries], 1, atol=1e-6)
    with pytest.raises(ValueError, match="from 0 to 10, got 11"):
        look(alone, build(alone), chain, told=TOLD, queries=[11])


def test_a_look_at_sorted_trials_is_at_the_sorted_chain():
    chain, agent = make_chain(), AgenticTransformer(trunk=TRUNK)
    model = build(agent)
    # Of trials of 4, 2 and 5 steps, the second earns less than the first.
    rewards = np.repeat(np.float32([1, 0.5, 0]), (4, 2, 5))
    chain = chain._replace(rewards=rewards)
    order = np.array([4, 5, 0, 1, 2, 3, 6, 7, 8, 9, 10])
    turned = Chain(*(field[order] for field in chain))
    sorts = dataclasses.replace(agent, recall="ascending")
    found = look(sorts, model, chain, told=TOLD, queries=(10, 5, 7))
    expected = look(agent, model, turned, told=TOLD, queries=(10, 7)).masses
    np.testing.assert_allclose(found.masses[[0, 2]][..., order], expected, atol=1e-6)
    # In the second trial there is nothing to sort yet.
    expected = look(agent, model, chain, told=TOLD, queries=(5,))
    np.testing.assert_allclose(found.masses[1], expected.masses[0], atol=1e-6)
    np.testing.assert_array_equal(found.seen[1], expected.seen[0])
    played = look(agent, model, chain, told=TOLD, queries=(10,)).masses
    assert np.abs(found.masses[0] - played[0]).max() > 1e-3
