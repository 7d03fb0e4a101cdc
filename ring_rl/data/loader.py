"""The stream of batches: a pure function of (seed, step), whatever the devices.

A batch is rows of equal length, packed with whole chains: chains are drawn one after
the other, each goes to the first row that has room for it, and the first that fits
nowhere ends the batch (it is left out, so a batch of few short rows has somewhat fewer
long chains than are drawn). Every process makes that plan, and the tokens that its own
devices hold, in layout order. So the chains of a batch do not depend on the number of
devices or processes, and a run resumes at any step by starting the stream there: its
whole state is the step.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Int64

from ring_rl.attention import Mask, choose_layout, held
from ring_rl.data.chains import (
    ChainConfig,
    crop,
    draw_members,
    group_episodes,
    in_hindsight,
)
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.rows import Members, Row
from ring_rl.data.tokens import TokenConfig, fill, order_tokens
from ring_rl.mesh import ShardingRules
from ring_rl.types import Batch


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """Shape of a batch.

    Attributes:
      rows: B, rows of a batch.
      row_steps: environment steps that a row has room for; 0 makes room for the
        longest chain there can be.
    """

    rows: int = 16
    row_steps: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        if self.rows < 1 or self.row_steps < 0:
            raise ValueError(
                "loader: rows must be at least 1 and row_steps at least 0, found "
                f"{self.rows} and {self.row_steps}"
            )


class ChainLoader:
    """Draws, packs and lays out batches of chains.

    Raises:
      ValueError: a row has no room for the longest episode (as cropped), or the
        datasets do not go together.
    """

    def __init__(
        self,
        stores: EpisodeStore | Sequence[EpisodeStore],
        config: LoaderConfig,
        chains: ChainConfig,
        tokens: TokenConfig,
        *,
        seed: int,
        weights: Sequence[float] = (),
    ):
        """Of one dataset, or of several of the same spaces mixed by weight.

        A chain is of one dataset; `weights` say how likely each is, by default equally.
        """
        one = isinstance(stores, EpisodeStore)
        self.stores = [stores] if one else list(stores)
        self.weights = _shares(self.stores, weights)
        self.spaces = self.stores[0].spaces
        self.groups = [group_episodes(store, chains) for store in self.stores]
        self.config, self.chains, self.tokens = config, chains, tokens
        self.seed = seed
        longest = max(
            int(store.lengths[group].max())
            for store, groups in zip(self.stores, self.groups, strict=True)
            for group in groups
        )
        kept = min(longest, chains.crop_steps) if chains.crop_steps else longest
        self.row_steps = config.row_steps or chains.trajectories * kept
        if self.row_steps < kept:
            raise ValueError(
                f"loader: row_steps must hold the longest episode of {kept} steps, "
                f"found {config.row_steps}"
            )

    @property
    def length(self) -> int:
        """S, tokens of a row in natural order, before padding for the ring."""
        return self.row_steps * self.tokens.tokens_per_step

    def _draw(self, random: np.random.Generator) -> Members:
        """One chain; where a row has no room the worst members are left out.

        Of a history, the earliest.
        """
        source = 0
        if len(self.stores) > 1:
            source = int(random.choice(len(self.stores), p=self.weights))
        store = self.stores[source]
        episodes = draw_members(self.groups[source], self.chains, random)
        first, steps = crop(store, episodes, self.chains, random)
        if steps.sum() > self.row_steps:
            kept = np.arange(len(episodes))[::-1]
            if self.chains.choose != "history":
                kept = np.argsort(-store.returns[episodes], kind="stable")
            # The best alone always fits; after the first that does not, none is taken.
            fits = np.cumsum(steps[kept]) <= self.row_steps
            kept = np.sort(kept[: int(np.argmin(fits))])
            episodes, first, steps = episodes[kept], first[kept], steps[kept]
        return in_hindsight(store, episodes, first, steps, self.chains, source=source)

    def plan(self, step: int) -> list[Row]:
        """The rows of the batch of a training step."""
        random = np.random.default_rng((self.seed, step))
        room = np.full(self.config.rows, self.row_steps)
        chains: list[list[Members]] = [[] for _ in room]
        while True:
            members = self._draw(random)
            steps = int(members.steps.sum())
            rows = np.flatnonzero(room >= steps)
            if not len(rows):
                return [Row(self.stores, row) for row in chains]
            chains[rows[0]].append(members)
            room[rows[0]] -= steps

    def episode_ids(self, step: int) -> list[Int64[np.ndarray, " n"]]:
        """Ids of the episodes in the batch of a training step, ascending, by store."""
        found: list[list[np.ndarray]] = [[] for _ in self.stores]
        for row in self.plan(step):
            members = row.members
            for index, store in enumerate(self.stores):
                offsets = members.offset[members.store == index]
                episodes = np.searchsorted(store.offsets, offsets)
                found[index].append(store.episode_ids[episodes])
        return [np.unique(np.concatenate(ids)) for ids in found]

    def batch(self, step: int) -> Batch:
        """The batch of a training step, NumPy arrays in natural order."""
        return fill(self.plan(step), [range(self.length)], self.tokens, self.spaces)

    def padded_length(self, ring: int) -> int:
        """S padded at the end so that every layout can cut it for a ring."""
        return self.length + -self.length % (2 * ring)

    def choose_layout(self, ring: int) -> str:
        """The layout that balances a ring of this size best for the first batch."""
        length = self.padded_length(ring)
        positions, segments = order_tokens(self.plan(0), length, self.tokens)
        return choose_layout(Mask.self_attention(positions, segments), ring)

    def shards(self, step: int, *, layout: str, rules: ShardingRules) -> Batch:
        """The batch of a step on its devices, each part made where it is held."""
        length = self.padded_length(rules.ring)
        shape = (self.config.rows, length)
        sharding = rules.sharding(rules.tokens)
        places = sharding.addressable_devices_indices_map(shape)
        plan = self.plan(step)

        @functools.cache  # devices may hold the same
        def part(rows: tuple[int, int], start: int) -> Batch:
            device = start // (length // rules.ring)
            ranges = held(layout, length, rules.ring, device)
            return fill(plan[slice(*rows)], ranges, self.tokens, self.spaces)

        parts = []
        for device, index in places.items():
            assert index is not None
            rows, tokens = index
            begin, end, _ = rows.indices(shape[0])
            batch = part((begin, end), tokens.indices(length)[0])
            parts.append(jax.device_put(batch, device))
        return jax.tree.map(
            lambda *pieces: jax.make_array_from_single_device_arrays(
                (*shape, *pieces[0].shape[2:]), sharding, list(pieces)
            ),
            *parts,
        )

    def stream(
        self, start: int, stop: int, *, layout: str, rules: ShardingRules
    ) -> Iterator[Batch]:
        """Batches of steps `start` to `stop` on their devices, made ahead of use."""
        import grain

        def make(step: int) -> Batch:
            return self.shards(int(step), layout=layout, rules=rules)

        batches = grain.MapDataset.range(start, stop).map(make)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        yield from batches.to_iter_dataset(options)


def _shares(stores: Sequence[EpisodeStore], weights: Sequence[float]) -> np.ndarray:
    """How likely each store is; checks that they go together."""
    if not stores:
        raise ValueError("loader: expected at least one dataset, found none")
    if any(store.spaces != stores[0].spaces for store in stores):
        found = "; ".join(dict.fromkeys(str(store.spaces) for store in stores))
        raise ValueError(f"loader: expected datasets of the same spaces, found {found}")
    given = np.asarray(weights if len(weights) else np.ones(len(stores)), np.float64)
    if len(given) != len(stores) or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(
            f"loader: expected a weight above 0 for each of {len(stores)} datasets, "
            f"found {list(weights)}"
        )
    return given / given.sum()
