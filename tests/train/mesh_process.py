"""One process of several: trains on meshes of all devices, writes what came of it."""

import argparse
import itertools
import sys
import traceback
from pathlib import Path

import jax
import numpy as np
from meshes import CONTINUOUS, MESHES, STEPS, make_parts, run, widened

from ring_rl import processes, watching
from ring_rl.mesh import MeshConfig
from ring_rl.train.loop import LoopConfig, train
from ring_rl.train.optimiser import OptimiserConfig
from ring_rl.train.stopping import Stopped


def on_meshes(out: Path, names: list[str]) -> None:
    """Losses in f64; in f32 the first loss and its gradients; by the mesh's name."""
    for name in names:
        mesh = MESHES[name]
        wide, _ = run(8, "zigzag", "fused", CONTINUOUS, wide=True, mesh=mesh, rows=4)
        losses, gradients = run(8, "zigzag", "fused", CONTINUOUS, mesh=mesh, rows=4)
        if processes.leads():
            file = out / f"{name}.npz"
            named = {f"gradient {i}": x for i, x in enumerate(gradients)}
            np.savez(file, wide=wide, first=losses[0], **named)


def on_the_ring(out: Path, updates: int) -> None:
    """A run in f64, from where its folder stands; so many updates more."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    mesh = MeshConfig(sequence=jax.device_count())
    agent, model, loader, rules = make_parts(mesh, 2, "fused", CONTINUOUS, True)

    def stream(start, stop):
        batches = loader.stream(start, stop, layout="zigzag", rules=rules)
        return map(widened, batches)

    asked = itertools.count()
    try:
        train(
            agent,
            model,
            stream,
            optimiser=OptimiserConfig(learning_rate=1e-2, warmup=2),
            loop=LoopConfig(steps=STEPS, log_every=1),
            directory=out,
            rules=rules,
            seed=0,
            stop=lambda: next(asked) >= updates,
        )
    except Stopped:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--process", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mesh", action="append", choices=MESHES, default=[])
    parser.add_argument(
        "--updates", type=int, help="train the run in --out by so many more"
    )
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices // options.processes)
    if options.processes > 1:
        processes.join(options.address, options.processes, options.process)
    error = None
    try:
        work(options)
    except BaseException as one:
        traceback.print_exception(one)
        error = one
    sys.exit(watching.leave(0 if error is None else 1, error))


def work(options: argparse.Namespace) -> None:
    assert jax.device_count() == options.devices
    if options.mesh:
        on_meshes(options.out, options.mesh)
    else:
        on_the_ring(options.out, options.updates)


if __name__ == "__main__":
    main()
