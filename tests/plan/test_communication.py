"""The smallest blocks, against the paper's table and against counting by hand."""

import numpy as np
import pytest

from ring_rl.attention import Mask
from ring_rl.attention.layout import balance
from ring_rl.plan.communication import (
    Traffic,
    ring_traffic,
    smallest_blocks,
    smallest_sequence,
    unmasked_share,
    useful_share,
)
from ring_rl.plan.hardware import HARDWARE, choose_hardware

# Thousands of tokens, as printed: smallest block, smallest sequence.
PAPER = {
    "a100-nvlink": (1.0, 6.2),
    "a100-infiniband": (24.5, 149.5),
    "tpu-v3": (1.1, 6.6),
    "tpu-v4": (1.0, 6.2),
    "tpu-v5e": (1.1, 6.3),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_table_of_arithmetic_intensity(name):
    hardware = HARDWARE[name]
    smallest = smallest_blocks(hardware.flops_bf16, hardware.link)
    block, sequence = PAPER[name]
    # Printed to two or three digits: exact F / W is up to 4.2 % from the blocks, and
    # the sequences, six times as long, are within 1 % of it.
    assert smallest.paper / 1e3 == pytest.approx(block, rel=0.05)
    assert smallest_sequence(smallest.paper) / 1e3 == pytest.approx(sequence, rel=0.01)
    # bf16, as many key heads as heads, no mask: what the general rule says is that.
    assert smallest.forward == pytest.approx(smallest.paper)


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (8, 2)])
def test_at_the_smallest_block_sending_takes_as_long_as_computing(
    itemsize, heads, kv_heads
):
    flops, link, width, unmasked = 3e14, 2e11, 64, 0.5
    smallest = smallest_blocks(
        flops, link, heads=heads, kv_heads=kv_heads, itemsize=itemsize,
        unmasked=unmasked,
    )  # fmt: skip
    for block, products, bytes_of_a_number in (
        (smallest.forward, 2, itemsize),
        (smallest.backward, 5, itemsize + 4),
    ):
        compute = 2 * products * block**2 * heads * width * unmasked / flops
        send = 2 * block * kv_heads * width * bytes_of_a_number / link
        assert compute == pytest.approx(send)
    assert smallest.block == max(smallest.forward, smallest.backward)


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
def test_shares_are_those_that_the_balance_model_counts(layout):
    tokens, ring = 32768, 8
    index = np.arange(tokens, dtype=np.int32)[None]
    mask = Mask.self_attention(index, np.zeros_like(index))
    share = balance(mask, layout, ring)[1]
    # Tiles that are seen in part, 128 queries by 128 keys, are what it counts more:
    # 6 % where each device's tokens are spread over the whole sequence.
    assert useful_share(layout, ring) == pytest.approx(share, rel=0.065)
    assert useful_share(layout, ring) >= share
    assert useful_share(layout, 1) == 1
    assert unmasked_share(layout, ring) == (1 if layout == "contiguous" else 0.5)


def test_traffic_of_a_ring():
    found = ring_traffic(100, kv_heads=2, head_width=8, itemsize=2, devices=4)
    keys_and_values = 2 * 100 * 2 * 8
    block = 2 * keys_and_values + 8 * 100
    assert found == Traffic(block, block + 4 * keys_and_values, 3, 4 * keys_and_values)
    assert ring_traffic(
        100, kv_heads=2, head_width=8, itemsize=2, devices=1
    ) == Traffic(0, 0, 0, 0)


def test_every_figure_has_a_source_and_own_figures_replace_it():
    for hardware in HARDWARE.values():
        assert hardware.source
        for figure in (hardware.flops_bf16, hardware.flops_f32, hardware.link):
            assert figure > 0
    own = choose_hardware("h100", flops=1e12, memory=5e9)
    assert (own.flops("float32"), own.flops("bfloat16")) == (1e12, 1e12)
    assert (own.link, own.memory) == (HARDWARE["h100"].link, 5e9)
    assert own.source.startswith("flops, memory: given; the rest: NVIDIA")
    assert choose_hardware("cpu", flops=1.0, link=1.0, memory=1.0).source == (
        "flops, link, memory: given"
    )
