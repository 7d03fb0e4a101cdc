"""From the options of `ring-rl bench` to measurements."""

from collections.abc import Iterator
from typing import Any

from ring_rl.bench import machine
from ring_rl.bench.records import Record, Say


def run(benchmark: str, options: dict[str, Any], say: Say) -> Iterator[Record]:
    """The records of a benchmark, each as soon as it is there.

    Args:
      benchmark: its name.
      options: by the names of the configuration's fields, as words and numbers.
      say: is told what is being done.

    Raises:
      ValueError: an option that does not fit; nothing has been run then.
    """
    if benchmark == "step":
        from ring_rl.bench import step

        config = step.StepConfig(**options)
        machine.prepare(max(config.devices, config.check_devices))
        return step.measure(config, say)
    if benchmark == "data":
        from ring_rl.bench import data

        return data.measure(data.DataConfig(**options), say)
    if benchmark == "store":
        from ring_rl.bench import store

        return store.measure(store.StoreConfig(**options), say)
    if benchmark == "rollout":
        from ring_rl.bench.rollout import RolloutConfig, measure

        config = RolloutConfig(**options)
        machine.prepare(config.devices)
        return measure(config, say)
    if benchmark == "gpu":
        from ring_rl.bench import gpu

        options = dict(options)
        parts = tuple(x for part in options["parts"] for x in part)
        options["parts"] = parts or gpu.PARTS
        config = gpu.GpuConfig(**options)
        machine.prepare(1)
        return gpu.measure(config, say)
    if benchmark == "tune":
        from ring_rl.bench import tune

        config = tune.TuneConfig(**options)
        machine.prepare(1)
        return tune.measure(config, say)
    return _attention(benchmark, options, say)


def _attention(benchmark: str, options: dict[str, Any], say: Say) -> Iterator[Record]:
    from ring_rl.bench.config import AttentionConfig
    from ring_rl.bench.masks import MaskKind

    options = dict(options)
    ring = options.pop("ring", True)
    if "against" in options:
        options["against"] = tuple(x for part in options["against"] for x in part)
    if "mask" in options:
        options["mask"] = MaskKind.parse(options["mask"])
    if benchmark == "memory":
        from ring_rl.bench import memory

        own = {name: options.pop(name) for name in ("tokens", "devices", "per_device")}
        problem = AttentionConfig(**options, backward=True)
        several = memory.MemoryConfig(**own, problem=problem)
        several.problems()
        machine.prepare(max(several.devices))
        return memory.measure(several, say)
    config = AttentionConfig(**options)
    machine.prepare(config.devices)
    if benchmark == "decode":
        from ring_rl.bench import decode

        return decode.measure(config, say, ring=ring)
    from ring_rl.bench import attention

    return attention.measure(config, say)
