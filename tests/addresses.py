"""Where processes of a test meet."""

import socket


def free_address() -> str:
    """A host and port of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"
