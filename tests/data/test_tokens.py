import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_rl.data.tokens import FIELDS, TokenConfig, pack
from ring_rl.types import Chain, Continuous, Discrete, Spaces

CONTINUOUS = Spaces(3, Continuous((-1.0, -1.0), (1.0, 1.0)))
DISCRETE = Spaces(3, Discrete(5))
KNOWN = ("target_return", "observation")
NAMES = {
    "target_return": "target_returns",
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "completion": "completions",
}


def make_chain(lengths, spaces, seed=0):
    """A chain of episodes of these lengths, no value of which is 0."""
    random = np.random.default_rng(seed)
    steps = sum(lengths)

    def numbers(*shape):
        return random.uniform(1, 2, shape).astype(np.float32)

    if isinstance(spaces.action, Discrete):
        actions = random.integers(1, 5, steps, dtype=np.int32)
    else:
        actions = numbers(steps, 2)
    return Chain(
        numbers(steps, 3), actions, numbers(steps), numbers(steps), numbers(steps),
        np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        numbers(steps),
    )  # fmt: skip


def slow_tokens(chain, config):
    """The tokens of a chain, one dictionary each, in the words of DESIGN.md."""
    tokens = []
    for step in range(len(chain.rewards)):
        value = {field: getattr(chain, NAMES[field])[step] for field in FIELDS}
        common = {"timestep": chain.timesteps[step], "step": step}
        if config.layout == "fused":
            shown = {f: value[f] for f in KNOWN if f in config.fields}
            if step > 0:
                for field in ("action", "reward", "completion"):
                    if field in config.fields:
                        shown[field] = getattr(chain, NAMES[field])[step - 1]
            tokens.append({**common, "shown": shown, "acting": True})
        else:
            for field in config.fields:
                acting = field == "observation"
                shown = {field: value[field]}
                tokens.append({**common, "shown": shown, "acting": acting})
    return tokens


def check_rows(batch, rows, config):
    """Compares a batch with the slow tokens of `rows`, each a list of chains."""
    for row, chains in enumerate(rows):
        place = segment = 0
        for chain in chains:
            slow = slow_tokens(chain, config)
            for position, token in enumerate(slow):
                step = token["step"]
                at = jax.tree.map(lambda x: x[row, place], batch)  # noqa: B023
                for index, field in enumerate(FIELDS):
                    assert at.tokens.present[index] == (field in token["shown"])
                    expected = token["shown"].get(field, 0)
                    np.testing.assert_array_equal(getattr(at.tokens, field), expected)
                assert at.tokens.timestep == token["timestep"]
                stride = config.tokens_per_step
                if config.memory == "chain":
                    assert (at.tokens.positions, at.tokens.segments) == (
                        position,
                        segment,
                    )
                else:
                    assert at.tokens.positions == position % stride
                    assert at.tokens.segments == segment + step
                acting = token["acting"]
                assert at.weight == (chain.weights[step] if acting else 0)
                label = chain.actions[step] if acting else 0
                np.testing.assert_array_equal(at.label, label)
                place += 1
            segment += 1 if config.memory == "chain" else len(chain.rewards)
        rest = jax.tree.map(lambda x: x[row, place:], batch)  # noqa: B023
        assert (rest.tokens.segments == -1).all()
        blank = rest._replace(tokens=rest.tokens._replace(segments=0))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(blank))


some_fields = st.lists(st.sampled_from(FIELDS), unique=True).map(
    lambda some: tuple(f for f in FIELDS if f in some or f == "observation")
)


@given(
    layout=st.sampled_from(["fused", "interleaved"]),
    fields=st.one_of(st.just(FIELDS), some_fields),
    discrete=st.booleans(),
    rows=st.lists(
        st.lists(
            st.lists(st.integers(1, 3), min_size=1, max_size=3),
            min_size=0,
            max_size=2,
        ),
        min_size=1,
        max_size=2,
    ),
)
@settings(max_examples=60, deadline=None)
def test_tokens_are_those_of_the_obvious_reference(layout, fields, discrete, rows):
    spaces = DISCRETE if discrete else CONTINUOUS
    config = TokenConfig(layout=layout, fields=fields)
    rows = [
        [make_chain(lengths, spaces, seed) for seed, lengths in enumerate(row)]
        for row in rows
    ]
    chains = [(row, chain) for row, chains in enumerate(rows) for chain in chains]
    length = 20 * config.tokens_per_step
    batch = pack(chains, len(rows), length, config, spaces)
    check_rows(batch, rows, config)


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_with_memory_of_a_step_each_step_is_alone(layout):
    config = TokenConfig(layout=layout, fields=KNOWN, memory="step")
    rows = [[make_chain([2, 1], CONTINUOUS), make_chain([2], CONTINUOUS, 1)]]
    batch = pack([(0, chain) for chain in rows[0]], 1, 12, config, CONTINUOUS)
    check_rows(batch, rows, config)
    used = batch.tokens.segments[0, : 5 * config.tokens_per_step]
    np.testing.assert_array_equal(used, np.repeat(np.arange(5), config.tokens_per_step))


def test_fused_previous_fields_cross_the_ends_of_episodes_within_a_chain_only():
    first = make_chain([2, 3], CONTINUOUS)
    second = make_chain([2], CONTINUOUS, seed=1)
    batch = pack([(0, first), (0, second)], 1, 8, TokenConfig(), CONTINUOUS)
    tokens = jax.tree.map(lambda x: x[0], batch.tokens)
    # Token 2 is the first step of the second episode.
    assert tokens.timestep[2] == 0 and tokens.present[2].all()
    assert tokens.reward[2] == first.rewards[1]
    assert tokens.completion[2] == first.completions[1]
    np.testing.assert_array_equal(tokens.action[2], first.actions[1])
    for start in (0, 5):
        assert tokens.present[start].tolist() == [True, True, False, False, False]
        assert tokens.reward[start] == tokens.completion[start] == 0
        assert not tokens.action[start].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fields": ("action", "observation")}, "in that order"),
        ({"fields": ("target_return", "action")}, "observation among them"),
        ({"fields": ("observation", "velocity")}, "found observation, velocity"),
        ({"fields": ("observation", "observation")}, "in that order"),
        ({"memory": "step"}, "with memory 'step' the fields can only be"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TokenConfig(**wrong)


def test_tokens_per_step():
    assert TokenConfig().tokens_per_step == 1
    assert TokenConfig(layout="interleaved").tokens_per_step == 5
    dt = TokenConfig(layout="interleaved", fields=(*KNOWN, "action"))
    assert dt.tokens_per_step == 3
