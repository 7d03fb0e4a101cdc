"""`ring-rl bench gpu`: what the fused kernels must reach on a GPU, in one table.

Each line is a ratio from one run, in which all that is compared ran in turn. The line's
record holds the records it was made from.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax

from ring_rl.bench import attention, decode, step
from ring_rl.bench.config import AttentionConfig, check_counts
from ring_rl.bench.masks import MaskKind
from ring_rl.bench.records import Record, Say, make_record

PARTS = ("errors", "attention", "segments", "decode", "step")
# Of the speed of cuDNN, forward and with the gradients; and of the portable tiles.
_OF_CUDNN, _OF_CUDNN_BACKWARD, _OF_TILES, _OF_PLAIN = 0.75, 0.65, 5.0, 5.0
_OF_COPY = 0.5


@dataclasses.dataclass(frozen=True)
class GpuConfig:
    """Sizes of what is measured.

    Attributes:
      parts: some of `PARTS`.
      tokens: of attention, batch 1, bf16, causal.
      heads: N, of attention.
      segment: tokens of a segment.
      error_tokens: of attention that is compared with the f64 oracle in full.
      cached: tokens of each row of the cache.
      rows: that decode together.
      trajectories: of the training step.
      steps: environment steps of each.
      layers: of the model that is trained, whose width is 16 heads of 64: 24 are the
        350M of the paper.
      runs: timed calls of each.
    """

    parts: tuple[str, ...] = PARTS
    tokens: int = 32768
    heads: int = 16
    segment: int = 1000
    error_tokens: int = 2048
    cached: int = 131072
    rows: int = 32
    trajectories: int = 128
    steps: int = 1000
    layers: int = 24
    runs: int = 5

    def __post_init__(self):
        """Checks the values."""
        counts = (
            "tokens heads segment error_tokens cached rows trajectories steps layers"
        )
        check_counts(self, (*counts.split(), "runs"), least=1)
        for part in self.parts:
            if part not in PARTS:
                raise ValueError(
                    f"bench: parts must be some of {', '.join(PARTS)}, found {part!r}"
                )


def measure(config: GpuConfig, say: Say) -> Iterator[Record]:
    """A record for each line of the table, in the order of the parts.

    `found` is null, and `error` says why, where something could not be measured; such
    a line is not met.

    Raises:
      ValueError: there is no GPU.
    """
    if jax.default_backend() != "gpu":
        raise ValueError(
            "bench: gpu needs a GPU and a JAX that is installed for it, found "
            f"{jax.devices()[0].device_kind}"
        )
    known = {
        "errors": _errors,
        "attention": _attention,
        "segments": _segments,
        "decode": _decode,
        "step": _step,
    }
    for part in PARTS:
        if part in config.parts:
            yield from known[part](config, say)


def _bar(
    what: str,
    records: list[Record],
    find: Callable[[], float | None],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Record:
    """A line: what is found against what it must be at least, or at most."""
    failures = [record["error"] for record in records if "error" in record]
    found = None if failures else find()
    if least is not None:
        bar, met = f"at least {least:g}", found is not None and found >= least
    elif most is not None:
        bar, met = f"at most {most:g}", found is not None and found <= most
    else:
        bar, met = "runs", found is not None
    record = make_record(
        "gpu", implementation=what, found=found, bar=bar, met=met, records=records
    )
    return record | ({"error": "; ".join(failures)} if failures else {})


def _problem(config: GpuConfig, width: int, **changes) -> AttentionConfig:
    return AttentionConfig(
        implementation="blockwise", tokens=config.tokens, heads=config.heads,
        head_dim=width, dtype="bfloat16", runs=config.runs, **changes,
    )  # fmt: skip


def _race(problem: AttentionConfig, say: Say) -> list[Record]:
    return list(attention.measure(problem, lambda text: say(f"{problem.mask}: {text}")))


def _errors(config: GpuConfig, say: Say) -> Iterator[Record]:
    for width in (64, 128):
        problem = _problem(config, width, backward=True, against=("cudnn",))
        small = dataclasses.replace(problem, tokens=config.error_tokens, runs=1)
        own, peer = _race(small, say)
        for name in ("output", "dq", "dk", "dv"):
            yield _bar(
                f"width {width}: error of {name} over cuDNN's",
                [own, peer],
                lambda own=own, peer=peer, name=name: (
                    own["errors"][name] / peer["errors"][name]
                ),
                most=1.0,
            )


def _attention(config: GpuConfig, say: Say) -> Iterator[Record]:
    for width in (64, 128):
        for backward in (False, True):
            problem = _problem(
                config, width, backward=backward, against=("cudnn", "tiles")
            )
            own, *peers = _race(problem, say)
            least = _OF_CUDNN_BACKWARD if backward else _OF_CUDNN
            what = f"width {width}, forward{' + backward' if backward else ''}"
            for peer, bar in zip(peers, (least, _OF_TILES), strict=True):
                yield _bar(
                    f"{what}: speed over {peer['implementation']}",
                    [own, peer],
                    lambda peer=peer: 1 / peer["wall_ratio"],
                    least=bar,
                )


def _segments(config: GpuConfig, say: Say) -> Iterator[Record]:
    mask = MaskKind("segments", config.segment)
    for width in (64, 128):
        problem = _problem(
            config, width, mask=mask, backward=True, against=("cudnn-causal",)
        )
        own, peer = _race(problem, say)
        yield _bar(
            f"width {width}, {mask}: speed over plain cuDNN",
            [own, peer],
            lambda peer=peer: 1 / peer["wall_ratio"],
            least=_OF_PLAIN,
        )


def _decode(config: GpuConfig, say: Say) -> Iterator[Record]:
    problem = AttentionConfig(
        tokens=config.cached, batch=config.rows, heads=config.heads,
        kv_heads=min(4, config.heads), head_dim=64, dtype="bfloat16", runs=config.runs,
    )  # fmt: skip
    records = list(decode.measure(problem, say, ring=False))
    copy = next(x for x in records if x["implementation"] == "copy")
    yield _bar(
        f"decode, {config.rows} rows of {config.cached}: rate over copy's",
        records,
        lambda: copy["bandwidth_ratio"],
        least=_OF_COPY,
    )


def _step(config: GpuConfig, say: Say) -> Iterator[Record]:
    problem = step.StepConfig(
        layers=config.layers, heads=16, head_dim=64, dtype="bfloat16",
        trajectories=config.trajectories, steps=config.steps,
    )  # fmt: skip
    try:
        records = list(step.measure(problem, say))
    except jax.errors.JaxRuntimeError as error:
        failed = make_record(
            "step",
            **problem.values(),
            error=f"failed: {str(error).splitlines()[0][:200]}",
        )
        records = [failed]
    (record,) = records
    what = f"step, {problem.tokens} tokens:"
    yield _bar(f"{what} seconds", records, lambda: record["wall_seconds"])
    for name, key in (
        ("model operations of data sheet's", "data_sheet_utilisation"),
        ("GB of the device at the peak", "device_bytes"),
        ("GB planned", "predicted_bytes_per_device"),
    ):
        unit = 1e9 if key.endswith(("bytes", "device")) else 1
        yield _bar(
            f"{what} {name}",
            records,
            lambda key=key, unit=unit: (
                None if record.get(key) is None else record[key] / unit
            ),
        )
