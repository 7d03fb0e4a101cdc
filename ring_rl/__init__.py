"""ring_rl: offline reinforcement learning on long contexts of many trajectories."""

import typing

from ring_rl.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from ring_rl.configs.loading import Policy


def load(
    run: str, checkpoint: "int | typing.Literal['last', 'best']" = "last"
) -> "Policy":
    """The policy of a run folder that `ring-rl train` wrote.

    See `ring_rl.configs.loading.Policy` for how to act with it. Imported only when it
    is called: `import ring_rl` alone stays cheap.

    Args:
      run: the folder.
      checkpoint: `last`, that of the run's end; `best`, by its `loop.best_metric`; or
        that after so many updates, of those that were kept.

    Raises:
      ValueError: there is no trained run in the folder, or no such checkpoint.
    """
    from ring_rl.configs.loading import load_policy

    return load_policy(run, checkpoint)
