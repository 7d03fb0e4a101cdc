"""Runs the `check_*` functions of scripts in a process of their own, as tests.

    python tests/data/apart.py SCRIPT[::CHECK,...]...

For what may not be imported where the other tests run: TensorFlow is half a gigabyte
and seconds, once. Each check gets a new folder. Prints one JSON object, the traceback
of each check by its name, empty where it passed.
"""

import io
import json
import os
import runpy
import sys
import tempfile
import traceback
from contextlib import redirect_stdout
from pathlib import Path

from jaxtyping import install_import_hook

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
install_import_hook("ring_rl", "beartype.beartype")


def main(scripts: list[str]) -> None:
    outcomes = {}
    for script in scripts:
        path, _, chosen = script.partition("::")
        found = runpy.run_path(path)
        for name in chosen.split(",") if chosen else found:
            if not name.startswith("check_"):
                continue
            check = found[name]
            with tempfile.TemporaryDirectory() as folder:
                try:
                    with redirect_stdout(io.StringIO()):
                        check(Path(folder))
                    outcomes[name] = ""
                except Exception:
                    outcomes[name] = traceback.format_exc()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
