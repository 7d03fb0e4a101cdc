# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Context scaling: what do more trajectories buy, and what do they cost?
#
# Two questions. Does an agent that reads more of its past trials act better? And what
# happens to the memory of a device when the context grows with the number of devices?

# %%
import contextlib
import dataclasses
import io
import os
import tempfile
from pathlib import Path

from ring_rl import runtime

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # which shows as many devices as asked
runtime.prepare(devices=8)

import jax
import matplotlib.pyplot as plt
import numpy as np

from ring_rl.configs import presets
from ring_rl.configs.running import train
from ring_rl.mesh import MeshConfig

plt.rcParams.update(
    {"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False}
)
temporary = tempfile.TemporaryDirectory()  # removed with the kernel
folder = Path(temporary.name)

# %% [markdown]
# ## One, two, four, eight trajectories
#
# Four Agentic Transformers in the small dark room of the first notebook. They differ in
# one number: how many trajectories a chain has at most, in training and when acting.
# Data, sizes, updates and tokens in a batch are the same. Each plays eight trials in
# goals it has never seen; after as many trials as it was trained with, its context is
# cleared.
#
# One trajectory is what a Decision Transformer reads.

# %%
# The four compile to the same programs: keep them between runs.
jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

tiny = presets()["dark-room-tiny"]
tiny = dataclasses.replace(
    tiny,
    data=dataclasses.replace(tiny.data, parent=str(folder / "datasets")),
    loader=dataclasses.replace(tiny.loader, rows=4),  # half a batch, half the time
    mesh=MeshConfig(sequence=1),  # so short a context needs no ring
)


def train_with(trajectories):
    agent = dataclasses.replace(
        tiny.agent,
        chains=dataclasses.replace(tiny.agent.chains, trajectories=trajectories),
        trials_in_context=trajectories,
    )
    return train(
        dataclasses.replace(tiny, agent=agent),
        directory=folder / f"{trajectories}-trajectories",
        seeds=(0,),
        evaluate=True,
    )


counts = (1, 2, 4, 8)
with contextlib.redirect_stderr(io.StringIO()):  # progress, with times
    evaluations = {count: train_with(count) for count in counts}

# %%
figure, axes = plt.subplots(
    1, 2, figsize=(8.5, 3.4), layout="constrained", width_ratios=(1, 1.3)
)
low, value, high = np.array(
    [[evaluations[n]["last"][k] for k in ("low", "value", "high")] for n in counts]
).T
axes[0].errorbar(
    counts, value, [value - low, high - value], marker="o", capsize=4, color="black"
)
axes[0].set_xscale("log", base=2)
axes[0].set_xticks(counts, counts)
axes[0].set(
    xlabel="trajectories in the context at most",
    ylabel="return of trial 8\n(mean, 95 % interval)",
)
axes[0].set_ylim(bottom=0)
for number, count in enumerate(counts):
    curve = [trial["value"] for trial in evaluations[count]["return_by_trial"]]
    axes[1].plot(
        range(1, 9), curve, marker="o", markersize=4, label=f"{count}",
        color=plt.get_cmap("viridis")(number / 3.5),
    )  # fmt: skip
axes[1].set(xlabel="trial", ylabel="mean return", ylim=(0, None))
axes[1].legend(title="trajectories", frameon=False)
plt.show()

# %%
print("trajectories   first trial      mean of 8        last trial")
for count in counts:
    print(f"{count:<12}", end="")
    for name in ("first", "mean", "last"):
        entry = evaluations[count][name]
        print("   {value:.1f} [{low:.1f}, {high:.1f}]".format(**entry), end="")
    print()

# %% [markdown]
# Eight trajectories are worth having here, one or two are not: after a single trial the
# goal is mostly still unknown. The agent with four falls back in trial 5, when its
# context is cleared, and begins to climb again.
#
# The intervals are 95 % bootstrap intervals over the six held-out goals. There is one
# training seed of each, so they do not say how another training would come out;
# `ring-rl train dark-room --seeds 0,1,2` would.

# %% [markdown]
# ## What a longer context costs
#
# Attention over S tokens compares S x S pairs. Written down plainly, the scores alone
# are S x S numbers for each head. `blockwise` attention makes them tile by tile and
# keeps none, but holds the whole sequence on one device. The *ring* shares the sequence
# out: each device keeps its own queries, and blocks of keys and values go round. The
# result is the same, to rounding.
#
# So with twice the devices the context can be twice as long. What does each device then
# need? The compiler knows without running anything: below, the memory of a device for
# attention and its gradients, inputs and results included, with 4 heads of width 32 in
# float32. Nothing is computed, which is why the devices may be parts of one CPU, and
# why the plain way can be asked about at all.

# %%
from ring_rl.bench.config import AttentionConfig
from ring_rl.bench.memory import MemoryConfig, measure

KINDS = ("temp", "argument", "output")


def megabytes(implementation, tokens, devices, *, per_device):
    problem = AttentionConfig(implementation=implementation, head_dim=32, backward=True)
    config = MemoryConfig(tokens, devices, per_device, problem)
    return [
        sum(record[f"{kind}_bytes_per_device"] for kind in KINDS) / 1e6
        for record in measure(config, lambda line: None)
    ]


devices = (1, 2, 4, 8)
tokens = tuple(4096 * count for count in devices)
plain = megabytes("reference", tokens, (1,), per_device=False)
blockwise = megabytes("blockwise", tokens, (1,), per_device=False)
ring = megabytes("ring", tokens[:1], devices, per_device=True)

print(f"{'tokens of context':26}", *(f"{count:>8,}" for count in tokens))
for name, amounts in (
    ("plain, one device", plain),
    ("blockwise, one device", blockwise),
    ("ring, 1, 2, 4, 8 devices", ring),
):
    print(f"{name:26}", *(f"{amount:>8,.0f}" for amount in amounts), " MB a device")

# %%
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(tokens, blockwise, marker="s", color="#D55E00", label="blockwise, one device")
ax.plot(tokens, ring, marker="o", color="#0072B2", label="ring, 4,096 tokens a device")
for x, y, count in zip(tokens, ring, devices, strict=True):
    ax.annotate(f"{count}", (x, y), (0, -14), textcoords="offset points", ha="center")
ax.set_xticks(tokens, [f"{count:,}" for count in tokens])
ax.set(xlabel="tokens of context (below the line: devices)", ylim=(0, None))
ax.set_ylabel("memory of a device (MB)")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The plain way would need 120 GB where the others need less than 0.2. Blockwise grows
# in proportion to the context, for one device holds it all. On the ring it stays what
# it is: from one device to four a device makes room for the blocks that are under way,
# and from there on more devices cost it nothing. So the longest context is a matter of
# how many devices there are. `ring-rl bench memory` asks the same of other sizes.
#
# Of time this says nothing: pairs grow with the square of the context, devices only in
# proportion to it.
