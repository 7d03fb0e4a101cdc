"""The options of `ring-rl bench`, named after the fields of its configurations."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Parser = argparse.ArgumentParser


def _list(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(
            f"expected numbers above 0 such as 8192,16384, found {text!r}"
        )
    return tuple(sorted({int(word) for word in words}))


def add_benchmarks(parser: Parser) -> dict[str, Parser]:
    """Adds the benchmarks as commands; each one's parser by its name."""
    add = parser.add_subparsers(
        dest="command", metavar="BENCHMARK", required=True, title="benchmarks"
    ).add_parser
    known: dict[str, tuple[Callable[[Parser], None], str]] = {
        "attention": (_attention, "time, memory and error of attention, beside peers"),
        "memory": (_memory, "temporary memory by the compiler's account, nothing run"),
        "step": (_step, "one whole training step of an Agentic Transformer"),
        "decode": (_decode, "one acting step's attention against a long cache"),
        "rollout": (_rollout, "acting in environments, and what its parts cost"),
        "gpu": (_gpu, "what the kernels must reach on a GPU, in one table"),
        "tune": (_tune, "how a GPU's kernels are best cut, kept on disk"),
        "data": (_data, "reading, writing and batching a dataset"),
        "store": (_store, "memory of working with a dataset larger than it"),
    }
    parsers = {}
    for name, (fill, text) in known.items():
        parsers[name] = add(name, help=text, description=text[0].upper() + text[1:])
        fill(parsers[name])
        parsers[name].add_argument(
            "--json",
            dest="as_json",
            action="store_true",
            help="print one line of JSON a measurement",
        )
    return parsers


def _attention(parser: Parser) -> None:
    parser.epilog = (
        "cpu s is user and system time of all threads, the figure to compare on a "
        "shared machine; cpu x and wall x are this implementation's share of what a "
        "peer takes in the same process, in turn; matmul is the share of the fastest "
        "tile-sized matmul's rate; balance what is left of the time when tiles seen in "
        "part and waiting for the slowest device are taken off."
    )
    _number(parser, "--devices", 1, "devices that share out the sequence")
    _number(parser, "--tokens", 8192, "length of the sequence")
    _implementation(parser)
    _sizes(parser)
    _problem(parser)
    parser.add_argument(
        "--backward", action="store_true", help="all three gradients as well"
    )
    _number(parser, "--runs", 5, "timed calls of each, after one that is not")
    _against(
        parser,
        "ringattention, jax-nn, cudnn, cudnn-causal (whatever the mask), reference, "
        "memory_efficient, blockwise, tiles (blockwise by portable XLA), matmul "
        "(always there)",
    )


def _memory(parser: Parser) -> None:
    parser.epilog = (
        "Forward and backward. bytes/token are of one device; with tokens is the "
        "growth of memory over that of the tokens (1: linear), with devices the growth "
        "from the fewest devices at as many tokens each; scores are what all pairs' "
        "scores would take."
    )
    add = parser.add_argument
    add("--devices", type=_numbers, default=(1,), metavar="R,R,...",
        help="numbers of devices (default: 1)")  # fmt: skip
    add("--tokens", type=_numbers, default=(8192,), metavar="T,T,...",
        help="lengths of the sequence (default: 8192)")  # fmt: skip
    add("--per-device", action="store_true",
        help="--tokens are those of each device (default: of all)")  # fmt: skip
    _implementation(parser)
    _sizes(parser)
    _problem(parser)
    _against(parser, "ringattention, jax-nn, reference, memory_efficient, blockwise")


def _decode(parser: Parser) -> None:
    parser.epilog = (
        "sum reads the cached keys and values once, copy copies them, ring runs the "
        "whole sequence again; cpu x and wall x are decode's share of each, of rate "
        "is decode's bytes per second over theirs."
    )
    _number(parser, "--devices", 1, "devices that hold the cache")
    _number(parser, "--tokens", 8192, "tokens in the cache of each row")
    parser.add_argument(
        "--no-ring", dest="ring", action="store_false", help="without ring"
    )
    _sizes(parser)
    _number(parser, "--runs", 5, "timed calls of each, after one that is not")


def _step(parser: Parser) -> None:
    parser.epilog = (
        "Compiled first, then run without a warm-up. Interleaved tokens are target "
        "return, observation, action and reward. The context of the paper is 128 "
        "trajectories of 1000 steps: most of an hour on two cores."
    )
    _number(parser, "--layers", 2, "blocks of the transformer")
    _number(parser, "--heads", 2, "query heads")
    _number(parser, "--kv-heads", 0, "key and value heads; 0: as many as --heads")
    _number(parser, "--head-dim", 32, "width of a head")
    _word(parser, "--dtype", "float32", "of the computation: float32, bfloat16")
    _word(parser, "--kernel", "auto", "of attention: blockwise, triton, hopper, auto")
    _number(parser, "--trajectories", 4, "episodes of the chain")
    _number(parser, "--steps", 1000, "environment steps of each")
    _number(parser, "--observation", 24, "width of an observation")
    _number(parser, "--action", 6, "components of an action")
    _number(parser, "--devices", 1, "devices that share out the sequence")
    _layout(parser)
    _word(parser, "--token-layout", "interleaved", "interleaved or fused")
    _number(parser, "--runs", 1, "updates that are timed")
    _number(
        parser,
        "--check-devices",
        0,
        "devices on which the same loss is computed again, forward alone; 0: not",
    )
    parser.add_argument(
        "--compile-only", action="store_true", help="the compiler's memory, nothing run"
    )
    parser.add_argument(
        "--parts",
        action="store_true",
        help="what attention and the feed-forward, each run alone, take of an update, "
        "and the utilisation of the fastest matmul's rate by the model's operations",
    )


def _gpu(parser: Parser) -> None:
    parser.epilog = (
        "bf16, causal, batch 1 unless a line says otherwise. A line is a ratio from "
        "one run; with --json it holds all records that it was made from. The step is "
        "of the 350M model of the paper; 512,000 tokens take about two minutes."
    )
    parser.add_argument(
        "--parts",
        type=_list,
        action="append",
        default=[],
        metavar="PART,...",
        help="some of errors, attention, segments, decode, step (default: all)",
    )
    _number(parser, "--tokens", 32768, "length of the sequence for attention")
    _number(parser, "--heads", 16, "query heads of attention")
    _number(parser, "--segment", 1000, "tokens of a segment")
    _number(parser, "--error-tokens", 2048, "length that is compared with the oracle")
    _number(parser, "--cached", 131072, "tokens in the cache of each row")
    _number(parser, "--rows", 32, "that decode together")
    _number(parser, "--trajectories", 128, "episodes of the training step's chain")
    _number(parser, "--steps", 1000, "environment steps of each")
    _number(parser, "--layers", 24, "blocks of the trained transformer")
    _number(parser, "--runs", 5, "timed calls of each, after one that is not")


def _tune(parser: Parser) -> None:
    parser.epilog = (
        "Causal, batch 1. What is kept holds for this kind of device, this kernel, "
        "inputs of as many bits and heads of this width rounded up to a power of two, "
        "at any length; other classes take what is shipped."
    )
    _word(parser, "--kernel", "hopper", "hopper or triton")
    _number(parser, "--tokens", 32768, "length of the sequence")
    _number(parser, "--heads", 16, "query heads")
    _number(parser, "--head-dim", 64, "width of a head")
    _word(parser, "--dtype", "bfloat16", "of the inputs: float32, bfloat16, float16")
    _number(parser, "--runs", 3, "timed calls of each candidate")


def _rollout(parser: Parser) -> None:
    parser.epilog = (
        "dark-room are whole rollouts, after compilation. speed x is the steps per "
        "second of one environment behind Gymnasium's interface (adapter), or of as "
        "many as --environments (vector), over those of a bare dm_control loop, by "
        "time of the processor. cpu x and wall x are decode's share of what running "
        "the whole context again takes."
    )
    _number(parser, "--environments", 16, "that are rolled out, or stepped, together")
    _number(parser, "--trials", 8, "episodes of each")
    _word(parser, "--task", "walker-walk", "DOMAIN-TASK of the DeepMind Control Suite")
    _number(parser, "--steps", 500, "environment steps of it in a measurement")
    _number(parser, "--tokens", 8000, "of context in each row when decoding")
    _number(parser, "--rows", 8, "that decode together")
    _number(parser, "--layers", 3, "blocks of the transformer")
    _number(parser, "--heads", 4, "query heads")
    _number(parser, "--head-dim", 16, "width of a head")
    _number(parser, "--devices", 1, "devices that share out the context")
    _number(parser, "--runs", 3, "timed repetitions of each, after one that is not")


def _data(parser: Parser) -> None:
    parser.epilog = (
        "M/cpu s is millions of steps, or of tokens, in a second of user and system "
        "time of all threads and processes; padding is not counted. added MB is what "
        "reading all of it adds to a new process at its peak, after the imports."
    )
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        metavar="SOURCE",
        help="folder of an RLDS dataset or a D4RL file (default: random numbers in "
        "the shapes of D4RL's Hopper, 40,000 steps)",
    )
    _number(parser, "--processes", 2, "that write")
    _number(parser, "--trajectories", 4, "most episodes of a chain")
    _number(parser, "--rows", 16, "of a batch")
    _number(parser, "--runs", 5, "timed repetitions of each, after one that is not")


def _store(parser: Parser) -> None:
    parser.epilog = (
        "A D4RL file of random numbers is made, imported, mapped and drawn from. most "
        "MB is the most anonymous memory of the process in the stage, mapped files not "
        "counted; before MB what it had before. 20 million steps take some minutes and "
        "6 GB of disk."
    )
    _number(parser, "--steps", 20_000_000, "of the dataset")
    _number(parser, "--episode-steps", 1000, "of each episode")
    _number(parser, "--batches", 20, "that are drawn")
    _number(parser, "--rows", 16, "of a batch")
    _number(parser, "--trajectories", 4, "most episodes of a chain")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where files are made, and removed (default: the system's temporary one)",
    )


def _sizes(parser: Parser) -> None:
    _number(parser, "--batch", 1, "rows")
    _number(parser, "--heads", 4, "query heads")
    _number(parser, "--kv-heads", 0, "key and value heads; 0: as many as --heads")
    _number(parser, "--head-dim", 64, "width of a head")
    _word(parser, "--dtype", "float32", "of the inputs: float32, bfloat16")


def _problem(parser: Parser) -> None:
    _word(parser, "--mask", "causal", "causal, full, segments:N or window:N tokens")
    _layout(parser)
    parser.add_argument(
        "--dropout", type=float, default=0.0, metavar="RATE",
        help="rate of dropout (default: %(default)s)",
    )  # fmt: skip
    _number(parser, "--block-q", 0, "queries of a tile; 0: by device kind")
    _number(parser, "--block-k", 0, "keys of a tile; 0: by device kind")
    _word(
        parser,
        "--kernel",
        "auto",
        "of the hops of ring and blockwise: hopper, triton, blockwise, or auto, the "
        "fastest that the device has",
    )
    _word(
        parser,
        "--precision",
        "default",
        "of matmuls: default or highest, which a GPU's f32 needs to be f32",
    )


def _implementation(parser: Parser) -> None:
    known = "reference, memory_efficient, blockwise or ring"
    _word(parser, "--implementation", "ring", known)


def _layout(parser: Parser) -> None:
    known = "of the ring: contiguous, zigzag, striped, or auto, by counting tiles"
    _word(parser, "--layout", "auto", known)


def _against(parser: Parser, known: str) -> None:
    parser.add_argument(
        "--against",
        type=_list,
        action="append",
        default=[],
        metavar="PEER,...",
        help=f"peers in the same run: {known}; may be repeated (default: none)",
    )


def _number(parser: Parser, name: str, default: int, text: str) -> None:
    _add(parser, name, int, default, "N", text)


def _word(parser: Parser, name: str, default: str, text: str) -> None:
    _add(parser, name, str, default, "NAME", text)


def _add(parser: Parser, name: str, kind: Any, default: Any, metavar: str, text: str):
    parser.add_argument(
        name,
        type=kind,
        default=default,
        metavar=metavar,
        help=f"{text} (default: %(default)s)",
    )
