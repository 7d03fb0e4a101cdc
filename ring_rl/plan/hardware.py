"""Devices as figures: what they multiply, send and hold, and where each is from."""

import dataclasses
import math

_PAPER = "Liu, Zaharia & Abbeel 2023 (arXiv 2310.01889), table 2"
_AMPERE = "NVIDIA A100 data sheet: TF32 dense, 80 GB"
_HOPPER = "data sheet: dense bf16 and TF32, NVLink's 900 GB/s are both directions"
_CLOUD = "cloud.google.com/tpu/docs"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One device of a kind, at its makers' peak figures.

    Attributes:
      name: of the kind.
      flops_bf16: floating-point operations a second of bf16 matrix products.
      flops_f32: of f32 ones as JAX makes them unless told otherwise: in TF32 on GPUs,
        in one pass of bf16 on TPUs.
      link: bytes a second that the device sends to the others, in one direction. Of a
        TPU those of all its links, as the paper has them; a ring along one axis of the
        torus has a part of them.
      memory: bytes of the device.
      source: where the figures are from.
    """

    name: str
    flops_bf16: float
    flops_f32: float
    link: float
    memory: float
    source: str

    def flops(self, dtype: str) -> float:
        """Floating-point operations a second of matrix products of a type."""
        return self.flops_bf16 if dtype == "bfloat16" else self.flops_f32


_KINDS = (
    Hardware(
        "a100-nvlink", 312e12, 156e12, 300e9, 80e9,
        f"bf16 and link: {_PAPER}; f32 and memory: {_AMPERE}",
    ),
    Hardware(
        "a100-infiniband", 312e12, 156e12, 12.5e9, 80e9,
        f"bf16 and link: {_PAPER}; f32 and memory: {_AMPERE}",
    ),
    Hardware("h100", 989e12, 494e12, 450e9, 80e9, f"NVIDIA H100 SXM {_HOPPER}"),
    Hardware("h200", 989e12, 494e12, 450e9, 141e9, f"NVIDIA H200 SXM {_HOPPER}"),
    Hardware(
        "tpu-v3", 123e12, 123e12, 112e9, 32e9,
        f"bf16 and link: {_PAPER}; memory of a chip: {_CLOUD}/v3; JAX shows its two "
        "cores as devices of half a chip each",
    ),
    Hardware(
        "tpu-v4", 275e12, 275e12, 268e9, 32e9,
        f"bf16 and link: {_PAPER}; memory: {_CLOUD}/v4",
    ),
    Hardware(
        "tpu-v5e", 196e12, 196e12, 186e9, 16e9,
        f"bf16 and link: {_PAPER}; memory: {_CLOUD}/v5e",
    ),
    Hardware(
        "tpu-v5p", 459e12, 459e12, 600e9, 95e9,
        f"{_CLOUD}/v5p: interconnect 1200 GB/s in both directions",
    ),
    Hardware(
        "tpu-v6e", 918e12, 918e12, 400e9, 32e9,
        f"{_CLOUD}/v6e: interconnect 800 GB/s in both directions",
    ),
    Hardware(
        "cpu", 106e9, 106e9, 13e9, 16e9,
        "one x86-64 core of a server: products of f32 as measured by ring-rl bench "
        "attention, those of bf16 measured no faster, the link a measured copy in "
        "memory; 16 GB are assumed",
    ),
)  # fmt: skip

HARDWARE: dict[str, Hardware] = {kind.name: kind for kind in _KINDS}


def hardware_of(device_kind: str) -> Hardware | None:
    """The kind of a device by JAX's name of it; None for one that is not known."""
    words = device_kind.lower().split()
    # SXM modules: cards for PCIe, and parts of a device, are slower.
    if "nvidia" not in words or {"pcie", "nvl", "mig"} & set(words):
        return None
    return next((HARDWARE[name] for name in ("h100", "h200") if name in words), None)


def choose_hardware(
    name: str,
    *,
    flops: float | None = None,
    link: float | None = None,
    memory: float | None = None,
) -> Hardware:
    """A kind by its name, with one's own figures in place of the table's.

    Args:
      name: of `HARDWARE`.
      flops: floating-point operations a second, of matrix products of any type.
      link: bytes a second.
      memory: bytes.

    Raises:
      ValueError: there is no such kind, or a figure is not above 0.
    """
    if name not in HARDWARE:
        raise ValueError(
            f"plan: hardware must be one of {', '.join(HARDWARE)}, found {name!r}"
        )
    chosen, own = HARDWARE[name], []
    for what, figure, fields in (
        ("flops", flops, ("flops_bf16", "flops_f32")),
        ("link", link, ("link",)),
        ("memory", memory, ("memory",)),
    ):
        if figure is None:
            continue
        if not 0 < figure < math.inf:
            raise ValueError(f"plan: {what} must be above 0, found {figure}")
        chosen = dataclasses.replace(chosen, **dict.fromkeys(fields, float(figure)))
        own.append(what)
    if not own:
        return chosen
    given = f"{', '.join(own)}: given"
    rest = "" if len(own) == 3 else f"; the rest: {chosen.source}"
    return dataclasses.replace(chosen, source=given + rest)
