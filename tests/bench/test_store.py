"""The benchmark of a dataset larger than the memory that it takes."""

import json
import subprocess
import sys

import pytest

from ring_rl.cli import main

STAGES = ["import", "open", "sample", "every episode, shuffled"]


def test_every_stage_says_what_memory_it_took(bench, tmp_path):
    words = f"store --steps 1234 --episode-steps 100 --batches 2 --folder {tmp_path}"
    records = bench(words)
    assert [record["implementation"] for record in records] == STAGES
    for record in records:
        assert record["steps"] == 1234
        assert record["anonymous_bytes"] >= record["anonymous_bytes_before"] > 10e6
        assert record["wall_seconds"] > 0
    # 17 + 6 + 2 float32 and a float64 a step, at least.
    assert records[1]["array_bytes"] > 1234 * (25 * 4 + 8)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(tmp_path, capsys):
    for words, complaint in (
        (["--steps", "0"], "steps must be at least 1, found 0"),
        (["--folder", str(tmp_path / "none")], "none: expected a folder, found none"),
    ):
        assert main(["bench", "store", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and complaint in error


@pytest.mark.slow
def test_a_store_takes_less_memory_than_it_has_bytes():
    words = ["bench", "store", "--steps", "4000000", "--batches", "50", "--json"]
    script = "import sys; from ring_rl.cli import main; sys.exit(main(sys.argv[1:]))"
    # By itself: annotations are not checked at every call, and memory is its own.
    run = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    records = [json.loads(line) for line in run.stdout.splitlines()]
    (arrays,) = [r["array_bytes"] for r in records if "array_bytes" in r]
    most = max(record["anonymous_bytes"] for record in records)
    grown = most - records[0]["anonymous_bytes_before"]
    # Measured: 430 MB of arrays, 85 MB more memory than before.
    assert arrays > 400e6 and grown < 170e6
