"""How often the training step was compiled: once, while batches have one shape."""

from typing import Any

from jax import monitoring

# What XLA compiles or finds in the cache on disk, with the function's name.
_EVENT = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts compilations of functions of one name in this process while it listens.

    A context manager; `count` is what there was of them in its block.
    """

    def __init__(self, name: str = "train_step"):
        """`name` is that of the Python function that was given to `jax.jit`."""
        self._name, self.count, self._taken = f"jit({name})", 0, 0

    def __enter__(self) -> "Compilations":
        """Begins to listen."""
        monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        """Listens no longer."""
        monitoring.unregister_event_duration_listener(self._heard)

    def take(self) -> int:
        """What there was of them since this was last asked."""
        new, self._taken = self.count - self._taken, self.count
        return new

    def _heard(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self.count += event == _EVENT and kwargs.get("fun_name") == self._name
