"""The options of `ring-rl data`; see `ring_rl.options`."""

import argparse
from pathlib import Path

from ring_rl import argument_types, data_commands

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


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`."""
    parser.add_argument(
        "--json", dest="as_json", action="store_true", help="print JSON"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The actions of `ring-rl data`, each with its function in `function`."""
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
        type=argument_types.bounds,
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
        type=argument_types.count,
        metavar="N",
        help="cut longer episodes, in environment steps (default: leave them)",
    )
    add(
        "--keys",
        type=argument_types.keys,
        metavar="FIELD=NAME,...",
        help="what the arrays of an npz or hdf5 file are (default: they are named "
        f"after the fields); fields: {_FIELDS}",
    )
    add(
        "--discrete",
        type=argument_types.count,
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
        type=argument_types.count,
        default=1,
        metavar="N",
        help="that write (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace a dataset in the folder")
    add_json(importing)
    importing.set_defaults(function=data_commands.import_data)
    _add_collect(actions.add_parser("collect", help="episodes of one's own to RLDS"))
    _add_export(actions.add_parser("export", help="a dataset to another format"))
    inspecting = actions.add_parser("inspect", help="what is in a dataset")
    inspecting.add_argument("directory", type=Path, metavar="DIR", help="its folder")
    inspecting.add_argument(
        "--png",
        type=Path,
        metavar="FILE",
        help="also draw the histograms of returns and lengths",
    )
    add_json(inspecting)
    inspecting.set_defaults(function=data_commands.inspect_data)
    _add_relabel(actions.add_parser("relabel", help="rewards of another task"))


def _add_collect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Collects episodes in an environment. The dataset depends on the seed, not on "
        "the processes. Ended early, the same command goes on: what was complete is "
        "kept beside --out, in .NAME.collecting."
    )
    add = parser.add_argument
    add("env_id", metavar="ENV", help="name, see ring-rl list")
    add(
        "--policy",
        required=True,
        metavar="P",
        help="random (uniform), noise-ladder (--base disturbed, more or less from "
        "episode to episode), rnd (DDPG that seeks what it has not seen), an actor's "
        "FILE.npz, or the folder of a run",
    )
    add(
        "--steps",
        type=argument_types.count,
        required=True,
        metavar="N",
        help="environment steps; the last episode is whole",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the dataset")
    add("--seed", type=int, default=0, metavar="S", help="(default: %(default)s)")
    add(
        "--processes",
        type=argument_types.count,
        default=1,
        metavar="N",
        help="that collect (default: %(default)s)",
    )
    add(
        "--base",
        "--policy-file",
        type=Path,
        metavar="FILE",
        help="actor's .npz file beneath the noise of noise-ladder",
    )
    add(
        "--noise",
        metavar="KIND",
        help="of noise-ladder: sticky (a random action is held for 4 steps) or "
        "gaussian (added to every action); an episode's share or scale is one of 0, "
        "0.1, ... 1 (default: sticky)",
    )
    add(
        "--sample",
        action="store_true",
        help="draw an actor's actions (default: take the likeliest)",
    )
    add(
        "--learners",
        type=argument_types.count,
        metavar="N",
        help="explorers of rnd, each in one process at a time (default: 1)",
    )
    add(
        "--tasks",
        type=argument_types.tasks,
        metavar="A;B;...",
        help="that the episodes go round (default: a hidden-task family's training "
        "tasks, else the environment's choice)",
    )
    add(
        "--max-episode-steps",
        type=argument_types.count,
        metavar="N",
        help="of an episode (default: the environment's)",
    )
    add(
        "--format",
        choices=("rlds", "exorl"),
        default="rlds",
        help="exorl: also ExoRL's files, in DIR/buffer (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace a dataset in the folder")
    add_json(parser)
    parser.set_defaults(function=data_commands.collect_data)


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="folder of an RLDS dataset")
    add(
        "--format",
        required=True,
        metavar="F",
        help="d4rl (the HDF5 file that it was imported from, or a new one), npz "
        "(flat arrays) or exorl (a folder of episodes)",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the file, or exorl's new folder",
    )
    add("--overwrite", action="store_true", help="replace a file of that name")
    add_json(parser)
    parser.set_defaults(function=data_commands.export_data)


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
        type=argument_types.goal,
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
        type=argument_types.columns,
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
        type=argument_types.count,
        metavar="N",
        help="that compute rewards (default: one a core; with --goal one)",
    )
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where computed rewards are kept, so that a run that was ended goes on "
        "(default: OUT.rewards, beside --out; none with --goal)",
    )
    add("--overwrite", action="store_true", help="replace a dataset in the folder")
    add_json(parser)
    parser.set_defaults(function=data_commands.relabel_data)
