"""What a trained run reads of its past trials: attention, in a rollout of its own."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ring_rl.agents.looking import Look, look
from ring_rl.configs.datasets import Derived, read_derived
from ring_rl.configs.loading import DERIVED, Policy, load_model
from ring_rl.configs.run import EvaluationConfig, RunConfig
from ring_rl.configs.saved import digest, load_config
from ring_rl.evaluate.attention_picture import draw_attention_map
from ring_rl.evaluate.contents import Contents, trained_for
from ring_rl.evaluate.figures import png, styles
from ring_rl.evaluate.report import write_bytes, write_text
from ring_rl.train.progress import Progress
from ring_rl.types import Chain, VectorEnvironment

# Steps of the chosen trial whose attention is looked at, at most.
_MOMENTS = 24


def look_at_all(contents: Contents, *, trial: int | None, step: int) -> list[str]:
    """Writes what a run of each evaluation reads; see `write_look`.

    Of several seeds the first that is found is taken, and of evaluations with a
    control none: attention is of a rollout under the run's own conditions.

    Returns:
      A line for each evaluation of which it could not be done.
    """
    problems = []
    for one in contents.evaluated:
        conditions = one.evaluation["conditions"]
        runs = trained_for(one, contents.histories)
        if conditions["control"] != "none":
            continue
        if not runs:
            problems.append(f"attention of {conditions['name']}: its run is not found")
            continue
        run = runs[0]
        folder = dict(zip(one.evaluation["seeds"], one.folders, strict=True))[run.seed]
        try:
            write_look(run.folder, folder, one.evaluation, trial=trial, step=step)
        except (ValueError, OSError) as error:
            problems.append(f"attention of {conditions['name']}: {error}")
    return problems


def write_look(
    run: Path,
    directory: Path,
    evaluated: dict[str, Any],
    *,
    trial: int | None,
    step: int,
) -> None:
    """Plays one row of a run's evaluation, and writes what its acting tokens read.

    `attention.json` has the means over layers and heads that a reader looks at,
    `attention.png` draws them, and `attention.npz` has the masses of every layer and
    head, see `Look`.

    Args:
      run: a trained run of one seed.
      directory: where the files go; made where it is missing.
      evaluated: the evaluation in it, as from `protocol.summarise`.
      trial: the trial to look at, from 1; None for the last.
      step: the step of it to look at, from 1.

    Raises:
      ValueError: there is no trained run, no environment, or no such step, or the
        evaluation is of other conditions than the run's own.
    """
    config, derived = load_config(run), read_derived(run / DERIVED)
    evaluation = config.evaluation
    if not config.environment.id:
        raise ValueError(f"{run}: has no environment to look at its attention in")
    _check_conditions(run, config, derived, evaluated)
    chosen = evaluation.trials if trial is None else trial
    if not 1 <= chosen <= evaluation.trials:
        raise ValueError(
            f"{run}: expected a trial from 1 to {evaluation.trials}, found {chosen}"
        )
    _, _, model = load_model(run)
    policy = Policy(
        config.agent,
        model,
        derived.spaces,
        target_return=derived.target_return,
        temperature=evaluation.temperature,
    )
    task = config.environment.evaluation_tasks[0]
    environment = config.environment.make(1, seed=evaluation.seed)
    try:
        copies = model.rules.copies
        chain = _play(policy, environment, evaluation, task, chosen, copies)
    finally:
        environment.close()
    starts = np.append(np.flatnonzero(chain.timesteps == 0), len(chain.rewards))
    length = int(starts[chosen] - starts[chosen - 1])
    if not 1 <= step <= length:
        raise ValueError(
            f"{run}: expected a step from 1 to {length}, the length of trial {chosen}, "
            f"found {step}"
        )
    moments = np.unique(np.linspace(0, length - 1, min(length, _MOMENTS)).astype(int))
    moments = np.unique(np.append(moments, step - 1))
    found = look(
        config.agent,
        model,
        chain,
        told=derived.target_return,
        queries=(starts[chosen - 1] + moments).tolist(),
    )
    record = {
        "seed": config.seed,
        "conditions": evaluated["conditions"],
        "trials": evaluation.trials,
        "task": task,
        "rollout_seed": evaluation.seed,
        "temperature": evaluation.temperature,
        "target_return": derived.target_return,
        **_record(found, chain, moments, step - 1),
    }
    directory.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **found._asdict())
    write_bytes(directory / "attention.npz", buffer.getvalue())
    (style,) = styles([config.name]).values()
    picture = draw_attention_map(config.name, style.colour, record)
    write_bytes(directory / "attention.png", png(picture))
    write_text(directory / "attention.json", json.dumps(record, indent=1) + "\n")


def _check_conditions(
    run: Path, config: RunConfig, derived: Derived, evaluated: dict[str, Any]
) -> None:
    """Raises ValueError unless the run was evaluated as its configuration has it."""
    own = {
        "environment": config.environment.id,
        "trials": config.evaluation.trials,
        "target_return": derived.target_return,
        "temperature": config.evaluation.temperature,
        "demonstrations": "none",
        "control": "none",
        "recall": config.agent.recall,
        "configuration": digest(config),
    }
    found = {**evaluated["conditions"], "trials": evaluated["counts"]["trials"]}
    for name, value in own.items():
        if found[name] != value:
            raise ValueError(
                f"{run}: attention is of the run's own conditions, expected {name} "
                f"{value}, found {found[name]}"
            )


def _play(
    policy: Policy,
    environment: VectorEnvironment,
    evaluation: EvaluationConfig,
    task: str,
    trials: int,
    rows: int,
) -> Chain:
    """The trials of one row, one after the other, in one context.

    It is the first of `rows` that the mesh shares out, which see and earn the same.
    """
    row = np.ones(1, bool)
    policy.reset(
        rows,
        trials=evaluation.trials,
        steps=environment.max_episode_steps,
        seed=evaluation.seed,
    )
    observations: list[Any] = []
    actions: list[Any] = []
    rewards: list[float] = []
    timesteps: list[int] = []
    progress = Progress("attention", trials)
    try:
        for trial in range(trials):
            seen = environment.reset(row, [task] if task else None)
            ended, timestep = False, 0
            while not ended:
                action = policy.act(np.repeat(seen, rows, axis=0))[:1]
                observations.append(seen[0].astype(np.float32))
                actions.append(action[0])
                timesteps.append(timestep)
                seen, reward, terminated, truncated = environment.step(action)
                outcome = (reward, terminated, truncated)
                policy.observe(*(np.repeat(each, rows) for each in outcome))
                rewards.append(float(reward[0]))
                ended, timestep = bool(terminated[0] | truncated[0]), timestep + 1
            progress.update(trial + 1, f"{len(rewards)} environment steps")
    finally:
        progress.close()
    nothing = np.zeros(len(rewards), np.float32)
    return Chain(
        np.array(observations),
        np.array(actions),
        np.array(rewards, np.float32),
        nothing,
        nothing,
        np.array(timesteps, np.int32),
        nothing,
    )


def _record(found: Look, chain: Chain, moments: Any, chosen: int) -> dict[str, Any]:
    """What is looked at, means over layers and heads where nothing else is said."""
    at = int(np.searchsorted(moments, chosen))
    by_trial = found.by_trial()
    starts = np.flatnonzero(found.timesteps == 0)
    returns = np.add.reduceat(chain.rewards.astype(np.float64), starts)
    # None where the token does not see: not yet played, or no longer in the context.
    by_step = np.where(
        found.seen[at], found.masses[at].mean((0, 1)).astype(object), None
    )
    seen = np.add.reduceat(found.seen[at].astype(int), starts)
    return {
        "layers": found.masses.shape[1],
        "heads": found.masses.shape[2],
        "trial": int(found.trials[found.queries[at]]) + 1,
        "step": chosen + 1,
        "returns": returns.tolist(),
        "lengths": np.diff(np.append(starts, len(found.timesteps))).tolist(),
        "steps_seen": seen.tolist(),
        "by_trial": by_trial[at].mean((0, 1)).tolist(),
        "by_layer_and_trial": by_trial[at].mean(1).tolist(),
        "by_trial_and_step": [
            masses.tolist() for masses in np.split(by_step, starts[1:])
        ],
        "moments": (moments + 1).tolist(),
        "by_moment_and_trial": by_trial.mean((1, 2)).tolist(),
    }
