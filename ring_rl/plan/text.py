"""A plan as lines to read."""

from typing import Any

from ring_rl.plan.planning import Plan

_BYTES = {
    "parameters": "parameters, and their copy as one loop",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "batch": "batch",
    "kept": "kept of all blocks for the backward pass",
    "block": "the block that is differentiated",
    "in_flight": "keys, values and gradients in flight",
    "chunks": "chunks of the feed-forward, tiles of attention",
    "total": "in all",
}
_TIME = {
    "attention": "attention",
    "projections": "projections",
    "feed_forward": "feed-forward",
    "head": "embedding and logits",
    "exposed": "traffic that is not hidden",
    "gradients": "sum of the gradients",
    "total": "in all",
}


def lines(plan: Plan) -> list[str]:
    """The plan, a line a figure, and what it comes to."""
    model, hardware, context = plan["model"], plan["hardware"], plan["context"]
    mesh = context["mesh"]
    found = [
        f"model {model['name']}: {model['parameters']:,} parameters, "
        f"{model['layers']} layers, width {model['width']}, {model['heads']} heads, "
        f"{model['kv_heads']} for keys and values, feed-forward "
        f"{model['feed_forward']}, {model['dtype']}, {model['attention']} attention, "
        f"remat {model['remat']}",
        f"context: {context['trajectories']} trajectories x {context['steps']} steps x "
        f"{context['tokens_per_step']} tokens = {context['tokens']:,} tokens a row, "
        f"rows {context['rows']}",
        f"devices: {context['devices']} of {hardware['name']} "
        f"({hardware['flops'] / 1e12:g} TFLOP/s, link {hardware['link'] / 1e9:g} GB/s, "
        f"{hardware['memory'] / 1e9:g} GB), data {mesh['data']} x sequence "
        f"{mesh['sequence']}, {context['layout']}",
        f"figures: {hardware['source']}",
        "",
        f"smallest block that hides the ring's traffic: {plan['min_block']:,} tokens "
        f"by FLOP/s over bytes/s, a sequence of {plan['min_sequence']:,} a device",
        f"  of these heads, this type and layout: forward "
        f"{plan['min_block_forward']:,}, backward {plan['min_block_backward']:,}",
        "",
        "bytes a device, predicted:",
        *_table(plan["bytes_per_device"], _BYTES, lambda n: f"{n / 1e9:.3f} GB"),
    ]
    if context["fsdp"] > 1:
        found.append(
            f"  (parameters, gradients and optimiser over {context['fsdp']} devices: a "
            "prediction, training holds them whole)"
        )
    found += ["", "floating-point operations an update, and seconds at the peak rate:"]
    operations, seconds = plan["flops_per_step"], plan["seconds_per_step"]
    for name, text in _TIME.items():
        of_name = f"{operations[name]:.3g}" if name in operations else ""
        found.append(f"  {text.ljust(48)}{of_name:>10}{seconds[name]:>12.4g} s")
    found += ["", "longest row on these devices:"]
    a_trajectory = context["steps"] * context["tokens_per_step"]
    for name, tokens in plan["max_context"].items():
        found.append(
            f"  {name.ljust(48)}{tokens:>16,} tokens, "
            f"{tokens // a_trajectory:,} trajectories"
        )
    found += ["", _fits(plan), _overlaps(plan)]
    if "compiled" in plan:
        found += ["", *_compiled(plan["compiled"], model["dtype"])]
    return found


def _table(figures: dict[str, Any], names: dict[str, str], form: Any) -> list[str]:
    return [
        f"  {text.ljust(48)}{form(figures[name]):>16}" for name, text in names.items()
    ]


def _fits(plan: Plan) -> str:
    needed, there = plan["bytes_per_device"]["total"], plan["hardware"]["memory"]
    answer = "fits" if plan["fits"] else "does not fit"
    return (
        f"{answer}: {needed / 1e9:.1f} GB of the {there / 1e9:.1f} GB of each device "
        f"({needed / there:.0%})"
    )


def _overlaps(plan: Plan) -> str:
    context = plan["context"]
    each = context["tokens_per_device"]
    if context["mesh"]["sequence"] == 1:
        return "nothing to overlap: a row is on one device, no keys and values travel"
    needed = max(plan["min_block_forward"], plan["min_block_backward"])
    answer = "overlaps" if plan["overlaps"] else "does not overlap"
    return (
        f"{answer}: {each:,} tokens a device, where {needed:,} hide the ring's traffic"
    )


def _compiled(found: dict[str, Any], dtype: str) -> list[str]:
    arguments = found["argument_bytes_per_device"] / 1e6
    temporary = found["temp_bytes_per_device"] / 1e6
    widened = ", which computes bf16 in f32" if dtype == "bfloat16" else ""
    return [
        f"by the compiler for CPUs{widened}: {found['bytes_per_device'] / 1e6:.1f} MB "
        f"a device ({arguments:.1f} arguments, {temporary:.1f} temporary)",
        f"predicted for CPUs: {found['predicted_bytes_per_device'] / 1e6:.1f} MB, "
        f"{found['ratio'] - 1:+.1%}; compiled in {found['compile_seconds']:.0f} s",
    ]
