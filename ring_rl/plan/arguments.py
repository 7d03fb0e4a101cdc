"""The options of `ring-rl plan`, named after the fields of its values."""

import argparse
from typing import Any

Parser = argparse.ArgumentParser

_MODELS = "350m, 1b, 3b, 7b, 13b, 30b, 65b, or a preset of ring-rl train"
_HARDWARE = (
    "a100-nvlink, a100-infiniband, h100, h200, tpu-v3, tpu-v4, tpu-v5e, tpu-v5p, "
    "tpu-v6e or cpu"
)


def add_options(parser: Parser) -> None:
    """Adds them; figures that are not given are the model's or the hardware's own."""
    parser.description = (
        "What a model and a context need on some devices, before anything is bought or "
        "started: memory, time, and whether the ring's traffic hides behind compute."
    )
    parser.epilog = (
        "Times are at the makers' peak rates: no run is as fast. Bytes are those of "
        "this project's training step, and --compile asks the compiler about them."
    )
    model = parser.add_argument_group("model").add_argument
    model("--model", default="350m", metavar="NAME",
        help=f"{_MODELS} (default: %(default)s)")  # fmt: skip
    for name, text in (
        ("--layers", "blocks of the transformer"),
        ("--width", "of the model"),
        ("--heads", "query heads"),
        ("--kv-heads", "key and value heads; 0: as many as --heads"),
        ("--feed-forward", "hidden width of the feed-forward; 0: four times --width"),
        ("--chunk", "tokens of a chunk of the feed-forward and of the loss"),
        ("--block", "tokens of a tile of attention; 0: by device kind"),
    ):
        model(name, type=int, metavar="N", help=f"{text} (default: the model's)")
    model("--dtype", metavar="NAME", choices=("float32", "bfloat16"),
        help="of computation: bfloat16 or float32 (default: the model's)")  # fmt: skip
    model("--remat", metavar="NAME", choices=("none", "block", "all"),
        help="computed again in the backward pass: none, block or "
        "all (default: the model's)")  # fmt: skip
    _number(model, "--observation", 24, "width of an observation")
    _number(model, "--action", 6, "components of an action")
    context = parser.add_argument_group("context").add_argument
    _number(context, "--trajectories", 4, "episodes of a row's chain")
    _number(context, "--steps", 1000, "environment steps of each")
    _number(context, "--tokens-per-step", 4, "tokens of each step; 1: fused")
    _number(context, "--rows", 1, "rows of the whole batch")
    devices = parser.add_argument_group("devices").add_argument
    devices("--hardware", default="h100", metavar="NAME",
        help=f"{_HARDWARE} (default: %(default)s)")  # fmt: skip
    _number(devices, "--devices", 1, "how many there are in all groups")
    _number(devices, "--data", 1, "groups of devices with rows of their own")
    _number(devices, "--fsdp", 1,
        "devices that share out parameters, gradients and optimiser: a prediction; "
        "mesh.fsdp of training shares out rows as well")  # fmt: skip
    devices("--layout", default="auto", metavar="NAME",
        help="of the ring: contiguous, zigzag, striped, or auto, which is zigzag for "
        "the one causal chain of a row (default: %(default)s)")  # fmt: skip
    for name, unit in (
        ("--flops", "floating-point operations a second, such as 312e12"),
        ("--link", "bytes a second that a device sends, such as 300e9"),
        ("--memory", "bytes of a device, such as 80e9"),
    ):
        devices(name, type=float, metavar="X",
            help=f"{unit} (default: the hardware's)")  # fmt: skip
    parser.add_argument(
        "--compile",
        dest="compile_it",
        action="store_true",
        help="compile the training step on as many virtual devices of the CPU, run "
        "nothing, and print the compiler's bytes beside the predicted ones",
    )


def _number(add: Any, name: str, default: int, text: str) -> None:
    add(name, type=int, default=default, metavar="N",
        help=f"{text} (default: %(default)s)")  # fmt: skip
