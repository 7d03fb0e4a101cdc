"""What several processes have to have in common before they begin."""

import jax

from ring_rl import processes
from ring_rl.version import __version__, sources_digest


def agree_on(what: str, value: object) -> None:
    """Finds that all processes run the same code on the same.

    Args:
      what: the value is, for a message.
      value: that has to be the same for all, as `repr` says it.

    Raises:
      ValueError: this process or another differs from the first.
    """
    if processes.several():
        processes.agree(
            {
                "version of ring_rl": f"{__version__}, sources {sources_digest()}",
                "version of jax": jax.__version__,
                what: repr(value),
            }
        )
