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
# # Inside the attention: which past trajectory does it read?
#
# An agent that gets better from trial to trial, without a change of its weights, must
# read its past somewhere. Here one is trained, plays eight trials in goals it has never
# seen, and is then looked into: where does the attention of its acting tokens go, and
# does it matter?

# %%
import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

from ring_rl import runtime

runtime.prepare(devices=1)  # eighty tokens of context need no more

import matplotlib.pyplot as plt
import numpy as np

from ring_rl.configs import presets
from ring_rl.configs.running import train

plt.rcParams.update(
    {"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False}
)
temporary = tempfile.TemporaryDirectory()  # removed with the kernel
folder = Path(temporary.name)
config = presets()["dark-room-tiny"]
config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, parent=str(folder / "datasets"))
)
with contextlib.redirect_stderr(io.StringIO()):  # progress, with times
    train(config, directory=folder / "run", seeds=(0,), evaluate=False)

# %% [markdown]
# ## Playing
#
# `ring_rl.load` gives a policy for a loop of one's own. 24 rows, four for each of the
# six held-out goals, play eight trials of ten steps each. A row keeps its context
# through all its trials.

# %%
import ring_rl

policy = ring_rl.load(str(folder / "run"))
each = 4
goals = [goal for goal in config.environment.evaluation_tasks for _ in range(each)]
rows, trials, steps = len(goals), 8, config.environment.max_steps
environment = config.environment.make(rows, seed=0)


def play(trials):
    """What was seen, done and earned: arrays of rows by steps of all trials."""
    seen, done, earned = [], [], []
    for _ in range(trials):
        observations = environment.reset(np.ones(rows, bool), goals)
        for _ in range(steps):
            actions = policy.act(observations)
            seen.append(observations.astype(np.float32))
            done.append(actions)
            observations, rewards, terminated, truncated = environment.step(actions)
            policy.observe(rewards, terminated, truncated)
            earned.append(rewards.astype(np.float32))
    return np.stack(seen, 1), np.stack(done, 1), np.stack(earned, 1)


policy.reset(rows, trials=trials, steps=steps, seed=0)
observations, actions, rewards = play(trials)
returns = rewards.reshape(rows, trials, steps).sum(-1)
print("mean return of trial 1 to 8:", *returns.mean(0).round(1))

# %% [markdown]
# One row to look at more closely, the first that had to search for its goal and kept
# it: its eight trials, the way in blue, the goal a green square that the agent is not
# shown.

# %%
searched = (returns[:, :2] == 0).all(1) & (returns[:, -3:] > 0).all(1)
one = int(searched.argmax())
size = config.environment.size
places = np.stack(
    [observations[..., :size].argmax(-1), observations[..., size:].argmax(-1)], -1
)
wobble = np.random.default_rng(0).uniform(-0.12, 0.12, places.shape)
x, y = map(int, goals[one].split(","))
figure, axes = plt.subplots(1, trials, figsize=(9, 1.6), layout="constrained")
for trial, ax in enumerate(axes):
    part = slice(trial * steps, (trial + 1) * steps)
    way = (places + wobble)[one, part]
    ax.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, color="#bfe3c4"))
    ax.plot(*way.T, color="#0072B2", linewidth=1)
    ax.plot(*way[0], "o", color="#0072B2", markersize=3)
    ax.set(xlim=(-0.5, size - 0.5), ylim=(-0.5, size - 0.5), xticks=[], yticks=[])
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_aspect("equal")
    ax.set_title(f"trial {trial + 1}\nreturn {returns[one, trial]:.0f}", fontsize=9)
plt.show()

# %% [markdown]
# ## Looking
#
# Attention never has its weights in memory: they are made tile by tile and forgotten.
# `look` computes them again, for the tokens that one asks about. The question here:
# what do the ten acting tokens of the last trial read?

# %%
from ring_rl.agents.looking import look
from ring_rl.configs.loading import load_model
from ring_rl.types import Chain

_, derived, model = load_model(folder / "run")
nothing = np.zeros(trials * steps, np.float32)
timesteps = np.tile(np.arange(steps, dtype=np.int32), trials)
last = range((trials - 1) * steps, trials * steps)


def chain_of(row, rewards=rewards, until=trials * steps):
    fields = (observations[row], actions[row], rewards[row])
    rest = (nothing, nothing, timesteps, nothing)
    return Chain(*(field[:until] for field in (*fields, *rest)))


looks = [
    look(
        config.agent,
        model,
        chain_of(row),
        told=derived.target_return,
        queries=list(last),
    )
    for row in range(rows)
]
masses = np.stack([found.masses for found in looks])
print("rows, acting tokens, layers, heads, steps read:", masses.shape)

# %% [markdown]
# ## Which trial, by which head?
#
# For the row above: the first acting token of trial 8, before it has done anything. A
# column adds up to 100 % but for rounding. The last column is what each trial would get
# if all steps of the context were read alike.

# %%
layers, heads = masses.shape[2:4]
by_trial = looks[one].by_trial()[0].reshape(layers * heads, trials)
alike = looks[one].seen[0].reshape(trials, steps).sum(-1) / looks[one].seen[0].sum()
shares = 100 * np.vstack([by_trial, alike]).T
names = [f"layer {i + 1}\nhead {j + 1}" for i in range(layers) for j in range(heads)]
figure, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
shown = ax.imshow(shares, cmap="Blues", vmin=0, aspect="auto")
for (trial, column), share in np.ndenumerate(shares):
    colour = "white" if share > 0.6 * shares.max() else "black"
    ax.text(column, trial, f"{share:.0f}", ha="center", va="center", color=colour)
ax.axvline(layers * heads - 0.5, color="white", linewidth=4)
ax.set_xticks(range(len(names) + 1), [*names, "all\nalike"])
ax.set_yticks(
    range(trials), [f"{t + 1} ({returns[one, t]:.0f})" for t in range(trials)]
)
ax.set_ylabel("trial that is read (its return)")
figure.colorbar(shown, ax=ax, label="attention (%)")
plt.show()

# %% [markdown]
# The first three trials found nothing, and three of the four heads hardly read them:
# they read the trials that reached the goal, the latest ones most. The first head of
# layer 1 does something else.

# %% [markdown]
# ## Which steps of a trial?
#
# The same token and row, layer 2 (mean of its heads), step by step. A token shows what
# came of the step *before* it, so a reward is read one token later, that of a trial's
# last step at the next trial's first token. Dots mark the tokens that show a reward.
# Grey has not happened yet.

# %%
before = np.concatenate([np.zeros((rows, 1), np.float32), rewards[:, :-1]], 1) > 0
grid = np.where(looks[one].seen[0], 100 * looks[one].masses[0, 1].mean(0), np.nan)
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
ax.set_facecolor("0.85")
shown = ax.imshow(grid.reshape(trials, steps), cmap="Blues", vmin=0, aspect="auto")
trial, step = np.divmod(np.flatnonzero(before[one] & looks[one].seen[0]), steps)
ax.plot(step, trial, "o", color="#D55E00", markersize=5)
ax.plot(0, trials - 1, "*", color="black", markersize=11)
ax.set_xticks(range(steps), range(1, steps + 1))
ax.set_yticks(range(trials), range(1, trials + 1))
ax.set(xlabel="step that is read (star: the acting token)", ylabel="trial that is read")
figure.colorbar(shown, ax=ax, label="attention (%)")
plt.show()

# %% [markdown]
# Hardly anything but the dots is read. The other tokens of the same trials, on the way
# to the goal, are not.

# %% [markdown]
# ## Over all rows
#
# One row may be an accident. For all rows that had found their goal before trial 8: how
# much of the attention goes to tokens of earlier trials that show a reward, beside
# their share of the tokens?

# %%
in_sight = np.stack([found.seen for found in looks])
rewarded = before & (np.arange(trials * steps) < last[0])
found_it = rewarded.any(-1)
given = (masses * rewarded[:, None, None, None]).sum(-1)[found_it]
share = (in_sight & rewarded[:, None]).sum(-1) / in_sight.sum(-1)
share = share[found_it].mean(0)
print(f"{found_it.sum()} of {rows} rows found the goal in trials 1 to 7")
print(f"first acting token; share of the tokens: {share[0]:.0%}")
for layer, head in np.ndindex(layers, heads):
    amount = given[:, 0, layer, head].mean()
    print(f"  layer {layer + 1}, head {head + 1}: {amount:.0%} of the attention")

# %% [markdown]
# Both heads of layer 2 give more than nine tenths of their attention to little more
# than a third of the tokens: those that say where the goal is. One caution: layer 2
# reads what layer 1 has made of a token, which is the token and something of what came
# before it.

# %% [markdown]
# And in the course of the trial: where does the attention go at each of its ten steps?

# %%
own = masses[found_it][..., last[0] :].sum(-1)
other = 1 - own - given
figure, axes = plt.subplots(
    1, layers, figsize=(8.5, 3), sharey=True, layout="constrained"
)
for layer, ax in enumerate(axes):
    parts = [part[:, :, layer].mean((0, 2)) for part in (given, other, own)]
    ax.stackplot(
        range(1, steps + 1),
        [100 * part for part in parts],
        labels=[
            "earlier trials, rewarded",
            "earlier trials, the rest",
            "trial 8 itself",
        ],
        colors=["#0072B2", "#cfe0ee", "0.75"],
    )
    ax.plot(
        range(1, steps + 1),
        100 * share,
        "--",
        color="black",
        label="rewarded, if all\nwere read alike",
    )
    ax.set(
        title=f"layer {layer + 1}",
        xlabel="step of trial 8 that acts",
        xlim=(1, steps),
        ylim=(0, 100),
    )
axes[0].set_ylabel("attention, mean over\nheads and rows (%)")
axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The rewards of the past are read in the first steps, when it is decided where to go.
# From the fourth on they are read little more than anything else. What the other tokens
# of the earlier trials are read for then, this picture does not say.

# %% [markdown]
# ## Does it matter?
#
# What is read need not be what counts. So the last trial is played again, with the same
# seeds, in contexts that were tampered with: the rows read their first seven trials as
# demonstrations, as they were; with all rewards taken out; or those of the next goal.
# Beside the return stands how long the rows were in the place of that next goal.

# %%
until = (trials - 1) * steps
chains = {
    "as it was": [chain_of(row, until=until) for row in range(rows)],
    "rewards taken out": [
        chain_of(row, np.zeros_like(rewards), until) for row in range(rows)
    ],
    "of the next goal": [
        chain_of((row + each) % rows, until=until) for row in range(rows)
    ],
    "none": None,
}
cells = np.array([list(map(int, goal.split(","))) for goal in goals])
next_goals = np.roll(cells, -each, axis=0)[:, None]


def text(values):
    by_goal = values.reshape(-1, each).mean(1)
    return f"{by_goal.mean():.1f} ± {by_goal.std(ddof=1) / len(by_goal) ** 0.5:.1f}"


print("context             return      steps in the place of the next goal")
for name, demonstrations in chains.items():
    policy.reset(rows, trials=1, steps=steps, seed=1, demonstrations=demonstrations)
    seen, _, earned = play(1)
    stood = np.stack([seen[..., :size].argmax(-1), seen[..., size:].argmax(-1)], -1)
    there = (stood == next_goals).all(-1).sum(-1)
    print(f"{name:18}  {text(earned.sum(-1))}   {text(there)}")

# %% [markdown]
# It does. Without the rewards, seven trials of context are worth no more than none.
# With the past of the next goal the rows earn no more than that either: some of them go
# there instead. What is read is what counts.
#
# These are four rows for each of six goals, and one training seed; the numbers behind ±
# are standard errors over the goals. `ring-rl evaluate RUN --control other-task` does
# the last comparison for a run, and `ring-rl report` draws the attention of one.
