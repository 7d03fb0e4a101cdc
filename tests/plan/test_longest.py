"""The longest contexts: that they are the longest, and the paper's pattern."""

import dataclasses

import pytest

from ring_rl.plan.context import Context
from ring_rl.plan.hardware import HARDWARE
from ring_rl.plan.longest import longest
from ring_rl.plan.memory import IMPLEMENTATIONS, predict
from ring_rl.plan.models import choose_model
from ring_rl.plan.sizes import Sizes

# The rows of the paper's table of contexts: model, hardware, devices.
ROWS = [
    ("3b", "a100-nvlink", 8),
    ("7b", "a100-nvlink", 8),
    ("13b", "a100-nvlink", 8),
    ("7b", "a100-infiniband", 32),
    ("7b", "tpu-v4", 1024),
]


def of(name: str, hardware: str, devices: int, parts: int) -> dict[str, int]:
    context = Context(devices=devices, fsdp=parts)
    return longest(choose_model(name), context, HARDWARE[hardware].memory)


@pytest.mark.parametrize("row", ROWS)
def test_the_ring_multiplies_the_context_by_the_devices(row):
    name, hardware, devices = row
    found = of(name, hardware, devices, devices)
    # In the paper exactly so, in powers of 2. Here what travels takes its part.
    assert 0.85 < found["ring"] / found["blockwise"] / devices < 1
    part = dataclasses.replace(
        Sizes.of(choose_model(name), Context(devices=devices, fsdp=devices)),
        length=found["ring"] // devices,
    )
    free = HARDWARE[hardware].memory - predict(part, "blockwise").total
    # The block and the gradients that arrive and those that leave, and a hop's dq.
    travelling = 2 * (part.block + 2 * part.narrow_sum) + part.wide_sum
    assert 0 < free <= 1.001 * travelling
    # Twice the devices, the parameters on each as before: twice the context.
    twice = of(name, hardware, 2 * devices, devices)
    assert twice["ring"] == 2 * found["ring"]
    for other in ("reference", "memory_efficient", "blockwise"):
        assert twice[other] == found[other]
    assert found["reference"] < found["memory_efficient"] / 6


def test_one_device_has_no_ring():
    found = of("3b", "h200", 1, 1)
    assert found["ring"] == found["blockwise"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_longest_fits_and_a_longer_one_does_not(implementation):
    model, memory = choose_model("350m"), 40e9
    context = Context(devices=4, rows=2)
    found = longest(model, context, memory)[implementation]
    ring = 4 if implementation == "ring" else 1
    sizes = dataclasses.replace(
        Sizes.of(model, context), ring=ring, length=found // ring
    )
    assert found % (2 * ring) == 0
    assert predict(sizes, implementation).total <= memory
    longer = dataclasses.replace(sizes, length=sizes.length + 2)
    assert predict(longer, implementation).total > memory


def test_nothing_fits_where_the_parameters_do_not():
    assert set(of("65b", "tpu-v5e", 1, 1).values()) == {0}
