"""The watch over the processes of a run, as they end."""

import os
import socket
import subprocess
import sys

import pytest

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
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
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
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
