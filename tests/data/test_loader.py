import jax
import numpy as np
import pytest

from ring_rl.attention import permutation
from ring_rl.data.chains import ChainConfig, draw_members
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.data.rows import Row
from ring_rl.data.tokens import TokenConfig, fill
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh
from ring_rl.types import Discrete, Spaces

SPACES = Spaces(2, Discrete(4))
LENGTHS = (3, 5, 2, 4, 6, 1, 4, 3, 5, 2)


@pytest.fixture(scope="module")
def store(make_episode) -> EpisodeStore:
    """Two tasks; an observation is (episode, step)."""
    episodes = []
    for index, steps in enumerate(LENGTHS):
        random = np.random.default_rng(index)
        observations = np.stack([np.full(steps, index), np.arange(steps)], 1)
        episode = make_episode(
            steps,
            seed=index,
            spaces=SPACES,
            observations=observations.astype(np.float32),
            rewards=random.integers(-2, 3, steps).astype(np.float32),
            task="ab"[index % 2],
            extras={},
        )
        episodes.append(episode)
    return EpisodeStore.from_episodes(episodes, SPACES)


def make_loader(store, *, seed=0, rows=3, row_steps=17, tokens=None, **chains):
    return ChainLoader(
        store,
        LoaderConfig(rows=rows, row_steps=row_steps),
        ChainConfig(**{"trajectories": 3, **chains}),
        tokens or TokenConfig(),
        seed=seed,
    )


def make_rules(devices):
    mesh = make_mesh(MeshConfig(sequence=devices), jax.devices()[:devices])
    return ShardingRules(mesh)


def assert_same(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), one,
                 other)  # fmt: skip


def segments_of(batch, row):
    """The observations and target returns of each chain in a row of fused tokens."""
    ids = batch.tokens.segments[row]
    for segment in range(ids.max() + 1):
        chosen = ids == segment
        yield (
            batch.tokens.observation[row, chosen].astype(int),
            batch.tokens.target_return[row, chosen],
        )


def test_a_batch_is_a_function_of_seed_and_step(store):
    one, other = make_loader(store), make_loader(store)
    later = one.batch(7)
    one.batch(3)
    assert_same(one.batch(7), later)
    assert_same(other.batch(7), later)
    observations = later.tokens.observation
    assert not np.array_equal(one.batch(8).tokens.observation, observations)
    different = make_loader(store, seed=1).batch(7).tokens.observation
    assert not np.array_equal(different, observations)


def test_the_episodes_of_a_batch_are_known_without_making_it(store):
    # Ids that are not positions in the store.
    stores = [store, store.select([4, 7, 8, 9])]
    for step in range(5):
        one = make_loader(store)
        (found,) = one.episode_ids(step)
        batch = one.batch(step)
        seen = batch.tokens.observation[batch.tokens.segments >= 0][:, 0]
        np.testing.assert_array_equal(
            found, store.episode_ids[np.unique(seen.astype(int))]
        )
        both = make_loader(stores)
        plan = np.concatenate([row.members.store for row in both.plan(step)])
        ids = both.episode_ids(step)
        assert [len(one) > 0 for one in ids] == [0 in plan, 1 in plan]
        assert set(ids[1]) <= set(stores[1].episode_ids)
        batch = both.batch(step)
        seen = batch.tokens.observation[batch.tokens.segments >= 0][:, 0]
        assert set(np.concatenate(ids)) == set(
            store.episode_ids[np.unique(seen.astype(int))]
        )


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("form", ["fused", "interleaved"])
def test_the_stream_is_the_same_on_any_devices(store, layout, devices, form):
    loader = make_loader(store, tokens=TokenConfig(layout=form))
    rules = make_rules(devices)
    found = list(loader.stream(4, 6, layout=layout, rules=rules))
    assert len(found) == 2
    for step, batch in zip((4, 5), found, strict=True):
        length = batch.weight.shape[1]
        assert length % (2 * devices) == 0 and length - loader.length < 2 * devices
        assert batch.weight.sharding.is_equivalent_to(rules.sharding(rules.tokens), 2)
        undo = np.argsort(permutation(layout, length, devices))
        natural = jax.tree.map(lambda x: np.asarray(x)[:, undo], batch)  # noqa: B023
        assert_same(jax.tree.map(lambda x: x[:, : loader.length], natural),
                    loader.batch(step))  # fmt: skip
        padding = jax.tree.map(lambda x: x[:, loader.length :], natural)
        assert (padding.tokens.segments == -1).all()
        assert not padding.weight.any() and not padding.tokens.present.any()


def test_rows_are_shared_out_over_the_data_axis(store):
    mesh = make_mesh(MeshConfig(data=2, sequence=2), jax.devices()[:4])
    loader = make_loader(store, rows=4)
    (batch,) = loader.stream(0, 1, layout="contiguous", rules=ShardingRules(mesh))
    assert batch.weight.addressable_shards[0].data.shape == (2, 10)
    natural = jax.tree.map(lambda x: np.asarray(x)[:, : loader.length], batch)
    assert_same(natural, loader.batch(0))


def test_a_stream_continues_from_any_step(store):
    loader, rules = make_loader(store), make_rules(2)
    whole = list(loader.stream(0, 6, layout="zigzag", rules=rules))
    rest = list(make_loader(store).stream(4, 6, layout="zigzag", rules=rules))
    for one, other in zip(whole[4:], rest, strict=True):
        assert_same(jax.tree.map(np.asarray, one), jax.tree.map(np.asarray, other))


@pytest.mark.parametrize("row_steps", [0, 6, 9, 17])
def test_rows_hold_whole_chains_of_one_task_only(store, row_steps):
    loader = make_loader(store, row_steps=row_steps)
    seen = set()
    for step in range(20):
        batch = loader.batch(step)
        for row in range(3):
            for observations, _ in segments_of(batch, row):
                episodes = list(dict.fromkeys(observations[:, 0].tolist()))
                whole = [(e, s) for e in episodes for s in range(LENGTHS[e])]
                assert observations.tolist() == [list(pair) for pair in whole]
                assert len({episode % 2 for episode in episodes}) == 1
                assert 1 <= len(episodes) <= 3
                returns = store.returns[episodes]
                assert (np.diff(returns) >= 0).all()
                seen.update(episodes)
    assert seen == set(range(len(LENGTHS)))


def test_a_chain_that_does_not_fit_keeps_its_best_members(store):
    loader = make_loader(store, row_steps=8, trajectories=5)
    shortened = 0
    for step in range(40):
        random = np.random.default_rng((loader.seed, step))
        drawn = draw_members(loader.groups[0], loader.chains, random)
        kept, room = [], 8
        for member in drawn[np.argsort(-store.returns[drawn], kind="stable")]:
            room -= LENGTHS[member]
            if room < 0:
                break
            kept.append(int(member))
        shortened += len(kept) < len(drawn)
        observations, targets = next(segments_of(loader.batch(step), 0))
        assert set(observations[:, 0].tolist()) == set(kept)
        starts = observations[:, 1] == 0
        assert (targets[starts] == store.returns[kept].max()).all()
    assert shortened > 10


def test_room_is_made_for_the_longest_chain(store):
    loader = make_loader(store, row_steps=0)
    assert loader.row_steps == 3 * max(LENGTHS) and loader.length == 18
    tokens = TokenConfig(layout="interleaved")
    assert make_loader(store, row_steps=0, tokens=tokens).length == 18 * 5


def test_a_row_too_short_for_an_episode_is_refused(store):
    message = "row_steps must hold the longest episode of 6 steps, found 5"
    with pytest.raises(ValueError, match=message):
        make_loader(store, row_steps=5)


def test_only_the_best_share_is_drawn(store):
    loader = make_loader(store, best=0.2)
    seen = {
        int(observation[0])
        for step in range(10)
        for row in range(3)
        for observations, _ in segments_of(loader.batch(step), row)
        for observation in observations
    }
    best = {int(group[np.argmax(store.returns[group])]) for group in
            store.by_task().values()}  # fmt: skip
    assert seen == best


def test_datasets_are_mixed_by_weight(store, make_episode):
    episodes = [
        make_episode(3, seed=seed, spaces=SPACES, extras={}, task="c",
                     observations=np.full((3, 2), 100 + seed, np.float32))
        for seed in range(4)
    ]  # fmt: skip
    other = EpisodeStore.from_episodes(episodes, SPACES)
    loader = ChainLoader(
        [store, other],
        LoaderConfig(rows=3, row_steps=17),
        ChainConfig(trajectories=3),
        TokenConfig(),
        seed=0,
        weights=(1.0, 3.0),
    )
    of_other = total = 0
    for step in range(150):
        for row in loader.plan(step):
            sources = row.members.store[np.diff(row.members.chain, prepend=-1) > 0]
            of_other, total = of_other + int(sources.sum()), total + len(sources)
        batch = loader.batch(step)
        for row in range(3):
            for observations, targets in segments_of(batch, row):
                # A chain is of one dataset, told its own largest return.
                source = other if observations[0, 0] >= 100 else store
                returns = source.returns[observations[:, 0] % 100]
                assert len({value >= 100 for value in observations[:, 0]}) == 1
                first = np.flatnonzero(np.diff(observations[:, 0], prepend=-1))
                np.testing.assert_allclose(targets[first], returns.max(), rtol=1e-6)
    # Short chains fit where long ones do not, so a little more than three quarters.
    assert 0.72 < of_other / total < 0.9


@pytest.mark.parametrize(
    ("weights", "message"),
    [((1.0,), "a weight above 0 for each of 2"), ((1.0, 0.0), "a weight above 0")],
)
def test_wrong_weights_are_refused(store, weights, message):
    with pytest.raises(ValueError, match=message):
        ChainLoader(
            [store, store], LoaderConfig(), ChainConfig(), TokenConfig(), seed=0,
            weights=weights,
        )  # fmt: skip


def test_datasets_of_other_spaces_are_refused(store, make_episode, spaces):
    other = EpisodeStore.from_episodes([make_episode(3)], spaces)
    with pytest.raises(ValueError, match="datasets of the same spaces"):
        ChainLoader(
            [store, other], LoaderConfig(), ChainConfig(), TokenConfig(), seed=0
        )


@pytest.mark.parametrize("form", ["fused", "interleaved"])
def test_crops_fit_short_rows(store, form):
    tokens = TokenConfig(layout=form)
    loader = make_loader(store, row_steps=4, crop_steps=2, tokens=tokens)
    for step in range(10):
        for row in loader.plan(step):
            assert (row.members.steps <= 2).all() and row.steps <= 4
    assert make_loader(store, row_steps=0, crop_steps=2).row_steps == 3 * 2


def test_a_shard_reads_the_steps_of_its_own_tokens_only(store, monkeypatch):
    loader = make_loader(store, rows=1)
    (row,) = loader.plan(0)
    read = []
    locate = Row.locate
    monkeypatch.setattr(
        Row, "locate", lambda self, steps: read.append(steps) or locate(self, steps)
    )
    part = fill([row], [range(3, 6)], loader.tokens, SPACES)
    steps = set(np.concatenate(read).tolist())
    # And the step before, of which a fused token shows what came.
    assert {3, 4, 5} <= steps <= {2, 3, 4, 5}
    whole = loader.batch(0)
    assert_same(part, jax.tree.map(lambda x: x[:, 3:6], whole))
