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
# # A first run: does a context of earlier trials find a hidden goal?
#
# A small dark room: 5 x 5 cells, a goal that the observation does not show, ten steps
# an episode. An Agentic Transformer is trained on chains of episodes of mixed quality
# and then plays eight trials in goals it has never seen, all in one context. What it
# did and what came of it is all it has to go by.

# %%
import tempfile
from pathlib import Path

from ring_rl import runtime

runtime.prepare()  # four devices on a CPU, so that the ring is a ring

from ring_rl.configs import presets
from ring_rl.configs.datasets import open_datasets
from ring_rl.data.histogram import text_histogram
from ring_rl.data.inspect import inspect

# %% [markdown]
# ## The data
#
# The preset says where the episodes come from: here the run collects them itself, with
# a behaviour that goes to the goal but for a share of random steps, drawn anew for each
# episode. Your own data comes in with `ring-rl data import`.

# %%
folder = Path(tempfile.mkdtemp())
config = presets()["dark-room-tiny"]
import dataclasses

config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, parent=str(folder / "datasets"))
)
(store,) = open_datasets(config)
summary = inspect(store)
print(summary["steps"], "steps in", summary["episodes"], "episodes")
print(text_histogram(store.returns))

# %% [markdown]
# ## A chain
#
# Several episodes of one goal, ascending by return. All are told the largest return
# among them, minus what the episode has earned so far.

# %%
import matplotlib.pyplot as plt
import numpy as np

from ring_rl.data.chains import (
    ChainConfig,
    draw_members,
    group_episodes,
    make_chain,
)

groups = group_episodes(store, ChainConfig())
members = draw_members(groups, ChainConfig(trajectories=8), np.random.default_rng(4))
chain = make_chain(store, members, "good")
figure, axes = plt.subplots(figsize=(8, 3))
axes.step(
    np.arange(len(chain.rewards)), chain.target_returns, where="post", label="target"
)
axes.step(np.arange(len(chain.rewards)), chain.rewards, where="post", label="reward")
for start in np.flatnonzero(chain.timesteps == 0)[1:]:
    axes.axvline(start, color="0.8", linewidth=1)
axes.set(xlabel="step of the chain (lines: a new episode)", ylabel="units of reward")
axes.legend()
plt.show()

# %% [markdown]
# ## Training
#
# The tokens of a chain are spread over the devices, and attention over all of them is a
# ring. The run is a folder: configuration, metrics, checkpoints; killed, it resumes.

# %%
from ring_rl.configs.running import train

evaluation = train(
    config, directory=folder / "run", seeds=(config.seed,), evaluate=True
)
metrics = (folder / "run" / "metrics.jsonl").read_text().splitlines()
print(metrics[0])
print(metrics[-1])

# %% [markdown]
# ## Return by trial
#
# On held-out goals. The first trial has an empty context; the band is a 95 % bootstrap
# interval over the goals.

# %%
trials = evaluation["return_by_trial"]
x = np.arange(1, len(trials) + 1)
figure, axes = plt.subplots(figsize=(6, 3.5))
axes.plot(x, [trial["value"] for trial in trials], marker="o")
axes.fill_between(
    x,
    [trial["low"] for trial in trials],
    [trial["high"] for trial in trials],
    alpha=0.2,
)
axes.set(xlabel="trial in the same context", ylabel="return of the episode")
axes.set_ylim(bottom=0)
plt.show()

# %%
for name in ("first", "mean", "last", "max_of_n"):
    entry = evaluation[name]
    print(f"{name:9} {entry['value']:.2f}  [{entry['low']:.2f}, {entry['high']:.2f}]")

# %% [markdown]
# *max of n* is shown because papers report it; it rewards variance, and by itself says
# little.
