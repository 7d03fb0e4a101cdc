"""ring_rl: offline reinforcement learning on long contexts of many trajectories."""

import typing

from ring_rl.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from ring_rl.configs.loading import Policy


def load(run: str) -> "Policy":
    """The policy of a run folder that `ring-rl train` wrote.

    See `ring_rl.configs.loading.Policy` for how to act with it. Imported only when it
    is called: `import ring_rl` alone stays cheap.

    Raises:
      ValueError: there is no trained run in the folder.
    """
    from ring_rl.configs.loading import load_policy

    return load_policy(run)
