"""What a run is trained on: the episodes, and the numbers derived from them."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ring_rl.collect import DarkRoomBehaviour, GoalSeekingBehaviour, record
from ring_rl.configs.exploring import open_explored
from ring_rl.configs.run import DarkRoom, Gymnasium, PointMass, RunConfig
from ring_rl.configs.sources import Collected, Explored
from ring_rl.configs.targets import Target
from ring_rl.data.episodes import EpisodeStore
from ring_rl.data.loader import ChainLoader
from ring_rl.data.manifest import spaces_from_json, spaces_to_json
from ring_rl.data.moments import combine_moments, mean_and_deviation
from ring_rl.data.rlds import write_rlds
from ring_rl.data.store import open_store
from ring_rl.envs.hidden_tasks import HiddenTaskEnv
from ring_rl.train.progress import Progress
from ring_rl.types import Episode, Scaling, Spaces

# Environments stepped together while data is collected.
_ROWS = 64


def open_datasets(config: RunConfig) -> list[EpisodeStore]:
    """The datasets of a run; one that it is to collect itself is collected first.

    Raises:
      ValueError: no dataset is named, one cannot be read, or their spaces differ.
    """
    data, environment = config.data, config.environment
    if isinstance(data, Explored):
        return open_explored(environment, data)
    if isinstance(data, Collected):
        if isinstance(environment, Gymnasium):
            raise ValueError(
                "data: only hidden tasks have a behaviour to collect episodes with; "
                "give --data.path"
            )
        folder = _folder(environment, data)
        if not folder.exists():
            _collect(environment, data, folder)
        return [open_store(folder)]
    if not data.path:
        raise ValueError(
            "data: expected the folder of a dataset in --data.path, found none; "
            "`ring-rl data import` makes one"
        )
    stores = [open_store(Path(path)) for path in data.path]
    for path, store in zip(data.path, stores, strict=True):
        if store.spaces != stores[0].spaces:
            raise ValueError(
                f"data: expected datasets of the same spaces, found {stores[0].spaces} "
                f"in {data.path[0]} and {store.spaces} in {path}"
            )
    return stores


def _folder(environment: DarkRoom | PointMass, data: Collected) -> Path:
    """Where a dataset of these settings lies: another setting is another folder."""
    tasks = f"goals{len(environment.training_tasks)}-split{environment.split_seed}"
    end = f"episodes{data.episodes}-mistaken{data.mistaken:g}-seed{data.seed}"
    if isinstance(environment, DarkRoom):
        if data.relabelled:
            raise ValueError(
                "data.relabelled: expected 0 in the dark room, whose episodes keep no "
                f"physics, found {data.relabelled}"
            )
        size = f"{environment.size}x{environment.size}"
        name = f"dark-room-{size}-steps{environment.max_steps}-{tasks}-{end}"
    else:
        kind = "point-mass-maze" if environment.walls else "point-mass"
        arena = f"{environment.step_seconds:g}s-radius{environment.goal_radius:g}"
        tasks += f"-held{environment.held_out}"
        name = f"{kind}-steps{environment.max_steps}-{arena}-{tasks}-{end}"
        name += f"-relabelled{data.relabelled}"
    return Path(data.parent) / name


def _collect(environment: DarkRoom | PointMass, data: Collected, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = environment.training_tasks
    tasks = [task for task in names for _ in range(data.episodes)]
    rows = environment.make(min(_ROWS, len(tasks)), seed=data.seed)
    if isinstance(environment, DarkRoom):
        behaviour = DarkRoomBehaviour(environment.size, data.mistaken)
    else:
        behaviour = GoalSeekingBehaviour(
            environment.walls, environment.step_seconds, mistaken=data.mistaken
        )
    progress = Progress(f"collect {folder.name}", len(tasks))
    episodes = _counted(record(rows, behaviour, tasks=tasks, seed=data.seed), progress)
    if isinstance(environment, PointMass):
        episodes = _with_relabelled(episodes, environment, data)
    try:
        write_rlds(
            episodes,
            rows.spaces,
            folder,
            name=environment.id.split("/")[1].split("-")[0].lower(),
            source=f"ring_rl.collect.{type(behaviour).__name__}",
        )
    except ValueError:
        # Another run may have collected the same meanwhile, which is as good.
        if not folder.exists():
            raise
    finally:
        progress.close()
        rows.close()


def _counted(episodes: Iterable[Episode], progress: Progress) -> Iterator[Episode]:
    steps = 0
    for count, episode in enumerate(episodes, 1):
        steps += len(episode.rewards)
        progress.update(count, f"{steps} environment steps")
        yield episode


def _with_relabelled(
    episodes: Iterable[Episode], environment: PointMass, data: Collected
) -> Iterator[Episode]:
    """The episodes, and then for each task some of others with the rewards of it.

    Which ones is drawn from the seed of the data.
    """
    kept: list[Episode] = []
    for episode in episodes:
        kept.append(episode)
        yield episode
    options = {k: v for k, v in environment.options.items() if k != "max_episode_steps"}
    body = HiddenTaskEnv("point_mass_maze", walls=environment.walls, **options)
    random = np.random.default_rng((data.seed, 1))
    count = len(kept)
    for task in environment.training_tasks:
        others = [i for i, episode in enumerate(kept) if episode.task != task]
        chosen = random.choice(others, min(data.relabelled, len(others)), replace=False)
        for index in chosen.tolist():
            episode = kept[index]
            rewards = body.rewards(task, episode.extras["physics"], episode.actions)
            yield episode._replace(
                rewards=rewards.astype(np.float32), task=task, episode_id=count
            )
            count += 1
    body.close()


def make_loader(config: RunConfig, stores: Sequence[EpisodeStore]) -> ChainLoader:
    """What makes a run's batches of its datasets.

    Raises:
      ValueError: as `ChainLoader`.
    """
    return ChainLoader(
        stores,
        config.loader,
        config.agent.chains,
        config.agent.tokens,
        seed=config.seed,
        weights=config.data.weights,
    )


@dataclasses.dataclass(frozen=True)
class Derived:
    """What a trained agent needs to know of its data, saved with the run.

    Attributes:
      spaces: of the data, and of every environment that the agent can act in.
      scaling: of its inputs.
      target_return: that every trial is told to reach.
      target_rule: where that number is from.
      steps: environment steps in the data.
      episodes: episodes in the data.
    """

    spaces: Spaces
    scaling: Scaling
    target_return: float
    target_rule: str
    steps: int
    episodes: int


def derive(config: RunConfig, stores: Sequence[EpisodeStore]) -> Derived:
    """Computes the numbers from all training episodes, each counted once.

    Raises:
      ValueError: the target is neither a number nor a percentile.
    """
    spaces = stores[0].spaces
    if config.data.normalise:
        moments = combine_moments([store.moments for store in stores])
        mean, std = mean_and_deviation(moments)
    else:
        mean, std = np.zeros(spaces.observation), np.ones(spaces.observation)
    returns = np.concatenate([store.returns for store in stores])
    target, rule = Target.parse(config.evaluation.target).of(returns)
    scaling = Scaling(
        tuple(map(float, mean)),
        tuple(map(float, std)),
        _unit(float(np.abs(returns).max())),
        _unit(max(float(np.abs(store.rewards).max()) for store in stores)),
    )
    steps = sum(int(store.offsets[-1]) for store in stores)
    return Derived(spaces, scaling, target, rule, steps, len(returns))


def _unit(largest: float) -> float:
    return largest if largest > 0 else 1.0


def write_derived(path: Path, derived: Derived) -> None:
    """Writes it, or checks it against what stands there.

    Raises:
      ValueError: a run that is continued had other data.
    """
    if path.exists():
        held = read_derived(path)
        odd = [
            field.name
            for field in dataclasses.fields(Derived)
            if getattr(held, field.name) != getattr(derived, field.name)
        ]
        if odd:
            raise ValueError(
                f"{path}: the dataset is not the one that this run was begun with; "
                f"different are {', '.join(odd)}"
            )
        return
    plain = {**dataclasses.asdict(derived), "spaces": spaces_to_json(derived.spaces)}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plain, indent=2) + "\n")
    partial.replace(path)


def read_derived(path: Path) -> Derived:
    """Undoes `write_derived`; raises ValueError where that cannot be."""
    try:
        plain = json.loads(path.read_text())
        scaling = dict(plain["scaling"])
        for name in ("observation_mean", "observation_std"):
            scaling[name] = tuple(scaling[name])
        return Derived(
            **{
                **plain,
                "spaces": spaces_from_json(plain["spaces"]),
                "scaling": Scaling(**scaling),
            }
        )
    except (
        OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path}: expected what `ring-rl train` writes, found something else "
            f"({type(error).__name__}: {error})"
        ) from error
