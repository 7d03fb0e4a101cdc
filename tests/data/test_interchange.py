"""The extras `rlds` and `d4rl`, each in a process of its own.

A check is a function of one of the scripts named here.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TENSORFLOW = ("tf_checks.py", "tf_foreign_checks.py", "tfds_checks.py")
SLOW = "check_training_and_evaluation"


def checks(*scripts):
    return [
        name
        for script in scripts
        for name in re.findall(r"^def (check_\w+)", (HERE / script).read_text(), re.M)
    ]


def run_apart(*scripts):
    """The traceback of each check by name, empty where it passed."""
    command = [sys.executable, HERE / "apart.py", *(f"{HERE / it}" for it in scripts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def needs(extra, *packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    reason = f"the extra {extra} is not installed: no {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing), reason=reason)


@pytest.fixture(scope="module")
def with_tensorflow():
    return run_apart(*TENSORFLOW)


@pytest.fixture(scope="module")
def with_d4rl():
    return run_apart("d4rl_checks.py")


@pytest.fixture(scope="module")
def without_extras():
    quick = [name for name in checks("without_extras_checks.py") if name != SLOW]
    return run_apart(f"without_extras_checks.py::{','.join(quick)}")


@needs("rlds", "tensorflow", "rlds")
@pytest.mark.parametrize("name", checks(*TENSORFLOW))
def test_with_tensorflow(with_tensorflow, name):
    assert not with_tensorflow[name], with_tensorflow[name]


@needs("d4rl", "d4rl")
@pytest.mark.parametrize("name", checks("d4rl_checks.py"))
def test_with_d4rl(with_d4rl, name):
    assert not with_d4rl[name], with_d4rl[name]


@pytest.mark.parametrize(
    "name", [name for name in checks("without_extras_checks.py") if name != SLOW]
)
def test_without_extras(without_extras, name):
    assert not without_extras[name], without_extras[name]


@pytest.mark.slow
def test_training_without_extras():
    outcomes = run_apart(f"without_extras_checks.py::{SLOW}")
    assert not outcomes[SLOW], outcomes[SLOW]
