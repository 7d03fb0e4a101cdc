"""The whole plan as JSON values, from a model, a context and a kind of device."""

from typing import Any

from ring_rl.plan import communication, flops
from ring_rl.plan.context import Context
from ring_rl.plan.hardware import Hardware, choose_hardware
from ring_rl.plan.longest import longest
from ring_rl.plan.memory import predict
from ring_rl.plan.models import Model, choose_model
from ring_rl.plan.sizes import Sizes

Plan = dict[str, Any]

_HARDWARE = ("flops", "link", "memory")
_MODEL = (
    "layers", "width", "heads", "kv_heads", "feed_forward", "chunk", "block", "remat",
    "dtype", "observation", "action",
)  # fmt: skip


def plan(
    *, model: str, hardware: str, compile_it: bool = False, **options: Any
) -> Plan:
    """The plan of what the options of `ring-rl plan` say.

    Raises:
      ValueError: one of them cannot be.
    """
    own = {name: options.pop(name) for name in _HARDWARE if name in options}
    chosen = choose_hardware(hardware, **own)
    own = {name: options.pop(name) for name in _MODEL if name in options}
    sized = choose_model(model, **own)
    context = Context(**options)
    if compile_it and context.fsdp > 1:
        raise ValueError(
            "plan: --fsdp is a prediction, training does not share parameters out: "
            f"expected 1 with --compile, found {context.fsdp}"
        )
    found = make_plan(sized, context, chosen)
    if compile_it:
        found["compiled"] = _compiled(sized, context)
    return found


def make_plan(model: Model, context: Context, hardware: Hardware) -> Plan:
    """What the model needs for the context on devices of this kind."""
    trunk = model.trunk
    if trunk.attention != "ring" and context.ring > 1:
        raise ValueError(
            f"plan: expected one device a row for attention {trunk.attention!r}, found "
            f"{context.ring}"
        )
    platform = "cpu" if hardware.name == "cpu" else "gpu"
    layout = context.chosen_layout
    sizes = Sizes.of(model, context, platform)
    rate = hardware.flops(trunk.dtype)
    smallest = communication.smallest_blocks(
        rate,
        hardware.link,
        heads=trunk.heads,
        kv_heads=model.kv_heads,
        itemsize=model.itemsize,
        unmasked=communication.unmasked_share(layout, context.ring),
    )
    needed = predict(sizes, trunk.attention)
    operations = flops.count(model, context)
    seconds = flops.seconds(model, context, hardware)
    return {
        "model": _model(model),
        "hardware": {
            "name": hardware.name,
            "flops": rate,
            "link": hardware.link,
            "memory": hardware.memory,
            "source": hardware.source,
        },
        "context": {
            "tokens": context.tokens,
            "trajectories": context.trajectories,
            "steps": context.steps,
            "tokens_per_step": context.tokens_per_step,
            "rows": context.rows,
            "devices": context.devices,
            "mesh": {"data": context.data, "sequence": context.ring},
            "fsdp": context.fsdp,
            "layout": layout,
            "tokens_per_device": context.tokens_per_device,
        },
        "min_block": communication.round_up(smallest.paper),
        "min_block_forward": communication.round_up(smallest.forward),
        "min_block_backward": communication.round_up(smallest.backward),
        "min_sequence": communication.round_up(
            communication.smallest_sequence(smallest.paper)
        ),
        "overlaps": context.ring == 1 or context.tokens_per_device >= smallest.block,
        "bytes_per_device": needed._asdict() | {"total": needed.total},
        "fits": needed.total <= hardware.memory,
        "flops_per_step": operations._asdict() | {"total": sum(operations)},
        "seconds_per_step": seconds._asdict() | {"total": sum(seconds)},
        "max_context": longest(model, context, hardware.memory, platform=platform),
    }


def _model(model: Model) -> dict[str, Any]:
    trunk = model.trunk
    return {
        "name": model.name,
        "parameters": model.parameters,
        "layers": trunk.layers,
        "width": trunk.width,
        "heads": trunk.heads,
        "kv_heads": model.kv_heads,
        "feed_forward": model.feed_forward,
        "dtype": trunk.dtype,
        "attention": trunk.attention,
        "remat": trunk.remat,
        "chunk": trunk.chunk,
        "observation": model.observation,
        "action": model.action,
    }


def _compiled(model: Model, context: Context) -> dict[str, Any]:
    """The compiler's bytes of a device, beside what is predicted for a CPU."""
    from ring_rl.plan.compiled import compile_step

    found = compile_step(model, context)
    sizes = Sizes.of(model, context, "cpu")
    predicted = predict(sizes, model.trunk.attention).total
    return {
        "argument_bytes_per_device": found.arguments,
        "temp_bytes_per_device": found.temporary,
        "bytes_per_device": found.total,
        "predicted_bytes_per_device": predicted,
        "ratio": predicted / found.total,
        "compile_seconds": round(found.seconds, 2),
    }
