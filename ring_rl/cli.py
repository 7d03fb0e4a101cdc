"""The command `ring-rl`: words in, a function called, an exit code out.

Exit codes: 0; 1, it failed; 2, wrong usage or bad input; 130, interrupted. Bad input is
one line on the standard error. `RING_RL_TRACEBACK=1` adds where it was found.

The options are in `ring_rl.options` and `ring_rl.data_options`, what the subcommands do
is in `ring_rl.commands` and `ring_rl.data_commands`.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from ring_rl import watching
from ring_rl.options import TRACEBACK, join_bounds, make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    Args:
      argv: the words after `ring-rl`; the process's own when None.
    """
    try:
        code, why = _run(sys.argv[1:] if argv is None else argv), None
    except SystemExit as exit_:
        # From --help and --version.
        code, why = exit_.code if isinstance(exit_.code, int) else 0, None
    except KeyboardInterrupt as error:
        # Where something is kept, the text says what.
        kept = f": {error}" if str(error) else ""
        print(f"ring-rl: interrupted{kept}", file=sys.stderr)
        code, why = 130, KeyboardInterrupt("interrupted")
    except Exception as error:
        watching.find_fault(error)
        code, why = _explain(error), error
    return watching.leave(code, why)


def _run(words: Sequence[str]) -> int:
    parser = make_parser()
    found, rest = parser.parse_known_args(join_bounds(words))
    arguments = vars(found)
    command, function = arguments.pop("command"), arguments.pop("function")
    if command in ("train", "study"):
        arguments["words"] = rest
    elif rest:
        raise ValueError(
            f"{command}: does not know {' '.join(rest)} (see ring-rl {command} --help)"
        )
    function(**arguments)
    return 0


def _explain(error: Exception) -> int:
    """Prints an error; returns 2 if the input is to blame, 1 if the program is."""
    message = " ".join(str(error).split()) or type(error).__name__
    files = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
    # A ValueError that another package raised deep inside is a bug, not a mistake of
    # the user's: it needs its traceback.
    mistake = isinstance(error, files) or (
        isinstance(error, ValueError) and _raised_here(error)
    )
    # The text of these says it all: a package that an extra brings, a full disk, a
    # loss that is no longer a number.
    plain = mistake or isinstance(
        error, ModuleNotFoundError | OSError | FloatingPointError
    )
    if not plain or os.environ.get(TRACEBACK, "0") != "0":
        traceback.print_exception(error)
    name = "" if plain else f"{type(error).__name__}: "
    print(f"ring-rl: error: {name}{message}", file=sys.stderr)
    return 2 if mistake else 1


def _raised_here(error: Exception) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).split(".")[0] == "ring_rl"
