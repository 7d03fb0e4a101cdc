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
# # Explore a dataset: from episodes to the tokens that a transformer reads
#
# A small dataset is collected, opened and looked at: what is in it, how good it is, how
# its episodes become a chain in hindsight, and what of a chain the transformer is
# shown. Nothing is trained here.

# %%
import tempfile
from pathlib import Path

from ring_rl import runtime

runtime.prepare(devices=1)  # nothing here needs more

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

plt.rcParams.update(
    {"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False}
)
temporary = tempfile.TemporaryDirectory()  # removed with the kernel
folder = Path(temporary.name)


def table(names, rows):
    lines = [names, ["---:"] * len(names), *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, x)) + " |" for x in lines))


# %% [markdown]
# ## Collect
#
# A dark room of 5 x 5 cells. The agent starts in the middle, sees where it stands, and
# gets a reward of 1 for each of ten steps that ends on a goal it does not see. Six of
# the 24 possible goals are held out, for later evaluations.
#
# The behaviour goes to the goal or, in half of the episodes, to a cell drawn at random;
# and each episode strays as often as a rate of its own says. So there are good,
# middling and useless episodes of every goal, which is what hindsight needs.
#
# At the command line, `ring-rl data collect` does the same with other behaviours, and
# `ring-rl data import` brings in data of others.

# %%
from ring_rl.collect import DarkRoomBehaviour
from ring_rl.configs.recording import collect
from ring_rl.configs.run import DarkRoom

room = DarkRoom(size=5, max_steps=10, held_out=6)
summary = collect(
    room,
    DarkRoomBehaviour(room.size),
    out=folder / "dark-room",
    steps=9000,
    tasks=room.training_tasks,
    rows=18,
)
print(*sorted(path.name for path in (folder / "dark-room").iterdir()), sep="\n")

# %% [markdown]
# That is a dataset in RLDS form: TFDS reads it too. The folder `arrays` is made from
# the records, once: flat arrays that are mapped from disk, so that a dataset larger
# than memory opens as fast as this one.

# %%
from ring_rl.data.store import open_store

store = open_store(folder / "dark-room")
names = ("observations", "actions", "rewards", "discounts", "offsets", "tasks")
arrays = [(name, getattr(store, name)) for name in names]
table(["array", "shape", "type"], [(n, a.shape, a.dtype) for n, a in arrays])

# %% [markdown]
# ## What is in it
#
# `inspect` gives what one wants to know first, as `ring-rl data inspect` does: sizes,
# spaces, quantiles, and whatever looks odd.

# %%
from ring_rl.data.inspect import inspect

summary = inspect(store)
print(summary["episodes"], "episodes,", summary["steps"], "steps")
print(summary["task_count"], "tasks:", summary["tasks"])
print("observation: ", summary["spaces"]["observation"], "numbers")
print("action:      ", summary["spaces"]["action"])
print("anomalies:   ", summary["anomalies"] or "none")

# %%
quantiles = summary["return_quantiles"]
table(
    ["quantile", *quantiles],
    [
        ("return (units of reward)", *quantiles.values()),
        ("length (steps)", *summary["length_quantiles"].values()),
    ],
)

# %% [markdown]
# All episodes have ten steps: nothing ends one but its length. Their returns differ by
# as much as they can: half of them earn nothing, a few earn all there is.

# %%
from ring_rl.data.histogram import text_histogram

print(text_histogram(store.returns))

# %% [markdown]
# Is every goal as well covered as the others? Left, the mean return of the episodes of
# each goal. A goal that is far from the start earns less, for the way takes steps. Grey
# is the start, and crosses are the goals held out. Right, where the agent was, in all
# episodes together.

# %%
size = room.size
mean_return = np.full((size, size), np.nan)
for task, episodes in store.by_task().items():
    x, y = map(int, task.split(","))
    mean_return[y, x] = store.returns[episodes].mean()
visits = np.einsum(
    "sy,sx->yx", store.observations[:, size:], store.observations[:, :size]
)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
titles = ("mean return of a goal's episodes", "share of all steps (%)")
pictures = (mean_return, 100 * visits / visits.sum())
for ax, picture, title in zip(axes, pictures, titles, strict=True):
    shown = ax.imshow(picture, origin="lower", cmap="Blues", vmin=0)
    ax.set(title=title, xlabel="x (cells)", ylabel="y (cells)", facecolor="0.8")
    figure.colorbar(shown, ax=ax)
for task in room.evaluation_tasks:
    axes[0].plot(*map(int, task.split(",")), "x", color="#D55E00", markersize=12)
plt.show()

# %% [markdown]
# ## One episode
#
# Episodes are views of the flat arrays. An observation is x and y, each as one-hot, and
# says nothing of the goal.

# %%
from ring_rl.envs.dark_room import DARK_ROOM_ACTIONS


def cell(observation):
    return int(observation[:size].argmax()), int(observation[size:].argmax())


good = int(np.flatnonzero((store.returns == 6) & (store.tasks == "3,3"))[0])
episode = store.episode(good)
print("goal", episode.task, "  return", store.returns[good])
table(
    ["step", "stands at (x, y)", "action", "reward"],
    [
        (step, cell(seen), DARK_ROOM_ACTIONS[action], reward)
        for step, (seen, action, reward) in enumerate(
            zip(episode.observations, episode.actions, episode.rewards, strict=True)
        )
    ],
)

# %% [markdown]
# ## A chain, in hindsight
#
# Some episodes of one goal, ascending by return, make a chain. Whatever the behaviour
# wanted, each is told the same: the largest return among them. So the chain reads as a
# record of getting better at what was asked. An episode that reaches the target is
# marked complete at its last step, and only episodes that earn at least half the target
# are imitated (weight 1); the others are there to be read.

# %%
from ring_rl.data.chains import ChainConfig, choose_members, make_chain

config = ChainConfig(trajectories=5)
members = choose_members(
    store.by_task()["3,3"], 5, config, np.random.default_rng(seed=7)
)
chain = make_chain(store, members, config.loss_on)
starts = np.flatnonzero(chain.timesteps == 0)
parts = [
    slice(start, stop)
    for start, stop in zip(starts, [*starts[1:], len(chain.rewards)], strict=True)
]
table(
    ["episode of the chain", "return", "target at its start", "completion", "weight"],
    [
        (
            number,
            chain.rewards[part].sum(),
            chain.target_returns[part][0],
            int(chain.completions[part][-1]),
            int(chain.weights[part][0]),
        )
        for number, part in enumerate(parts, 1)
    ],
)

# %% [markdown]
# Within an episode the target goes down by what has been earned: it is what is left to
# earn. Below, the chain step by step; the dot is the completion, and the shaded
# episodes are those that are imitated.

# %%
steps = np.arange(len(chain.rewards))
figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.step(steps, chain.target_returns, where="mid", label="target return, what is left")
ax.step(steps, chain.rewards, where="mid", label="reward")
done = np.flatnonzero(chain.completions)
ax.plot(done, chain.completions[done], "o", color="black", label="completion")
for part in parts:
    ax.axvline(part.start - 0.5, color="0.8", linewidth=1)
    if chain.weights[part][0]:
        ax.axvspan(part.start - 0.5, part.stop - 0.5, color="0.93", zorder=0)
ax.set(xlabel="step of the chain (lines: a new episode)", ylabel="units of reward")
ax.set_xlim(-0.5, len(steps) - 0.5)
ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## The tokens of a chain
#
# By default a step is one token: the target, the observation, and what came of the step
# *before*. Its own action is not in it: that is the label, what is to be predicted.
# Here are the tokens on both sides of the end of the fourth episode. Look at the first
# token of the fifth: it stands at the start again, yet shows the last action and reward
# of the episode before. That is how what came of an episode enters the context.

# %%
from ring_rl.data.tokens import TokenConfig, pack

fused = pack([(0, chain)], 1, len(steps), TokenConfig(), store.spaces)
tokens = fused.tokens
around = range(parts[4].start - 3, parts[4].start + 4)
table(
    ["position", "step", "target", "stands at", "action before", "reward before",
     "completion before", "label", "weight"],
    [
        (
            tokens.positions[0, i],
            tokens.timestep[0, i],
            tokens.target_return[0, i],
            cell(tokens.observation[0, i]),
            DARK_ROOM_ACTIONS[tokens.action[0, i]],
            tokens.reward[0, i],
            int(tokens.completion[0, i]),
            DARK_ROOM_ACTIONS[fused.label[0, i]],
            int(fused.weight[0, i]),
        )
        for i in around
    ],
)  # fmt: skip

# %% [markdown]
# The paper's layout gives each field a token of its own. The context is then five times
# as long, and the action is read out at the observation's token. Either is a setting of
# the agent: `--agent.tokens.layout interleaved`.

# %%
layout = TokenConfig(layout="interleaved")
length = len(steps) * layout.tokens_per_step
interleaved = pack([(0, chain)], 1, length, layout, store.spaces)
print(len(steps), "steps:", len(steps), "fused tokens,", length, "interleaved tokens")
shows = interleaved.tokens.present[0]
read_out = interleaved.weight[0] > 0
first = parts[4].start * layout.tokens_per_step
table(
    ["position", "step", "shows", "action read out here"],
    [
        (
            interleaved.tokens.positions[0, i],
            interleaved.tokens.timestep[0, i],
            layout.fields[int(shows[i].argmax())],
            DARK_ROOM_ACTIONS[interleaved.label[0, i]] if read_out[i] else "",
        )
        for i in range(first, first + 7)
    ],
)

# %% [markdown]
# ## A batch
#
# Rows are packed with whole chains of any number of episodes. Chains of a row do not
# see each other, and each picks its own goal. The picture is one batch: a colour is a
# chain, a white line the start of an episode, hatched what is left empty.

# %%
from ring_rl.data.loader import ChainLoader, LoaderConfig
from ring_rl.mesh import MeshConfig, ShardingRules, make_mesh

loader = ChainLoader(
    store, LoaderConfig(rows=8, row_steps=160), ChainConfig(8), TokenConfig(), seed=0
)
rules = ShardingRules(make_mesh(MeshConfig()))
batch = next(loader.stream(0, 1, layout="contiguous", rules=rules))
segments = np.asarray(batch.tokens.segments)
begins = np.asarray(batch.tokens.timestep == 0) & (segments >= 0)
figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
for row, (ids, begin) in enumerate(zip(segments, begins, strict=True)):
    for chain_id in np.unique(ids):
        at = np.flatnonzero(ids == chain_id)
        look = {"color": f"C{chain_id % 10}"} if chain_id >= 0 else {
            "facecolor": "white", "edgecolor": "0.7", "hatch": "////"
        }  # fmt: skip
        ax.barh(row, len(at), left=at[0], height=0.8, linewidth=0, **look)
    ax.vlines(np.flatnonzero(begin), row - 0.4, row + 0.4, color="white", linewidth=1)
ax.set(xlabel="token of the row", ylabel="row of the batch", xlim=(0, 160))
ax.invert_yaxis()
plt.show()

# %% [markdown]
# The batch depends on the seed and the step alone: any number of devices reads the same
# one, and a run that was killed goes on with the next.
