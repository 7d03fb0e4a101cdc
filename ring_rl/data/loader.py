"""The stream of batches: a pure function of (seed, step), whatever the devices.

A batch is rows of equal length, packed with whole chains: chains are drawn one after
the other, each goes to the first row that has room for it, and the first that fits
nowhere ends the batch (it is left out, so a batch of few short rows has somewhat fewer
long chains than are drawn). Layout and padding for the ring are applied afterwards, so
the chains of a batch do not depend on the number of devices, and a run resumes at any
step by starting the stream there.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from ring_rl.attention import Mask, choose_layout, permutation
from ring_rl.data.chains import ChainConfig, best_episodes, draw_members, make_chain
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.tokens import TokenConfig, pack
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
      ValueError: a row has no room for the longest episode.
    """

    def __init__(
        self,
        store: EpisodeStore,
        config: LoaderConfig,
        chains: ChainConfig,
        tokens: TokenConfig,
        *,
        seed: int,
    ):
        """Keeps the episodes that the chains' configuration leaves."""
        self.store = best_episodes(store, chains.best)
        self.groups = list(self.store.by_task().values())
        self.config, self.chains, self.tokens = config, chains, tokens
        self.seed = seed
        longest = int(self.store.lengths.max())
        self.row_steps = config.row_steps or chains.trajectories * longest
        if self.row_steps < longest:
            raise ValueError(
                f"loader: row_steps must hold the longest episode of {longest} steps, "
                f"found {config.row_steps}"
            )

    @property
    def length(self) -> int:
        """S, tokens of a row in natural order, before padding for the ring."""
        return self.row_steps * self.tokens.tokens_per_step

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Members of one chain; the worst are left out where a row has no room."""
        members = draw_members(self.groups, self.chains.trajectories, random)
        best_first = members[np.argsort(-self.store.returns[members], kind="stable")]
        fits = np.cumsum(self.store.lengths[best_first]) <= self.row_steps
        # The best alone always fits; after the first that does not, none is taken.
        return best_first[: int(np.argmin(fits)) if not fits.all() else len(fits)]

    def batch(self, step: int) -> Batch:
        """The batch of a training step, NumPy arrays in natural order."""
        random = np.random.default_rng((self.seed, step))
        room = np.full(self.config.rows, self.row_steps)
        chains = []
        while True:
            members = self._draw(random)
            steps = int(self.store.lengths[members].sum())
            rows = np.flatnonzero(room >= steps)
            if not len(rows):
                break
            chain = make_chain(self.store, members, self.chains.loss_on)
            chains.append((int(rows[0]), chain))
            room[rows[0]] -= steps
        return pack(
            chains, self.config.rows, self.length, self.tokens, self.store.spaces
        )

    def choose_layout(self, ring: int) -> str:
        """The layout that balances a ring of this size best for the first batch."""
        tokens = _padded(self.batch(0), ring).tokens
        return choose_layout(
            Mask.self_attention(tokens.positions, tokens.segments), ring
        )

    def stream(
        self, start: int, stop: int, *, layout: str, rules: ShardingRules
    ) -> Iterator[Batch]:
        """Batches of steps `start` to `stop` on their devices, made ahead of use."""
        import grain

        order = None

        def make(step: int) -> Batch:
            nonlocal order
            batch = _padded(self.batch(int(step)), rules.ring)
            if order is None:
                order = permutation(layout, batch.weight.shape[1], rules.ring)
            return jax.tree.map(lambda array: array[:, order], batch)

        batches = grain.MapDataset.range(start, stop).map(make)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        sharding = rules.sharding(rules.tokens)
        for batch in batches.to_iter_dataset(options):
            yield jax.device_put(batch, sharding)


def _padded(batch: Batch, ring: int) -> Batch:
    """Pads rows at their end so that every layout can cut them for the ring."""
    missing = -batch.weight.shape[1] % (2 * ring)

    def pad(array: np.ndarray, value: int = 0) -> np.ndarray:
        widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, widths, constant_values=value)

    padded = jax.tree.map(pad, batch)
    segments = pad(batch.tokens.segments, -1)
    return padded._replace(tokens=padded.tokens._replace(segments=segments))
