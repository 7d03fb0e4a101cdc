"""The options of `ring-rl`: names, units, defaults, and what their values may be.

The names that options leave are those of the parameters in `ring_rl.commands`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ring_rl import argument_types, commands
from ring_rl.bench.arguments import add_benchmarks
from ring_rl.data_options import add_data, add_json
from ring_rl.plan.arguments import add_options
from ring_rl.version import __version__

TRACEBACK = "RING_RL_TRACEBACK"


class _Parser(argparse.ArgumentParser):
    """One-line errors, and no abbreviated options.

    `--seed` is a field of every preset: as an abbreviation it would mean `--seeds`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


class _TrainHelp(argparse.Action):
    """`train --help`, and with a preset before it the preset's fields as well."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any):
        # No value of its own among the arguments.
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            nargs=0,
            **kwargs,
        )

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        parser.print_help()
        preset = getattr(namespace, "preset", None)
        if preset is not None:
            print()
            commands.resolve(preset, ["--help"])
        parser.exit()


def join_bounds(words: Sequence[str]) -> list[str]:
    """Makes `--action-bounds -1,1` one word: argparse takes `-1,1` for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ("--action-bounds", "--goal"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def make_parser() -> argparse.ArgumentParser:
    """The parser; each command leaves its function in `function`."""
    parser = _Parser(
        prog="ring-rl",
        description="Offline reinforcement learning on long contexts of trajectories.",
        epilog=f"{TRACEBACK}=1 in the environment shows where an error was found.",
    )
    parser.add_argument("--version", action="version", version=f"ring-rl {__version__}")
    add = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    ).add_parser
    _add_train(add("train", help="train a preset", add_help=False))
    _add_evaluate(add("evaluate", help="roll a trained run out, print the statistics"))
    _add_report(add("report", help="table, pictures and HTML page of several runs"))
    _add_study(add("study", help="the table of several runs that answer one question"))
    add_data(add("data", help="import, inspect, relabel and export datasets"))
    _add_bench(
        add("bench", help="time and memory of attention, training, acting and data")
    )
    _add_plan(add("plan", help="memory, time and traffic of a context, nothing run"))
    _add_list(add("list", help="presets, studies, environments and datasets"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Trains a preset and evaluates it. Any field of the preset can be given as "
        "--field value, with dots for nested ones; ring-rl train PRESET --help lists "
        "them with their defaults."
    )
    parser.usage = "ring-rl train PRESET [options] [--field value ...]"
    add = parser.add_argument
    add("preset", metavar="PRESET", help="name, see ring-rl list presets")
    add(
        "-h",
        "--help",
        action=_TrainHelp,
        help="this help; after a preset, its fields with their defaults too",
    )
    add(
        "--seeds",
        type=argument_types.seeds,
        metavar="S,S,...",
        help="training seeds, one run each (default: the preset's seed)",
    )
    add(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="parent of the run's folder (default: %(default)s)",
    )
    add(
        "--no-evaluate",
        dest="evaluate",
        action="store_false",
        help="train only (default: evaluate at the end)",
    )
    add(
        "--profile",
        action="store_true",
        help="write a trace of three updates, after five, into profile/ of the run, "
        "for TensorBoard's profile plugin and ui.perfetto.dev (default: no)",
    )
    _add_processes(parser)
    parser.set_defaults(function=commands.train)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """Options that make a process one of several; see the README, Several machines."""
    add = parser.add_argument_group(
        "several processes",
        "Each runs the same command, but for --process-id; all see the same folders.",
    ).add_argument
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="a free port of process 0's host, as all processes reach it",
    )
    add(
        "--num-processes",
        type=argument_types.count,
        metavar="N",
        help="how many processes there are (default: this one only)",
    )
    add(
        "--process-id",
        type=int,
        metavar="I",
        help="which of them this is, from 0",
    )
    add(
        "--cluster",
        choices=("auto", "slurm", "ompi", "mpi4py"),
        help="find the three in the cluster that started the processes instead; auto "
        "knows Cloud TPUs and others too (default: do not)",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder that ring-rl train wrote")
    add(
        "--env",
        dest="environment",
        metavar="ID",
        help="environment (default: the run's)",
    )
    add(
        "--trials",
        type=argument_types.count,
        metavar="N",
        help="episodes in one context (default: the run's)",
    )
    add(
        "--episodes",
        type=argument_types.count,
        metavar="M",
        help="contexts for each task and seed (default: the run's)",
    )
    add(
        "--control",
        default="none",
        metavar="NAME",
        help="other-task: all that is in the context at the last trial, earlier trials "
        "and demonstrations, is of another task; cleared:K: the context is emptied "
        "after every K trials (cleared: after each); unsorted: --demonstrations in an "
        "order drawn at random (default: %(default)s)",
    )
    add(
        "--recall",
        choices=("played", "ascending"),
        help="order of the earlier trials in a context: as they were played, or "
        "ascending by return (as chains in training, by default), then it is read anew "
        "before each trial "
        "(default: the run's)",
    )
    add(
        "--temperature",
        type=argument_types.temperature,
        metavar="T",
        help="of the sampled actions, 0 is greedy (default: the run's)",
    )
    add(
        "--target",
        metavar="R",
        help="return that every trial is told to reach, or a percentile of the "
        "training data's returns such as 95%% (default: the run's)",
    )
    add(
        "--demonstrations",
        type=Path,
        metavar="DIR",
        help="RLDS dataset of which each row reads episodes of its task before its "
        "first trial, ascending by return (default: none)",
    )
    add(
        "--demonstrations-per-row",
        type=argument_types.count,
        metavar="N",
        help="episodes that each row reads (default: one less than in the longest "
        "chains of training, at least 1)",
    )
    add(
        "--processes",
        type=argument_types.processes,
        default="auto",
        metavar="N|auto",
        help="processes that step the environments; auto times one and several and "
        "takes the faster; results are the same (default: %(default)s)",
    )
    add(
        "--video",
        action="store_true",
        help="film the first and the last trial of three rows of the first seed, as "
        "GIF and as strips of pictures, into video/ of the evaluation (default: no)",
    )
    add_json(parser)
    _add_processes(parser)
    parser.set_defaults(function=commands.evaluate)


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folders with evaluations")
    add(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="for report.html and its pictures (default: %(default)s)",
    )
    add(
        "--attention",
        type=argument_types.moment,
        nargs="?",
        const="last:1",
        metavar="TRIAL:STEP",
        help="look at what the acting token of this step reads, counted from 1, in a "
        "rollout of each run's first seed; needs the checkpoint and the environment, "
        "and writes attention.json, .npz and .png to the evaluation for later reports "
        "too (default: do not look; without a value: %(const)s)",
    )
    add_json(parser)
    parser.set_defaults(function=commands.report)


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Trains and evaluates the runs of a study that are missing, and prints its "
        "table. Any field that all of its presets have can be given as --field value."
    )
    parser.usage = "ring-rl study STUDY [options] [--field value ...]"
    add = parser.add_argument
    add("name", metavar="STUDY", help="name, see ring-rl list studies")
    add(
        "--seeds",
        type=argument_types.seeds,
        metavar="S,S,...",
        default=(0,),
        help="training seeds, one run each in every cell (default: 0)",
    )
    add(
        "--rows",
        default="*",
        metavar="PATTERN",
        help="rows to run, such as 'walker_*'; all stay in the table (default: all)",
    )
    add(
        "--columns",
        default="*",
        metavar="PATTERN",
        help="columns to run, such as DT (default: all)",
    )
    add(
        "--device-memory",
        type=argument_types.gigabytes,
        metavar="GB",
        help="of a device, in 10^9 bytes: a cell of which the compiler says that an "
        "update needs more is not run and marked so (default: do not look)",
    )
    add(
        "--show",
        action="store_true",
        help="run nothing, print the table of what there is (default: run)",
    )
    add(
        "--runs",
        type=Path,
        default=Path("runs/studies"),
        metavar="DIR",
        help="parent of the study's folder (default: %(default)s)",
    )
    add_json(parser)
    parser.set_defaults(function=commands.study)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    for name, benchmark in add_benchmarks(parser).items():
        benchmark.set_defaults(function=commands.bench, benchmark=name)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    add_json(parser)
    parser.set_defaults(function=commands.plan)


def _add_list(parser: argparse.ArgumentParser) -> None:
    kinds = ("presets", "studies", "envs", "datasets")
    parser.add_argument(
        "kind",
        nargs="?",
        choices=("all", *kinds),
        default="all",
        help="what to list (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("datasets"),
        metavar="DIR",
        help="where datasets are looked for (default: %(default)s)",
    )
    add_json(parser)
    parser.set_defaults(function=commands.list_known)
