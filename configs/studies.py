"""Studies, as values: questions that several runs answer together.

A study is a table. Each of its cells is a run, under one protocol; `ring-rl study NAME`
trains and evaluates what is missing and writes the table.
"""

import dataclasses

from ring_rl.configs import exorl, point_mass
from ring_rl.configs.run import RunConfig
from ring_rl.data.chains import ChainConfig
from ring_rl.data.loader import LoaderConfig
from ring_rl.data.tokens import TokenConfig
from ring_rl.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a study.

    Attributes:
      row: of the table.
      column: likewise.
      config: what is trained and how it is judged.
    """

    row: str
    column: str
    config: RunConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A table of runs.

    Attributes:
      name: of the study and of its folder.
      question: that it answers, in a line.
      cells: row by row.
      random: whether the returns of uniform actions stand beside.
    """

    name: str
    question: str
    cells: tuple[Cell, ...]
    random: bool = False


# ExoRL's names of the tasks that the paper's table has.
PAPER_TASKS = (
    "walker_stand",
    "walker_run",
    "walker_walk",
    "cheetah_run",
    "jaco_reach_top_left",
    "cartpole_swingup",
)


def _paper_columns() -> dict[str, RunConfig]:
    """The paper's six columns, by name."""

    def agentic(attention: str, trajectories: int, devices: int = 1) -> RunConfig:
        agent = exorl.AGENTIC.agent
        return dataclasses.replace(
            exorl.AGENTIC,
            agent=dataclasses.replace(
                agent,
                trunk=dataclasses.replace(agent.trunk, attention=attention),
                chains=ChainConfig(trajectories=trajectories),
                trials_in_context=trajectories,
            ),
            mesh=MeshConfig(sequence=devices),
        )

    few, many = exorl.FEW, exorl.MANY
    one = MeshConfig(sequence=1)
    return {
        "10 % BC": dataclasses.replace(exorl.CLONING, mesh=one),
        "DT": dataclasses.replace(exorl.DECISION, mesh=one),
        f"AT memory-efficient, {few}": agentic("memory_efficient", few),
        f"AT blockwise, {few}": agentic("blockwise", few),
        f"AT blockwise, {many}": agentic("blockwise", many),
        f"AT ring of 4, {many}": agentic("ring", many, devices=4),
    }


def _paper_table() -> Study:
    cells = []
    for task in PAPER_TASKS:
        for column, config in _paper_columns().items():
            environment = dataclasses.replace(config.environment, id=f"exorl/{task}")
            name = f"{task}, {column}"
            config = dataclasses.replace(config, name=name, environment=environment)
            cells.append(Cell(task, column, config))
    return Study(
        "paper-table",
        "the Ring Attention paper's table: ExoRL's tasks, baselines, and the Agentic "
        "Transformer by implementation of attention and number of trajectories",
        tuple(cells),
        random=True,
    )


def _ablations() -> Study:
    base = point_mass.AGENTIC

    def cell(row: str, column: str, *, rows: int = 8, row_steps: int = 320, **agent):
        changed = dataclasses.replace(base.agent, **agent)
        config = dataclasses.replace(
            base,
            name=f"point-mass, {row} {column}",
            agent=changed,
            loader=LoaderConfig(rows=rows, row_steps=row_steps),
        )
        return Cell(row, column, config)

    def chains(**changes) -> ChainConfig:
        return dataclasses.replace(base.agent.chains, **changes)

    def trajectories(count: int, **loader: int) -> Cell:
        return cell(
            "trajectories",
            str(count),
            chains=chains(trajectories=count),
            trials_in_context=count,
            **loader,
        )

    return Study(
        "point-mass-ablations",
        "what of the Agentic Transformer finds a hidden goal: number of trajectories, "
        "order, loss, tokens; 16 trajectories are the preset itself",
        (
            *(trajectories(count) for count in (1, 2, 4, 8, 16)),
            trajectories(32, rows=4, row_steps=640),
            cell("order", "shuffled", chains=chains(order="shuffled")),
            cell("loss on", "all", chains=chains(loss_on="all")),
            cell("loss on", "last", chains=chains(loss_on="last")),
            cell("tokens", "interleaved", tokens=TokenConfig(layout="interleaved")),
        ),
    )


def _hidden_tasks(name: str, question: str, **columns: RunConfig) -> Study:
    cells = (Cell(name, config.name, config) for config in columns.values())
    return Study(name, question, tuple(cells), random=True)


_STUDIES = (
    _paper_table(),
    _ablations(),
    _hidden_tasks(
        "point-mass-maze",
        "does more context act better where walls are in the way of a hidden goal",
        agentic=point_mass.MAZE,
        fewer=point_mass.MAZE_FEWER,
        decision=point_mass.MAZE_DECISION,
    ),
    _hidden_tasks(
        "walker-tasks",
        "does a context of trials tell a walker what it is to do",
        agentic=exorl.WALKER,
        decision=exorl.WALKER_DECISION,
    ),
)


def studies() -> dict[str, Study]:
    """All studies, by name."""
    return {study.name: study for study in _STUDIES}
