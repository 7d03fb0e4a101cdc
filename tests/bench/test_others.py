"""Memory, decode and the training step."""

import pytest

from ring_rl.bench.records import KEYS
from ring_rl.cli import main

SIZES = "--heads 2 --head-dim 8"
STEP = f"step {SIZES} --layers 1 --trajectories 2 --steps 5 --devices 4"


def test_memory_is_read_from_the_compiler_for_every_length_and_device_count(bench):
    records = bench(
        f"memory {SIZES} --tokens 256,128 --devices 4,2 --per-device "
        "--implementation reference"
    )
    found = [(record["devices"], record["tokens"]) for record in records]
    assert found == [(2, 256), (2, 512), (4, 512), (4, 1024)]
    temp = [record["temp_bytes_per_device"] for record in records]
    for record in records:
        assert set(KEYS) <= set(record) and record["wall_seconds"] is None
        assert record["backward"] is True
        tokens = record["tokens"]
        assert record["reference_scores_bytes"] == 2 * tokens * tokens * 4
        each = tokens // record["devices"]
        assert record["bytes_per_token"] * each == record["temp_bytes_per_device"]
    linear = [record["growth_with_tokens"] for record in records]
    assert linear == pytest.approx([1, temp[1] / temp[0] / 2, 1, temp[3] / temp[2] / 2])
    more = [record["growth_with_devices"] for record in records]
    assert more == pytest.approx([1, 1, temp[2] / temp[0], temp[3] / temp[1]])


def test_memory_of_a_race_is_that_of_its_own_programs(bench):
    words = f"{SIZES} --tokens 64 --against reference"
    compiled = bench(f"memory {words}")
    raced = bench(f"attention {words} --backward --runs 1")
    for one, other in zip(compiled, raced, strict=True):
        assert one["implementation"] == other["implementation"]
        assert one["temp_bytes_per_device"] == other["temp_bytes_per_device"]


def test_decode_stands_beside_reading_the_cache_and_beside_no_cache(bench):
    decode, total, copy, ring = bench(
        f"decode {SIZES} --kv-heads 1 --batch 3 --tokens 64 --devices 4 --runs 2"
    )
    names = [record["implementation"] for record in (decode, total, copy, ring)]
    assert names == ["decode", "sum", "copy", "ring"]
    # One f32 softmax over 64 keys.
    assert 0 < decode["max_abs_error"] < 2e-6
    for record, times in ((total, 1), (copy, 2)):
        # Keys and values of 3 rows, 64 places, 1 head of 8, in f32.
        moved = times * 2 * 3 * 64 * 8 * 4
        rate = moved / record["wall_seconds"]
        assert record["bytes_per_second"] == pytest.approx(rate)
        share = record["bandwidth_ratio"] * times * record["wall_ratio"]
        assert share == pytest.approx(1)
    for record in (total, copy, ring):
        assert set(KEYS) <= set(record)
        most = decode["cpu_seconds_max"] / record["cpu_seconds_min"]
        least = decode["cpu_seconds_min"] / record["cpu_seconds_max"]
        assert least <= record["cpu_ratio"] <= most
    assert decode["tokens_per_second"] == pytest.approx(3 / decode["wall_seconds"])


def test_a_long_cache_is_measured_without_the_ring(bench, monkeypatch):
    monkeypatch.setattr("ring_rl.bench.decode._ALL_ROWS", 100)
    records = bench(f"decode {SIZES} --batch 3 --tokens 64 --no-ring --runs 1")
    names = [record["implementation"] for record in records]
    assert names == ["decode", "sum", "copy"]
    assert 0 < records[0]["max_abs_error"] < 2e-6


def test_a_step_trains_and_its_loss_does_not_depend_on_the_devices(bench):
    (record,) = bench(f"{STEP} --check-devices 2 --runs 2")
    # 2 trajectories x 5 steps x 4 tokens.
    tokens = 2 * 5 * 4
    assert set(KEYS) <= set(record)
    assert (record["tokens"], record["devices"]) == (tokens, 4)
    assert record["fields"] == ["target_return", "observation", "action", "reward"]
    assert record["check_devices"] == 2
    # A mean of f32 losses, summed in another order.
    assert record["loss_difference"] < 1e-5
    assert record["last_loss"] < record["loss"]
    assert record["resident_bytes"] > record["temp_bytes_per_device"] > 0
    assert record["tokens_per_second"] == pytest.approx(tokens / record["wall_seconds"])


def test_a_step_says_what_takes_its_time(bench):
    (record,) = bench(f"{STEP} --parts")
    parts = [record[f"{part}_share"] for part in ("attention", "feed_forward")]
    assert min(parts) > 0
    assert record["rest_share"] == pytest.approx(1 - sum(parts))
    # 40 tokens, one layer of two heads of width 8; six operations a parameter.
    pairs = 40 * 41 // 2
    assert record["model_flops"] == 6 * 40 * record["parameters"] + 12 * pairs * 16
    assert record["model_flops_utilisation"] > 0


def test_a_step_can_be_compiled_and_not_run(bench):
    (record,) = bench(f"{STEP} --layout zigzag --token-layout fused --compile-only")
    chain = 2 * 5
    # Padded so that twice the devices divide it.
    assert record["tokens"] == 16
    assert record["temp_bytes_per_device"] > 0
    assert record["layout"] == "zigzag"
    assert record["wall_seconds"] is None and "loss" not in record
    assert record["attention_flops"] == 14 * chain * (chain + 1) // 2 * 2 * 8


def test_a_rollout_stands_beside_its_parts(bench):
    records = bench(
        "rollout --environments 2 --trials 2 --steps 30 --tokens 32 --rows 2 "
        "--layers 1 --heads 2 --head-dim 4 --runs 1"
    )
    found = {record["implementation"]: record for record in records}
    assert list(found) == [
        *("dark-room", "dm_control", "adapter", "vector", "again", "decode")
    ]
    for record in records:
        assert set(KEYS) <= set(record) and record["wall_seconds"] > 0
    room = found["dark-room"]
    # 2 environments x 2 trials x 20 steps.
    assert (room["steps"], room["tokens"]) == (80, 40)
    assert room["steps_per_second"] == pytest.approx(80 / room["wall_seconds"])
    assert found["adapter"]["speed_ratio"] > 0 < found["vector"]["speed_ratio"]
    assert 0 < found["decode"]["cpu_ratio"] and found["decode"]["tokens"] == 32


def test_a_task_that_is_none_of_the_suite_is_refused(capsys):
    assert main(["bench", "rollout", "--task", "walker-fly"]) == 2
    error = capsys.readouterr().err
    assert "task must be one of the DeepMind Control Suite" in error
    assert "found 'walker-fly'" in error
