"""The part of a report about one environment, put together piece by piece."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ring_rl.evaluate.contents import Contents, by_task, trained_for
from ring_rl.evaluate.markup import details, figure, figures, image, note, swatch, table
from ring_rl.evaluate.pictures import (
    Names,
    Picture,
    of_attention,
    of_environment,
    of_training,
)
from ring_rl.evaluate.recordings import LIMIT, Recording, within
from ring_rl.evaluate.tables import (
    COLUMNS,
    interval,
    number,
    other_task_note,
    pick,
    sample,
    shows,
)


class Section:
    """Tables, pictures and recordings of the evaluations in one environment.

    Attributes:
      parts: HTML, in the order in which the methods were called.
      pictures: those in it.
    """

    def __init__(
        self, environment: str, members: list[int], contents: Contents, names: Names
    ):
        """`members` are the indices of its evaluations."""
        self.environment, self.members = environment, members
        self.contents, self.names = contents, names
        self.evaluated = [contents.evaluated[index] for index in members]
        self.evaluations = [one.evaluation for one in self.evaluated]
        self.called = [names.evaluated[index] for index in members]
        self.headings = [
            swatch(names.given[name].colour) + escape(name) for name in self.called
        ]
        self.parts: list[str] = []
        self.pictures: list[Picture] = []

    def returns(self) -> None:
        """Tables and pictures of what the policies earned."""
        self._statistics("Return", "undiscounted sum of rewards of an episode", None)
        if self.evaluations[0]["normalised"] is not None:
            self._statistics("D4RL score", "0: random, 100: expert", "normalised")
        made = of_environment(self.environment, self.members, self.contents, self.names)
        self.pictures += made
        self.parts += [shown(made), self._by_seed(), self._by_task()]

    def training(self) -> set[int]:
        """Learning curves; which of the histories they are of."""
        histories = self.contents.histories
        mine = [h for one in self.evaluated for h in trained_for(one, histories)]
        ids = {id(history) for history in mine}
        found = [i for i, history in enumerate(histories) if id(history) in ids]
        self.parts.append("<h3>Learning curves</h3>")
        made = of_training(self.environment, found, self.contents, self.names)
        self.pictures += made
        if not made:
            self.parts.append(note("The runs' metrics were not found."))
        else:
            self.parts.append(shown(made))
        return set(found)

    def attention(self) -> None:
        """What acting tokens read, where it was looked at."""
        looks = [self.contents.looks[index] for index in self.members]
        if not any(looks):
            return
        self.parts.append("<h3>Attention to past trajectories</h3>")
        self.parts.append(
            note(
                "The softmax weights of one acting token, which add up to 100 % in "
                "each layer and head, summed over the steps and trials in its context. "
                "They say what is looked at, not what it is used for. With one token a "
                "step, the reward of a step is read at the step after it. Each picture "
                "is of one rollout that was played for it, not of those in the tables."
            )
        )
        for index, name, one, look in zip(
            self.members, self.called, self.evaluated, looks, strict=True
        ):
            if look is None:
                continue
            made = of_attention(name, index + 1, look, self.names.given[name])
            self.pictures += made
            seeds = one.evaluation["counts"]["seeds"]
            task = f"task {look['task']}, " if look["task"] else ""
            text = (
                f"{name}: seed {look['seed']} of {seeds} evaluated, {task}temperature "
                f"{look['temperature']:g}, told a target return of "
                f"{look['target_return']:g}, rollout seed {look['rollout_seed']}. In "
                f"the context of the token are {sum(map(bool, look['steps_seen']))} of "
                f"{len(look['steps_seen'])} trials, its own included."
            )
            if one.evaluation["conditions"]["recall"] != "played":
                text += (
                    " Trials are drawn as they were played; in the context the earlier "
                    "ones lie ascending by return, and a trial's last reward is read "
                    "at the first step of the next one there."
                )
            self.parts += [note(text), shown(made)]

    def recordings(self, room: int) -> int:
        """Recordings of rollouts; how many bytes they take."""
        found = [self.contents.recordings[index] for index in self.members]
        if not any(found):
            return 0
        self.parts.append("<h3>Rollouts to look at</h3>")
        share = room // sum(map(bool, found))
        used = 0
        for name, recordings in zip(self.called, found, strict=True):
            taken, left = within(recordings, share)
            used += sum(recording.size for recording in taken)
            if taken:
                self.parts.append(
                    note(
                        f"{name}: rollouts of its first seed, counted over all tasks; "
                        "pictures at equal distances in time, steps below them."
                    )
                )
            self.parts += [_recording(name, recording) for recording in taken]
            if left:
                size = sum(recording.size for recording in left) / 1024**2
                where = ", ".join(
                    dict.fromkeys(str(recording.path.parent) for recording in left)
                )
                self.parts.append(
                    note(
                        f"{name}: {len(left)} of {len(recordings)} recordings "
                        f"({size:.1f} MiB) are left out, a page holds "
                        f"{LIMIT // 1024**2} MiB of them; they are in {where}."
                    )
                )
        return used

    def protocol(self) -> None:
        """What was fixed, how intervals are made, and what it cost."""
        self.parts += ["<h3>Protocol: what was fixed</h3>", self._conditions()]
        self.parts.append(self._played())
        rules: dict[str, list[str]] = {}
        for name, one in zip(self.called, self.evaluations, strict=True):
            how = one["interval"]
            text = f"{how['rule']}; {how['resamples']:,} resamples"
            rules.setdefault(text, []).append(name)
        for text, whose in rules.items():
            of = "" if len(rules) == 1 else f" of {', '.join(whose)}"
            self.parts.append(note(f"Intervals{of}: {text}."))

    def _statistics(self, title: str, unit: str, key: str | None) -> None:
        rows = []
        for name, one in zip(self.headings, self.evaluations, strict=True):
            cells = [name, _sample(one)]
            for path, _ in COLUMNS:
                entry = pick(one, path, key)
                cells.append(
                    "-"
                    if entry is None
                    else f"{number(entry['value'])}<br><small>{interval(entry)}</small>"
                )
            rows.append(cells)
        self.parts.append(f"<h3>{escape(title)} ({escape(unit)})</h3>")
        self.parts.append(
            table(
                f"{title}: means over the seeds, tasks and rollouts in the second "
                "column, but for the IQM; in brackets 95 % bootstrap intervals. "
                f"{other_task_note(self.evaluations)}".rstrip(),
                ["run", "over", *(heading for _, heading in COLUMNS)],
                rows,
            )
        )

    def _by_seed(self) -> str:
        rows = []
        for name, one in zip(self.headings, self.evaluations, strict=True):
            for index, seed in enumerate(one["seeds"]):
                values = one["by_seed"]
                numbers = [
                    number(values[path[0]][index]) if shows(one, path) else "-"
                    for path, _ in COLUMNS[:5]
                ]
                rows.append([f"{name}, seed {seed}", *numbers])
        columns = ["run", *(heading for _, heading in COLUMNS[:5])]
        caption = "Return, mean over the tasks and rollouts of one seed each."
        return details("Each seed by itself", table(caption, columns, rows))

    def _by_task(self) -> str:
        rows = []
        for name, one in zip(self.headings, self.evaluated, strict=True):
            seeds = one.evaluation["counts"]["seeds"]
            for task, (first, last, rollouts) in by_task(one).items():
                rows.append(
                    [
                        f"{name}, {escape(task)}",
                        "-" if first is None else number(first),
                        number(last),
                        f"{rollouts} of {seeds} {'seed' if seeds == 1 else 'seeds'}",
                    ]
                )
        if not rows:
            return ""
        caption = "Return by task, mean over the rollouts of all seeds."
        columns = ["run, task", "first", "last", "rollouts"]
        return details("Each task by itself", table(caption, columns, rows))

    def _conditions(self) -> str:
        rows = []
        for name, one in zip(self.headings, self.evaluations, strict=True):
            conditions, seeds = one["conditions"], map(str, one["seeds"])
            rows.append(
                [
                    name,
                    escape(conditions["agent"]),
                    escape(conditions["control"]),
                    escape(conditions["demonstrations"]),
                    escape(conditions["recall"]),
                    f"{number(conditions['target_return'])}<br>"
                    f"<small>{escape(conditions['target_rule'])}</small>",
                    f"{conditions['temperature']:g}",
                    ", ".join(seeds),
                ]
            )
        headings = ["run", "agent", "control", "demonstrations", "recall"]
        headings += ["told target return", "temperature", "seeds"]
        return table(
            "The same in all trials of a run. Control: what was done to the context; "
            "recall: the order in which earlier trials lie in it.",
            headings,
            rows,
            texts=[1, 2, 3, 4],
        )

    def _played(self) -> str:
        rows = []
        for index, name, one in zip(
            self.members, self.headings, self.evaluations, strict=True
        ):
            counts, speeds = one["counts"], self.contents.speeds[index]
            rows.append(
                [
                    name,
                    *(
                        f"{counts[key]:,}"
                        for key in ("seeds", "tasks", "rollouts", "trials", "episodes")
                    ),
                    f"{one['episode_length']['mean']:.1f} steps",
                    f"{100 * one['terminated']['share']:.1f} %",
                    *(
                        _mean([pair[i] for pair in speeds], counts["seeds"])
                        for i in (0, 1)
                    ),
                ]
            )
        headings = ["run", "seeds", "tasks", "rollouts", "trials", "episodes", "length"]
        headings += ["terminated", "environment steps / s", "ms / acting step"]
        return table(
            "What was played. Length of an episode, and the share of episodes that "
            "the task ended, not the time limit: means over all episodes. Speeds are "
            "of all rollouts of a seed together, means over seeds: environment steps a "
            "second, compilation included, and the median time of an acting step.",
            headings,
            rows,
        )


def _mean(values: Sequence[float], seeds: int) -> str:
    if not values:
        return "-"
    found = f"{sum(values) / len(values):,.4g}"
    short = "" if len(values) == seeds else f"<br><small>{len(values)} seeds</small>"
    return found + short


def _sample(evaluation: dict[str, Any]) -> str:
    trials = evaluation["counts"]["trials"]
    seeds, tasks, rollouts = sample([evaluation]).split(", ")
    of = f"of {trials} trial{'s' * (trials > 1)}"
    return f"{seeds}, {tasks}<br><small>{rollouts} {of}</small>"


def shown(pictures: Sequence[Picture]) -> str:
    """Pictures beside each other where there is room."""
    return figures([figure(one.content, one.alt) for one in pictures])


def _recording(name: str, recording: Recording) -> str:
    title = f"{name}: {recording.title}"
    kind = "film" if recording.moves else "strip"
    shown = image(recording.path.read_bytes(), title, kind, recording.kind)
    if recording.moves:
        # Nothing moves before it is asked to.
        return details(title, f"<figure>{shown}</figure>", "film")
    return (
        f'<figure><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(title)}">{shown}</div>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )
