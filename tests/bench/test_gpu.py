"""The table of what kernels must reach on a GPU, and tuning, without one."""

import functools

import jax
import pytest

from ring_rl.attention import kernels
from ring_rl.attention.kernels import tuning
from ring_rl.bench import attention, gpu, tune
from ring_rl.bench.gpu import GpuConfig
from ring_rl.bench.tune import TuneConfig
from ring_rl.cli import main

SMALL = {
    "tokens": 64, "heads": 2, "segment": 20, "error_tokens": 64, "cached": 96,
    "rows": 2, "trajectories": 2, "steps": 5, "layers": 1, "runs": 1,
}  # fmt: skip


@pytest.mark.parametrize("benchmark", ["gpu", "tune"])
def test_a_machine_without_a_gpu_is_told_so(benchmark, capsys):
    assert main(["bench", benchmark]) == 2
    assert f"bench: {benchmark} needs a GPU" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys):
    assert main(["bench", "gpu", "--parts", "decode,speed"]) == 2
    error = capsys.readouterr().err
    assert "errors, attention, segments, decode, step, found 'speed'" in error


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The command's own code; kernels are run by JAX, and cuDNN is what it is not."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "compute_capability", lambda: 8.0)
    unchecked = functools.partial(jax.shard_map, check_vma=False)
    monkeypatch.setattr(jax, "shard_map", unchecked)
    make = attention.make_contender

    def make_contender(name, config, mesh):
        if name == "cudnn":
            return make("reference", config, mesh)._replace(name=name)
        if name == "cudnn-causal":
            raise attention.Unable("needs a GPU")
        return make(name, config, mesh)

    monkeypatch.setattr(attention, "make_contender", make_contender)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_every_bar_has_a_line_that_says_whether_it_is_met():
    lines = list(gpu.measure(GpuConfig(**SMALL), lambda text: None))
    found = {line["implementation"]: line for line in lines}
    for width in (64, 128):
        for name in ("output", "dq", "dk", "dv"):
            line = found[f"width {width}: error of {name} over cuDNN's"]
            own, peer = line["records"]
            assert line["found"] == own["errors"][name] / peer["errors"][name]
            # Of one and the same inputs, in bf16, as close as any other way.
            assert 0.2 < line["found"] < 5
            assert line["met"] == (line["found"] <= 1)
        for passes, bar in (("forward", 0.75), ("forward + backward", 0.65)):
            for peer, least in (("cudnn", bar), ("tiles", 5)):
                line = found[f"width {width}, {passes}: speed over {peer}"]
                assert line["records"][1]["implementation"] == peer
                assert line["found"] == 1 / line["records"][1]["wall_ratio"]
                assert line["bar"] == f"at least {least:g}"
                assert line["met"] == (line["found"] >= least)
        line = found[f"width {width}, segments:20: speed over plain cuDNN"]
        assert (line["found"], line["met"]) == (None, False)
        assert line["error"] == "needs a GPU"
    line = found["decode, 2 rows of 96: rate over copy's"]
    decode, *_, copy = line["records"]
    assert line["found"] == pytest.approx(
        decode["bytes_per_second"] / copy["bytes_per_second"], rel=0.01
    )
    assert found["step, 40 tokens: seconds"]["met"]
    assert found["step, 40 tokens: GB planned"]["found"] > 0
    # The CPU does not say what was in use.
    assert not found["step, 40 tokens: GB of the device at the peak"]["met"]
    assert len(lines) == 8 + 8 + 2 + 1 + 4


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_step_that_does_not_fit_is_a_line_of_the_table(monkeypatch):
    def fail(config, say):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")

    monkeypatch.setattr(gpu.step, "measure", fail)
    config = GpuConfig(**SMALL | {"parts": ("step",)})
    for line in gpu.measure(config, lambda text: None):
        assert not line["met"]
        assert line["error"] == "failed: RESOURCE_EXHAUSTED: Out of memory"


@pytest.fixture
def candidates(monkeypatch, tmp_path):
    """Few to choose from, and a folder for what is chosen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    some = [tuning.Launch(16, 16, 2, 4), tuning.Launch(32, 16, 2, 4)]
    monkeypatch.setattr(tuning, "candidates", lambda shapes: some)
    return some


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_fastest_that_is_right_is_kept(candidates, monkeypatch):
    wrong, fast = candidates
    monkeypatch.setattr(tune, "race", _race_by_tile)
    program = tune._program

    def spoil(config, name):
        run = program(config, name)
        launches = tuning.choose_launches("triton", jax.numpy.zeros((1, 1, 1, 64)))
        off = getattr(launches, name) == wrong
        return lambda *arrays: [(1 + 0.1 * off) * x for x in run(*arrays)]

    monkeypatch.setattr(tune, "_program", spoil)
    config = TuneConfig("triton", tokens=64, heads=1, dtype="float32", runs=1)
    records = list(tune.measure(config, lambda text: None))
    assert [record["pass"] for record in records] == [
        "forward", "forward", "forward", "queries", "queries", "queries",
        "keys", "keys", "keys",
    ]  # fmt: skip
    for standing, off, kept in zip(*[iter(records)] * 3, strict=True):
        assert "error" not in standing and "kept" not in standing
        assert off["error"].startswith("results are off by 0.1")
        assert kept["kept"] is True
    q = jax.numpy.zeros((1, 1, 1, 64))
    assert tuning.choose_launches("triton", q) == tuning.Launches(*[fast] * 3)


def _race_by_tile(calls, runs, say):
    """The later, the faster."""
    _race_by_tile.seconds *= 0.9
    times = gpu.attention.Times([_race_by_tile.seconds], [1.0])
    return dict.fromkeys(calls, times)


_race_by_tile.seconds = 1.0
