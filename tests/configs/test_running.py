"""What a run says about its batches."""

import numpy as np

from ring_rl.configs.run import Collected, Dataset
from ring_rl.configs.running import _contents
from ring_rl.data.chains import ChainConfig
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.data.tokens import TokenConfig
from ring_rl.types import Discrete, Episode, Spaces

SPACES = Spaces(2, Discrete(3))


def make_store(ids):
    def episode(index):
        ones = np.ones(3, np.float32)
        return Episode(
            np.zeros((3, 2), np.float32), np.zeros(3, np.int32), ones, ones,
            np.zeros(2, np.float32), True, True, False, "only", index, {},
        )  # fmt: skip

    return EpisodeStore.from_episodes(map(episode, ids), SPACES)


def loader(*stores, rows=4):
    config, chains = LoaderConfig(rows=rows, row_steps=6), ChainConfig(trajectories=2)
    return ChainLoader(stores, config, chains, TokenConfig(), seed=0)


def test_the_episodes_of_a_batch_are_named():
    said = _contents(loader(make_store([7, 11])), Collected(), 3)
    assert said == "is made of the episodes 7, 11"
    data = Dataset(path=("one", "two"))
    two = loader(make_store([7, 11]), make_store([5, 6]), rows=16)
    said = _contents(two, data, 0)
    assert said == "is made of the episodes of one 7, 11; of two 5, 6"


def test_not_more_episodes_are_named_than_one_can_read():
    store = make_store(range(400))
    said = _contents(loader(store, rows=200), Dataset(path=("one",)), 0)
    (ids,) = loader(store, rows=200).episode_ids(0)
    assert said.endswith(f", {ids[99]} and {len(ids) - 100} more")
