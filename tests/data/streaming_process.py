"""One process of several: prints hashes of the parts of batches that it makes."""

import argparse
import hashlib
import json
import tracemalloc

import jax
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--process", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--layout", required=True)
    parser.add_argument("--form", required=True)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices // options.processes)
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            options.address,
            options.processes,
            options.process,
            initialization_timeout=300,
        )
    from ring_rl.attention import held
    from ring_rl.bench.synthetic import make_store
    from ring_rl.data.chains import ChainConfig
    from ring_rl.data.loader import ChainLoader, LoaderConfig
    from ring_rl.data.tokens import TokenConfig
    from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh

    store = make_store(40, 300, observation=20, action=3)
    loader = ChainLoader(
        store, LoaderConfig(rows=2, row_steps=6000), ChainConfig(trajectories=16),
        TokenConfig(layout=options.form), seed=0,
    )  # fmt: skip
    rules = ShardingRules(make_mesh(MeshConfig()))
    assert rules.ring == options.devices
    loader.shards(0, layout=options.layout, rules=rules)
    tracemalloc.start()
    # A run chooses its layout once, from the first batch.
    assert loader.choose_layout(rules.ring) in ("contiguous", "zigzag", "striped")
    batch = loader.shards(5, layout=options.layout, rules=rules)
    _, peak = tracemalloc.get_traced_memory()
    # By natural token: which device has it is no matter.
    parts = {}
    for leaves in zip(
        *(leaf.addressable_shards for leaf in jax.tree.leaves(batch)), strict=True
    ):
        start = leaves[0].index[1].indices(batch.weight.shape[1])[0]
        device = start // leaves[0].data.shape[1]
        length = loader.padded_length(rules.ring)
        index = np.concatenate(
            [np.arange(some.start, some.stop, some.step)
             for some in held(options.layout, length, rules.ring, device)]
        )  # fmt: skip
        for place in np.flatnonzero(index < loader.length)[:: len(index) // 7]:
            digest = hashlib.sha256()
            for leaf in leaves:
                digest.update(np.asarray(leaf.data)[:, place].tobytes())
            parts[int(index[place])] = digest.hexdigest()
    print(json.dumps({"peak": peak, "parts": parts}))


if __name__ == "__main__":
    main()
