"""`ring-rl bench memory`: what attention takes, from the compiler, without running it.

So lengths can be looked at that no machine at hand would finish.
"""

import dataclasses
from collections.abc import Iterator

from ring_rl.bench.config import AttentionConfig
from ring_rl.bench.contenders import Unable
from ring_rl.bench.peers import make_contender
from ring_rl.bench.program import Program, build
from ring_rl.bench.records import Record, Say, make_record
from ring_rl.mesh import MeshConfig, make_mesh


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Lengths and numbers of devices to look at.

    Attributes:
      tokens: lengths, ascending; of a device if `per_device`, else of all together.
      devices: numbers of devices, ascending.
      per_device: whether `tokens` are those of each device.
      problem: all the rest; its tokens and devices are not looked at.
    """

    tokens: tuple[int, ...]
    devices: tuple[int, ...]
    per_device: bool
    problem: AttentionConfig

    def problems(self) -> list[AttentionConfig]:
        """One problem for each length and number of devices.

        Raises:
          ValueError: one of them cannot be.
        """
        return [
            dataclasses.replace(
                self.problem,
                tokens=tokens * devices if self.per_device else tokens,
                devices=devices,
            )
            for devices in self.devices
            for tokens in self.tokens
        ]


def measure(config: MemoryConfig, say: Say) -> Iterator[Record]:
    """One record for each problem, and after it one for each peer.

    `growth_with_tokens` is the growth of the memory over that of the tokens, since the
    shortest length on as many devices: 1 is linear, below it less than that.
    `growth_with_devices` is the growth since the fewest devices that had as many
    tokens each: 1 is none.
    """
    # Memory of the shortest length and of the fewest devices, which come first.
    shortest: dict[tuple[str, int], tuple[int, int]] = {}
    fewest: dict[tuple[str, int], int] = {}
    for problem in config.problems():
        each = problem.tokens // problem.devices
        for name in problem.contenders:
            say(f"compile {name}, {problem.tokens} tokens, {problem.devices} devices")
            try:
                mesh = make_mesh(MeshConfig(sequence=problem.devices))
                contender = make_contender(name, problem, mesh)
                program = build(contender, problem, mesh)
            except Unable as error:
                yield make_record(
                    "memory",
                    **problem.values(),
                    implementation=name,
                    error=str(error),
                )
                continue
            temp = program.temp_bytes
            tokens, least = shortest.setdefault((name, problem.devices), (each, temp))
            few = fewest.setdefault((name, each), temp)
            yield _record(problem, program) | {
                "growth_with_tokens": temp / max(1, least) / (each / tokens),
                "growth_with_devices": temp / max(1, few),
            }


def _record(problem: AttentionConfig, program: Program) -> Record:
    each = problem.tokens // problem.devices
    analysis = program.compiled.memory_analysis()
    return make_record(
        "memory",
        **problem.values(),
        implementation=program.contender.name,
        temp_bytes_per_device=program.temp_bytes,
        argument_bytes_per_device=analysis.argument_size_in_bytes,
        output_bytes_per_device=analysis.output_size_in_bytes,
        tokens_per_device=each,
        bytes_per_token=program.temp_bytes / each,
        reference_scores_bytes=problem.scores_bytes,
        compile_seconds=round(program.compile_seconds, 2),
        **program.contender.notes,
    )
