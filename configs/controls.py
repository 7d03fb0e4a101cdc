"""Controls of an evaluation: what is done to the context, to see what it was for."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from ring_rl.agents.reading import trials_left
from ring_rl.configs.run import AgentConfig

CONTROLS = "none, other-task, cleared, cleared:K or unsorted"


@dataclasses.dataclass(frozen=True)
class Control:
    """What is done to the context.

    - `other-task`: all that a row has in its context when it plays its last trial, the
      trials before and the demonstrations, is of another task, always the same: its
      context then tells, truly and at length, of the wrong one.
    - `cleared`: the context is emptied after every `every` trials.
    - `unsorted`: demonstrations are read in an order drawn at random, not in that of
      the run's chains: ascending by return, or a history's.
    """

    kind: Literal["none", "other-task", "cleared", "unsorted"] = "none"
    every: int = 0

    @classmethod
    def parse(cls, text: str) -> "Control":
        """A control by its name; `cleared` is `cleared:1`.

        Raises:
          ValueError: there is none of this name.
        """
        kind, _, every = text.partition(":")
        if kind == "cleared" and (text == kind or (every.isdecimal() and int(every))):
            return cls("cleared", int(every or 1))
        for known in ("none", "other-task", "unsorted"):
            if text == known:
                return cls(known)
        raise ValueError(f"control: expected {CONTROLS}, found {text!r}")

    def __str__(self) -> str:
        """Its name, which `parse` takes."""
        return f"{self.kind}:{self.every}" if self.every else self.kind

    def check(
        self, agent: AgentConfig, *, tasks: int, trials: int, demonstrations: int
    ) -> None:
        """Raises ValueError where control or demonstrations could not change anything.

        They can only through what is in the context: demonstrations at the first trial,
        another task at the last one.

        Args:
          agent: as it was trained.
          tasks: different ones that rows play.
          trials: of each row.
          demonstrations: episodes that each row reads first.
        """

        def left(trials: int) -> int:
            return trials_left(trials, agent.tokens, agent.trials_in_context)

        most, by_step = agent.trials_in_context, agent.tokens.memory == "step"
        each = "trial" if most == 1 else f"{most} trials"
        cleared = f"clears its context after every {'step' if by_step else each}"
        if demonstrations and not left(demonstrations):
            raise ValueError(
                "demonstrations: expected an agent that has some in its context as it "
                f"acts, found one that {cleared}, and {demonstrations} a row"
            )
        if self.kind == "other-task" and (
            tasks < 2 or (trials < 2 and not demonstrations)
        ):
            raise ValueError(
                "control other-task: expected at least 2 tasks and 2 trials (or "
                f"--demonstrations), found {tasks} and {trials}"
            )
        if self.kind == "other-task" and not left(demonstrations + trials - 1):
            raise ValueError(
                "control other-task: expected an agent that has earlier trials in its "
                f"context at the last of {trials}, found one that {cleared}"
            )
        if self.kind == "unsorted" and demonstrations < 2:
            raise ValueError(
                "control unsorted: expected --demonstrations, at least 2 a row, found "
                f"{demonstrations or 'none'}"
            )
        if self.kind == "unsorted" and agent.chains.order == "shuffled":
            raise ValueError(
                "control unsorted: expected a run that sorts its chains, found "
                "chains.order 'shuffled': demonstrations are in such an order anyway"
            )
        if self.kind == "unsorted" and agent.recall != "played":
            raise ValueError(
                "control unsorted: expected an agent that recalls trials as played, "
                f"found recall {agent.recall!r}, which sorts demonstrations again"
            )
        if self.kind != "cleared":
            return
        if demonstrations:
            raise ValueError(
                f"control {self}: expected no --demonstrations, which would be cleared "
                f"too, found {demonstrations} a row"
            )
        if trials <= self.every:
            raise ValueError(
                f"control {self}: expected more than {self.every} trials, found "
                f"{trials}; nothing would be cleared"
            )
        if by_step or 0 < most <= self.every:
            raise ValueError(
                f"control {self}: expected an agent that remembers more trials, found "
                f"one that {cleared}"
            )

    def agent(self, agent: AgentConfig) -> AgentConfig:
        """The agent under the control."""
        if self.kind != "cleared":
            return agent
        # Of one earlier trial or none there is no order.
        recall = agent.recall if self.every > 2 else "played"
        return dataclasses.replace(agent, trials_in_context=self.every, recall=recall)

    def schedule(
        self, names: Sequence[str], rollouts: int, trials: int
    ) -> list[list[str]]:
        """The task of each trial of each row, `rollouts` rows a task."""
        return [
            [other] * (trials - 1) + [name]
            for name, other in zip(names, self.sources(names), strict=True)
            for _ in range(rollouts)
        ]

    def sources(self, names: Sequence[str]) -> list[str]:
        """For each task, the one that the context is to be of."""
        if self.kind != "other-task":
            return list(names)
        return [names[(index + 1) % len(names)] for index in range(len(names))]
