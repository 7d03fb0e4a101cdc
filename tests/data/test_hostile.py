"""Thousands of broken and treacherous files, each read in a bounded process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MUTATIONS = 300  # of each format, beside its tricks
FORMATS = ("d4rl", "exorl", "hdf5", "minari", "npz", "rlds", "tfrecord")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What came of every case, by format and description."""
    found = {}
    for format in FORMATS:
        folder = tmp_path_factory.mktemp(format)
        words = [HERE / "hostile_worker.py", format, folder, MUTATIONS]
        process = subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=900,
        )
        lines = [json.loads(line) for line in process.stdout.splitlines()]
        names = dict(lines[::2])
        found[format] = {
            f"{number}: {name}": "killed the process" for number, name in names.items()
        }
        for number, outcome in lines[1::2]:
            found[format][f"{number}: {names[number]}"] = outcome
        assert process.returncode == 0, f"{format}: {process.stderr[-2000:]}{lines[-1]}"
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_every_bad_source_is_refused_in_one_line_or_read(outcomes, format):
    wrong = {
        name: outcome
        for name, outcome in outcomes[format].items()
        if outcome not in ("refused", "read")
    }
    assert not wrong
    # Neither reader nor test lets everything through, or nothing.
    refused = list(outcomes[format].values()).count("refused")
    assert 0.4 * len(outcomes[format]) < refused < len(outcomes[format])


def test_there_are_thousands_of_cases(outcomes):
    assert sum(map(len, outcomes.values())) >= 2000
    assert min(map(len, outcomes.values())) >= 200


@pytest.mark.parametrize("format", ["d4rl", "hdf5", "minari"])
def test_no_other_file_is_read(outcomes, format):
    tricks = ("external link", "external storage", "virtual", "soft link", "other file")
    tricky = {
        name: outcome
        for name, outcome in outcomes[format].items()
        if name.endswith(tricks) or "other file" in name
    }
    assert len(tricky) > 5
    assert set(tricky.values()) == {"refused"}
