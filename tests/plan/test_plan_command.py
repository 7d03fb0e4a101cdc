"""`ring-rl plan`: its JSON, its lines, and what it refuses."""

import json
import os

import jax
import pytest

from ring_rl.cli import main
from ring_rl.configs import presets

KEYS = {
    "min_block",
    "min_sequence",
    "bytes_per_device",
    "flops_per_step",
    "seconds_per_step",
    "max_context",
}


@pytest.fixture
def plan(capsys):
    """Runs `ring-rl plan` with these words; what it prints as JSON, or its lines."""

    def run(words: str, *, as_json: bool = True):
        code = main(["plan", *words.split(), *(["--json"] if as_json else [])])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out) if as_json else captured.out.splitlines()

    return run


def test_the_json_keys_that_programs_may_rely_on(plan):
    found = plan("--devices 4")
    assert KEYS <= set(found)
    for name in ("bytes_per_device", "flops_per_step", "seconds_per_step"):
        items = dict(found[name])
        total = items.pop("total")
        assert total == pytest.approx(sum(items.values()))
    assert set(found["max_context"]) == {
        "reference", "memory_efficient", "blockwise", "ring",
    }  # fmt: skip
    assert found["context"]["tokens"] == 4 * 1000 * 4
    assert found["context"]["layout"] == "zigzag"
    assert found["context"]["mesh"] == {"data": 1, "sequence": 4}


def test_the_papers_smallest_sequence(plan):
    found = plan("--hardware a100-nvlink --model 7b --devices 8")
    assert (found["min_block"], found["min_sequence"]) == (1040, 6240)
    # Half of the pairs masked, and f32 gradients behind every block.
    assert found["min_block_forward"] == 2 * 1040
    assert found["min_block_backward"] == round(2 * 1040 * (2 + 4) / 5)


def test_figures_and_sizes_of_ones_own(plan):
    found = plan(
        "--layers 2 --width 64 --heads 4 --kv-heads 2 --feed-forward 96 "
        "--dtype float32 --flops 1e12 --link 1e9 --memory 2e9 "
        "--rows 4 --data 2 --devices 4 --layout striped "
        "--trajectories 3 --steps 11 --tokens-per-step 5"
    )
    assert found["hardware"] == {
        "name": "h100", "flops": 1e12, "link": 1e9, "memory": 2e9,
        "source": "flops, link, memory: given",
    }  # fmt: skip
    sizes = {name: found["model"][name] for name in ("layers", "width", "kv_heads")}
    assert sizes == {"layers": 2, "width": 64, "kv_heads": 2}
    # 165 tokens, padded so that twice the two devices of a ring divide them.
    assert found["context"]["tokens"] == 168
    assert found["context"]["tokens_per_device"] == 84
    assert found["min_block"] == 1000
    # K / N = 1 / 2, four bytes a number, half of the pairs masked.
    assert found["min_block_forward"] == 1000 * 4 // (2 * 2) * 2
    assert found["min_block_backward"] == 1000 * 8 // (2 * 5) * 2


def test_a_presets_own_trunk(plan):
    trunk = presets()["dark-room"].agent.trunk
    found = plan("--model dark-room --hardware cpu")["model"]
    for name in ("layers", "width", "heads", "dtype", "remat", "chunk"):
        assert found[name] == getattr(trunk, name)
    wider = plan("--model dark-room --hardware cpu --width 256")["model"]
    assert (wider["width"], wider["feed_forward"]) == (256, 1024)


PAPERS = "--model 350m --trajectories 128 --steps 1000 --tokens-per-step 4"


def test_the_papers_context_on_one_h200_and_on_eight_a100(plan):
    *_, fits, overlaps = plan(f"{PAPERS} --hardware h200", as_json=False)
    assert fits.startswith("fits: ") and "of the 141.0 GB of each device" in fits
    assert overlaps.startswith("nothing to overlap: a row is on one device")
    *_, fits, overlaps = plan(
        f"{PAPERS} --hardware a100-nvlink --devices 8", as_json=False
    )
    assert fits.startswith("fits: ") and "of the 80.0 GB of each device" in fits
    assert overlaps.startswith("overlaps: 64,000 tokens a device, where 2,496 hide")
    # One A100 does not hold it, as in the paper; InfiniBand still hides the traffic.
    *_, fits, _ = plan(f"{PAPERS} --hardware a100-nvlink", as_json=False)
    assert fits.startswith("does not fit: ")
    *_, overlaps = plan(
        f"{PAPERS} --hardware a100-infiniband --devices 8", as_json=False
    )
    assert overlaps.startswith("overlaps: 64,000 tokens a device, where 59,904 hide")


def test_what_does_not_overlap_is_said_and_timed(plan):
    words = "--hardware a100-infiniband --devices 8 --trajectories 8"
    *_, overlaps = plan(words, as_json=False)
    assert overlaps.startswith("does not overlap: 4,000 tokens a device, where 59,904")
    found = plan(words)
    assert not found["overlaps"]
    assert found["seconds_per_step"]["exposed"] > found["seconds_per_step"]["attention"]


def test_shared_parameters_are_called_a_prediction(plan):
    text = plan("--model 65b --devices 64 --fsdp 64", as_json=False)
    assert any("over 64 devices: a prediction" in line for line in text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--hardware h300", "hardware must be one of a100-nvlink, a100-infiniband"),
        ("--model 8b", "model must be one of 350m, 1b, 3b"),
        ("--model 8b", "found '8b'"),
        ("--devices 0", "devices must be at least 1, found 0"),
        ("--trajectories -2", "trajectories must be at least 1, found -2"),
        ("--devices 6 --data 4", "data must divide devices=6, found 4"),
        ("--devices 2 --data 2 --rows 3", "data must divide rows=3, found 2"),
        ("--devices 8 --fsdp 3", "fsdp must divide devices=8, found 3"),
        ("--layout spiral", "layout must be one of auto, contiguous, zigzag, striped"),
        ("--layers 0", "layers must be at least 1, found 0"),
        ("--width 0", "width must be at least 1, found 0"),
        ("--width 10 --heads 4", "width must be heads times an even head width"),
        ("--feed-forward -1", "feed_forward must be at least 1, found -1"),
        ("--kv-heads 3", "kv_heads must divide heads=16, found 3"),
        ("--kv-heads -1", "kv_heads must be at least 1, found -1"),
        ("--dtype float64", "invalid choice: 'float64' (choose from"),
        ("--remat some", "invalid choice: 'some' (choose from"),
        ("--observation 0", "observation must be at least 1, found 0"),
        ("--flops 0", "flops must be above 0, found 0.0"),
        ("--link nan", "link must be above 0, found nan"),
        ("--memory -1", "memory must be above 0, found -1.0"),
        ("--memory 80GB", "invalid float value: '80GB'"),
        ("--steps 1.5", "invalid int value: '1.5'"),
        ("--devices 8 --fsdp 8 --compile", "expected 1 with --compile, found 8"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, words, expected):
    assert main(["plan", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert expected in captured.err


@pytest.mark.slow
def test_compile_prints_the_compilers_bytes_beside_the_predicted(plan, monkeypatch):
    # From here on the command cannot change the number of this process's devices.
    jax.devices()
    for name in ("XLA_FLAGS", "MUJOCO_GL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    words = "--model dark-room --hardware cpu --trajectories 2 --steps 100 --devices 2"
    found = plan(f"{words} --compile")["compiled"]
    of_compiler = found["argument_bytes_per_device"] + found["temp_bytes_per_device"]
    assert found["bytes_per_device"] == of_compiler
    ratio = found["predicted_bytes_per_device"] / of_compiler
    assert found["ratio"] == pytest.approx(ratio)
    assert 0.85 < ratio < 1.15
    *_, compiled, predicted = plan(f"{words} --compile", as_json=False)
    assert compiled.startswith("by the compiler for CPUs: ")
    assert predicted.startswith("predicted for CPUs: ")
