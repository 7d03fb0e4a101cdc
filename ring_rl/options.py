"""The options of `ring-rl`: names, units, defaults, and what their values may be.

The names that options leave are those of the parameters in `ring_rl.commands`.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ring_rl import commands
from ring_rl.bench.arguments import add_benchmarks
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


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(
            f"expected different whole numbers such as 0,1,2, found {text!r}"
        )
    return seeds


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(
            f"expected two numbers low,high such as -1,1, found {text!r}"
        )
    return low, high


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return int(text)


# In short what `data.formats.array_fields` says, which is not imported for a help.
_FIELDS = (
    "observations, next_observations [steps width], actions [steps width] or integers "
    "[steps], rewards, discounts [steps]; to tell episodes apart lengths [episodes], "
    "offsets [episodes + 1], starts, terminals or timeouts [steps] (0 and 1); "
    "final_observations [episodes width], has_final_observation, terminated, "
    "truncated, tasks, episode_ids [episodes]; action_low, action_high [width], "
    "action_count [1]; extras/ANY [steps ...]. With lengths, steps may be "
    "[episodes time], padded at the end"
)


def _keys(text: str) -> dict[str, str]:
    words = text.split(",")
    keys: dict[str, str] = {}
    for word in words:
        field, _, name = word.partition("=")
        keys[field] = name
    if len(keys) < len(words) or not all(field and keys[field] for field in keys):
        raise argparse.ArgumentTypeError(
            "expected different fields and the arrays that they are, such as "
            f"observations=obs,rewards=r, found {text!r}"
        )
    return keys


def _temperature(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, found {text!r}")
    return found


def _columns(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(
            f"expected numbers from 0 such as 0,1, found {text!r}"
        )
    return tuple(int(word) for word in words)


def _goal(text: str) -> tuple[float, ...] | str:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        if "," in text or not text:
            raise argparse.ArgumentTypeError(
                "expected coordinates such as 0.5,-1, or the name of an extra such as "
                f"infos/goal, found {text!r}"
            ) from None
        return text


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
    _add_report(add("report", help="table, picture and HTML page of several runs"))
    _add_data(add("data", help="import, inspect, relabel and export datasets"))
    _add_bench(
        add("bench", help="time and memory of attention, training, acting and data")
    )
    _add_list(add("list", help="presets, environments and datasets"))
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
        type=_seeds,
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
    parser.set_defaults(function=commands.train)


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
        type=_count,
        metavar="N",
        help="episodes in one context (default: the run's)",
    )
    add(
        "--episodes",
        type=_count,
        metavar="M",
        help="contexts for each task and seed (default: the run's)",
    )
    add(
        "--control",
        choices=("none", "other-task"),
        default="none",
        help="other-task: all trials but the last are played in another task, so that "
        "the last has a context of the wrong one (default: %(default)s)",
    )
    add(
        "--temperature",
        type=_temperature,
        metavar="T",
        help="of the sampled actions, 0 is greedy (default: the run's)",
    )
    _add_json(parser)
    parser.set_defaults(function=commands.evaluate)


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folders with evaluations")
    add(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="for the picture and the page (default: %(default)s)",
    )
    _add_json(parser)
    parser.set_defaults(function=commands.report)


def _add_data(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="command", metavar="ACTION", required=True, title="actions"
    )
    importing = actions.add_parser("import", help="files of another format to RLDS")
    add = importing.add_argument
    add(
        "source",
        type=Path,
        metavar="SOURCE",
        help="file or folder, or tfds:NAME/CONFIG[:VERSION] that TFDS has prepared",
    )
    add(
        "--format",
        metavar="F",
        help="d4rl (HDF5 file), exorl (folder of episodes), minari (folder or id), "
        "rlds (folder), npz or hdf5 (arrays of your own, see --keys)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the dataset")
    add(
        "--action-bounds",
        type=_bounds,
        metavar="LOW,HIGH",
        help="of every action, where the source does not say (default: -1,1)",
    )
    add(
        "--task",
        metavar="NAME",
        help="task of all episodes (default: what the source says)",
    )
    add(
        "--max-episode-steps",
        type=_count,
        metavar="N",
        help="cut longer episodes, in environment steps (default: leave them)",
    )
    add(
        "--keys",
        type=_keys,
        metavar="FIELD=NAME,...",
        help="what the arrays of an npz or hdf5 file are (default: they are named "
        f"after the fields); fields: {_FIELDS}",
    )
    add(
        "--discrete",
        type=_count,
        metavar="N",
        help="number of discrete actions, npz and hdf5 (default: counted, where "
        "actions are integers of one column)",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where TFDS keeps what it prepared, tfds:NAME only (default: "
        "$TFDS_DATA_DIR, else ~/tensorflow_datasets)",
    )
    add(
        "--processes",
        type=_count,
        default=1,
        metavar="N",
        help="that write (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace a dataset in the folder")
    _add_json(importing)
    importing.set_defaults(function=commands.import_data)
    _add_export(actions.add_parser("export", help="a dataset to one file"))
    inspecting = actions.add_parser("inspect", help="what is in a dataset")
    inspecting.add_argument("directory", type=Path, metavar="DIR", help="its folder")
    inspecting.add_argument(
        "--png",
        type=Path,
        metavar="FILE",
        help="also draw the histograms of returns and lengths",
    )
    _add_json(inspecting)
    inspecting.set_defaults(function=commands.inspect_data)
    _add_relabel(actions.add_parser("relabel", help="rewards of another task"))


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="folder of an RLDS dataset")
    add(
        "--format",
        required=True,
        metavar="F",
        help="d4rl (the HDF5 file that it was imported from, or a new one) or npz "
        "(flat arrays)",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="the file")
    add("--overwrite", action="store_true", help="replace a file of that name")
    _add_json(parser)
    parser.set_defaults(function=commands.export_data)


def _add_relabel(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes a dataset anew with another task and its rewards. An ExoRL task "
        "(--task walker_walk) is computed from the physics that the dataset has, a "
        "goal (--goal 0.5,-1 --radius 0.1) from the positions in its observations."
    )
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="folder of an RLDS dataset")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the new one")
    add(
        "--task",
        metavar="NAME",
        help="domain_task of ExoRL, such as walker_walk; with --goal what the task is "
        "called (default: goal and its coordinates)",
    )
    add(
        "--goal",
        type=_goal,
        metavar="X,Y",
        help="where reward 1 is given; or an extra with each episode's own goal",
    )
    add(
        "--radius",
        type=float,
        metavar="R",
        help="distance from the goal up to which the reward is 1",
    )
    add(
        "--margin",
        type=float,
        default=0.0,
        metavar="M",
        help="distance beyond it at which the reward has fallen to 0.1 (default: 0, "
        "there is none outside)",
    )
    add(
        "--columns",
        type=_columns,
        metavar="I,J",
        help="of the observation, from 0: the position (default: the first ones)",
    )
    add(
        "--extra",
        metavar="NAME",
        help="array whose columns are the position after the step (default: the next "
        "observation)",
    )
    add(
        "--processes",
        type=_count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="that compute rewards (default: one a core, here %(default)s)",
    )
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where computed rewards are kept, so that a run that was ended goes on "
        "(default: OUT.rewards, beside --out; none with --goal)",
    )
    add("--overwrite", action="store_true", help="replace a dataset in the folder")
    _add_json(parser)
    parser.set_defaults(function=commands.relabel_data)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    for name, benchmark in add_benchmarks(parser).items():
        benchmark.set_defaults(function=commands.bench, benchmark=name)


def _add_list(parser: argparse.ArgumentParser) -> None:
    kinds = ("presets", "envs", "datasets")
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
    _add_json(parser)
    parser.set_defaults(function=commands.list_known)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", dest="as_json", action="store_true", help="print JSON"
    )
