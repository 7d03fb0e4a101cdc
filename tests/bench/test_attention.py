import importlib.util
import sys

import numpy as np
import pytest

from ring_rl.bench import program
from ring_rl.bench.config import AttentionConfig
from ring_rl.bench.contenders import make_own
from ring_rl.bench.program import place
from ring_rl.bench.records import KEYS
from ring_rl.cli import main
from ring_rl.mesh import MeshConfig, make_mesh

SMALL = "--tokens 64 --heads 4 --head-dim 8 --runs 2 --block-q 16 --block-k 16"
# f32 of unit-normal inputs; gradients of keys are sums over 64 queries.
BOUND = 1e-5


def test_a_race_has_a_record_for_each_with_all_keys(bench):
    ours, nn, reference = bench(
        f"attention {SMALL} --devices 2 --layout zigzag --kv-heads 2 --batch 2 "
        "--backward --against jax-nn --against reference,matmul"
    )
    names = [record["implementation"] for record in (ours, nn, reference)]
    assert names == ["ring", "jax-nn", "reference"]
    causal = 64 * 65 // 2
    for record in (ours, nn, reference):
        assert set(KEYS) <= set(record)
        assert (record["devices"], record["tokens"], record["batch"]) == (2, 64, 2)
        assert (record["heads"], record["kv_heads"], record["head_dim"]) == (4, 2, 8)
        assert record["flops"] == 14 * 2 * causal * 4 * 8
        assert 0 < record["max_abs_error"] < BOUND
        assert set(record["errors"]) == {"output", "dq", "dk", "dv"}
        assert record["error_rows"] == 64
        assert record["temp_bytes_per_device"] > 0
        for clock in ("cpu", "wall"):
            least, most = (record[f"{clock}_seconds_{end}"] for end in ("min", "max"))
            assert 0 < least <= record[f"{clock}_seconds"] <= most
        assert record["platform"] == "cpu" and record["runs"] == 2
        rate = record["gflops_per_cpu_second"]
        assert rate == pytest.approx(record["flops"] / record["cpu_seconds"] / 1e9)
        assert record["matmul_gflops"] > 0 and record["matmul_share"] > 0
        tokens = 2 * 64 / record["wall_seconds"]
        assert record["tokens_per_second"] == pytest.approx(tokens)
    assert ours["layout"] == "zigzag"
    assert 0 < ours["balance"] <= 1
    for peer in (nn, reference):
        for clock in ("cpu", "wall"):
            most = ours[f"{clock}_seconds_max"] / peer[f"{clock}_seconds_min"]
            least = ours[f"{clock}_seconds_min"] / peer[f"{clock}_seconds_max"]
            assert least <= peer[f"{clock}_ratio"] <= most
        shares = peer["temp_ratio"], ours["temp_bytes_per_device"]
        assert shares[0] == pytest.approx(shares[1] / peer["temp_bytes_per_device"])


@pytest.mark.parametrize(
    "words",
    [
        "--implementation blockwise --mask segments:10",
        "--implementation memory_efficient --mask window:20",
        "--devices 4 --layout zigzag --mask window:10",
        "--devices 2 --mask full --dropout 0.5",
        "--tokens 61 --mask full",
    ],
)
def test_what_is_asked_for_is_what_is_computed(bench, words):
    (record,) = bench(f"attention {SMALL} {words}")
    assert 0 < record["max_abs_error"] < BOUND


def test_the_ring_gets_its_tokens_in_the_order_of_the_layout():
    config = AttentionConfig(tokens=8, devices=2, layout="zigzag", heads=1, head_dim=2)
    mesh = make_mesh(MeshConfig(sequence=2))
    inputs = config.inputs()
    stored, *_, mask = place(make_own("ring", config, mesh), inputs, mesh)
    order = [0, 1, 6, 7, 2, 3, 4, 5]
    np.testing.assert_array_equal(stored, inputs.q[:, order])
    np.testing.assert_array_equal(mask.k_positions[0], order)


def test_bf16_is_judged_by_the_numbers_that_it_was_given(bench):
    (record,) = bench(f"attention {SMALL} --dtype bfloat16 --mask segments:1")
    # A query that sees itself alone gets its value back, which bf16 holds exactly.
    assert record["max_abs_error"] == 0


def test_ringattention_is_raced_where_it_is_installed(bench):
    # Not imported here: as it is, it fails with this JAX.
    if importlib.util.find_spec("ringattention") is None:
        pytest.skip("the extra `bench` is not installed")
    import jax.lib

    before = hasattr(jax.lib, "xla_bridge")
    _, peer = bench(
        f"attention {SMALL} --devices 2 --mask segments:24 --backward "
        "--against ringattention"
    )
    assert hasattr(jax.lib, "xla_bridge") == before
    assert peer["chunk"] == 32
    assert 0 < peer["max_abs_error"] < BOUND
    assert peer["cpu_ratio"] > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--kv-heads 2", "grouped-query heads"),
        ("--mask window:8", "window"),
        ("--dropout 0.1", "dropout"),
    ],
)
def test_what_a_peer_cannot_do_is_its_record(bench, words, expected):
    ours, peer = bench(f"attention {SMALL} {words} --against ringattention")
    assert "error" not in ours
    assert peer["implementation"] == "ringattention"
    assert expected in peer["error"]
    assert set(KEYS) <= set(peer) and peer["cpu_seconds"] is None


def test_a_peer_that_is_not_installed_names_the_extra(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "ringattention", None)
    _, peer = bench(f"attention {SMALL} --against ringattention")
    assert peer["error"].endswith("not installed: pip install 'ring_rl[bench]'")


def test_what_there_is_no_memory_for_is_not_run(bench, monkeypatch):
    monkeypatch.setattr(program, "free_bytes", lambda devices: 0)
    (record,) = bench(f"attention {SMALL} --implementation reference")
    assert record["error"].startswith("not run: needs 0.0 GB of temporary memory")


def test_lines_to_read_stand_under_their_headings(capsys):
    words = f"bench attention {SMALL} --kv-heads 2 --against ringattention,reference"
    assert main(words.split()) == 0
    captured = capsys.readouterr()
    heading, ours, failed, reference = captured.out.splitlines()
    assert heading.startswith("implementation")
    assert len(heading) == len(ours)
    assert failed.endswith("cannot do grouped-query heads")
    assert reference.startswith("reference ")
    assert "compile ring" in captured.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("attention --implementation flash", "implementation must be one of"),
        ("attention --against flash", "against must be some of"),
        ("attention --mask diagonal", "mask must be one of"),
        ("attention --layout spiral", "layout must be one of"),
        ("attention --tokens 0", "tokens must be at least 1, found 0"),
        ("attention --tokens x", "--tokens"),
        ("attention --tokens 1001 --devices 2", "multiple of 4"),
        ("attention --devices 2 --implementation blockwise", "one device"),
        ("attention --devices 1000 --tokens 2000", "needs 1000 devices"),
        ("attention --implementation reference --layout zigzag", "of the ring"),
        ("attention --heads 4 --kv-heads 3", "kv_heads must divide heads=4"),
        ("attention --dropout 1", "dropout must be in [0, 1), found 1.0"),
        ("attention --dtype int8", "dtype must be one of"),
        ("attention --runs 0", "runs must be at least 1"),
        ("attention --trajectories 3", "--trajectories 3"),
        ("memory --tokens 64,x", "8192,16384"),
        ("memory --tokens 64,65 --devices 2", "multiple of 4"),
        ("step --token-layout woven", "token_layout must be one of interleaved, fused"),
        ("step --head-dim 3", "even head width"),
        ("step --check-devices 1000", "needs 1000 devices"),
        ("decode --tokens 63 --devices 2", "multiple of 4"),
        ("speed", "'speed'"),
        ("", "BENCHMARK"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, expected):
    assert main(["bench", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ring-rl: error: ") and captured.err.count("\n") == 1
    assert expected in captured.err


@pytest.mark.parametrize("words", ["", "attention", "memory", "step", "decode"])
def test_every_benchmark_has_help(capsys, words):
    assert main(["bench", *words.split(), "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"usage: ring-rl bench {words}".rstrip())
    assert captured.err == ""
