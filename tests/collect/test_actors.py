"""Actors from .npz files: what they compute, and what is refused."""

import numpy as np
import pytest

from ring_rl.cli import main
from ring_rl.collect import read_actor
from ring_rl.data.rlds import read_rlds
from ring_rl.types import Continuous, Discrete, Spaces

SPACES = Spaces(3, Continuous((-2.0, 0.0), (2.0, 1.0)))


def arrays(inputs=3, width=5, outputs=2, dtype=np.float32):
    random = np.random.default_rng(0)
    sizes = {
        "latent_pi.0": (width, inputs), "latent_pi.2": (width, width),
        "mu": (outputs, width), "log_std": (outputs, width),
    }  # fmt: skip
    found = {}
    for name, shape in sizes.items():
        found[f"{name}.weight"] = random.normal(size=shape).astype(dtype)
        found[f"{name}.bias"] = random.normal(size=shape[0]).astype(dtype)
    return found


def saved(path, **changes):
    values = arrays() | changes
    np.savez(path, **{name: v for name, v in values.items() if v is not None})
    return path


def likeliest(values, seen):
    x = np.maximum(values["latent_pi.0.weight"] @ seen + values["latent_pi.0.bias"], 0)
    x = np.maximum(values["latent_pi.2.weight"] @ x + values["latent_pi.2.bias"], 0)
    spread = values["log_std.weight"] @ x + values["log_std.bias"]
    return values["mu.weight"] @ x + values["mu.bias"], np.exp(np.clip(spread, -20, 2))


def test_actions_are_the_formulas_brought_to_the_bounds(tmp_path):
    actor = read_actor(saved(tmp_path / "a.npz"), SPACES)
    seen = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    found = actor.act(seen, [np.random.default_rng(0)] * 7)
    for row in range(7):
        unit = np.tanh(likeliest(arrays(), seen[row])[0])
        # Bounds -2 to 2 and 0 to 1; float32 sums of ten terms of about 1.
        expected = [2 * unit[0], (unit[1] + 1) / 2]
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-5)
    assert found.dtype == np.float32


def test_sampled_actions_are_spread_as_the_file_says(tmp_path):
    changes = {"log_std.weight": np.zeros((2, 5)), "log_std.bias": np.full(2, -2.0)}
    actor = read_actor(saved(tmp_path / "a.npz", **changes), SPACES, sample=True)
    count = 4000
    seen = np.full((count, 3), 0.1, np.float32)
    found = actor.act(seen, [np.random.default_rng((0, i)) for i in range(count)])
    mean, _ = likeliest(arrays(), seen[0])
    unit = np.stack([found[:, 0] / 2, 2 * found[:, 1] - 1], 1)
    before = np.arctanh(np.clip(unit, -1 + 1e-6, 1 - 1e-6))
    spread = np.exp(-2)
    near = np.abs(mean) < 3  # beyond, float32 near the bounds blurs arctanh
    assert near.any()
    # Five standard errors of the mean, and of the deviation.
    slack = 5 * spread / np.sqrt(count)
    np.testing.assert_allclose(before.mean(0)[near], mean[near], rtol=0, atol=slack)
    np.testing.assert_allclose(before.std(0)[near], spread, rtol=0, atol=slack)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mu.weight": None}, "mu.weight: expected an array"),
        ({"latent_pi.0.weight": np.zeros((5, 4))}, r"expected \[any 3\] numbers"),
        ({"latent_pi.2.weight": np.zeros((5, 6))}, r"expected \[any 5\] numbers"),
        ({"mu.weight": np.zeros((3, 5))}, r"expected \[2 5\] numbers"),
        ({"mu.bias": np.zeros(3)}, r"mu.bias: expected \[2\] numbers"),
        ({"mu.weight": np.zeros(10)}, r"expected \[2 5\] numbers"),
        ({"latent_pi.0.weight": np.zeros((0, 3))}, r"expected \[any 3\] numbers"),
        ({"mu.bias": np.array([1, 2])}, "mu.bias: expected floating-point numbers"),
        ({"mu.bias": np.array([0, np.nan])}, "mu.bias: expected finite float32"),
        ({"mu.bias": np.array([0, 1e60])}, "mu.bias: expected finite float32"),
        ({"mu.bias": np.array([0, None])}, "mu.bias: expected numbers"),
        ({"latent_pi.0.bias": np.array(["x"] * 5)}, "expected floating-point numbers"),
    ],
)
def test_bad_files_are_one_line(tmp_path, changes, found):
    path = saved(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=found) as caught:
        read_actor(path, SPACES)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_archive_or_fits_no_environment_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(ValueError, match="expected an .npz file"):
        read_actor(path, SPACES)
    with pytest.raises(ValueError, match="expected an .npz file, found nothing"):
        read_actor(tmp_path / "none.npz", SPACES)
    with pytest.raises(ValueError, match="continuous actions"):
        read_actor(saved(tmp_path / "a.npz"), Spaces(3, Discrete(4)))
    saved(tmp_path / "narrow.npz", **{"log_std.weight": np.zeros((1, 5))})
    read_actor(tmp_path / "narrow.npz", SPACES)
    with pytest.raises(ValueError, match="log_std.weight"):
        read_actor(tmp_path / "narrow.npz", SPACES, sample=True)


def test_an_actor_collects_and_a_ladder_over_it_does(tmp_path, capsys):
    path = tmp_path / "pendulum.npz"
    np.savez(path, **arrays(outputs=1))
    words = ["data", "collect", "Pendulum-v1", "--steps", "400"]
    assert main([*words, "--policy", str(path), "--out", str(tmp_path / "a")]) == 0
    alone = read_rlds(tmp_path / "a")
    actor = read_actor(path, alone.spaces)
    expected = actor.act(alone.observations, [])
    np.testing.assert_allclose(alone.actions, expected, rtol=0, atol=1e-5)
    words += ["--policy", "noise-ladder", "--base", str(path)]
    for noise in ("sticky", "gaussian"):
        out = tmp_path / noise
        assert main([*words, "--noise", noise, "--out", str(out)]) == 0
        found = read_rlds(out)
        assert not np.array_equal(found.actions, alone.actions)
        assert np.abs(found.actions).max() <= 2
    capsys.readouterr()
    words = ["data", "collect", "Hopper-v5", "--steps", "9", "--policy", str(path)]
    assert main([*words, "--out", str(tmp_path / "b")]) == 2
    assert "latent_pi.0.weight: expected [any 11] numbers" in capsys.readouterr().err
