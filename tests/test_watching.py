"""The watch over the processes of a run, as they end."""

import os
import subprocess
import sys

import pytest

from .addresses import free_address

# Signs of life without a pause: there is always one on its way as Python ends.
PROGRAM = """
import sys
from ring_rl import processes, watching
watching._BEAT = 0.0
processes.join(sys.argv[1], 2, int(sys.argv[2]))
{ending}
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["sys.exit(watching.leave(0))", ""])
def test_a_watch_ends_before_python_does(ending):
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(ending=ending), address, str(index)],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        ended = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, ended, strict=True):
        assert process.returncode == 0, output
