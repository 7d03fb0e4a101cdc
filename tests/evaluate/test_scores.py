import numpy as np
import pytest

from ring_rl.evaluate.scores import (
    iqm,
    normalised_score,
    reference,
    weighted_iqm,
)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("Hopper-v5", (-20.272305, 3234.3)),
        ("Hopper-v4", (-20.272305, 3234.3)),
        ("gymnasium:Walker2d-v5", (1.629008, 4592.3)),
        ("HalfCheetah-v5", (-280.178953, 12135.0)),
        ("Ant-v5", (-325.6, 3879.7)),
        ("hopper-medium-v2", (-20.272305, 3234.3)),
        ("halfcheetah-medium-replay-v2", (-280.178953, 12135.0)),
        ("maze2d-large-v1", (6.7, 273.99)),
        ("antmaze-large-diverse-v2", (0.0, 1.0)),
        ("kitchen-mixed-v0", (0.0, 4.0)),
        ("pen-human-v1", (96.262799, 3076.833102)),
    ],
)
def test_names_of_d4rl_find_their_reference(name, bounds):
    assert reference(name) == bounds
    scores = normalised_score(name, np.asarray([*bounds, sum(bounds) / 2]))
    assert scores == pytest.approx([0.0, 100.0, 50.0])


def test_a_published_return_gives_its_published_score():
    # By hand: 100 (3600 + 20.272305) / (3234.3 + 20.272305).
    score = normalised_score("hopper-medium-v2", np.asarray(3600.0))
    assert score == pytest.approx(111.23650, abs=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "hopper-hop",  # dm_control's
        "dm_control/hopper-hop",
        "maze2d-umaze-dense-v1",  # another scale than the sparse one
        "HopperBulletEnv-v0",
        "PointMaze_UMaze-v3",
        "ring_rl/DarkRoom-v0",
        "",
    ],
)
def test_other_environments_have_no_reference(name):
    assert reference(name) is None
    assert normalised_score(name, np.asarray([1.0])) is None


def test_iqm_by_hand():
    # Of 9 values the floor(9 / 4) = 2 smallest and largest go.
    values = np.asarray([100.0, 3.0, 1.0, 4.0, -50.0, 5.0, 9.0, 2.0, 8.0])
    assert iqm(values) == pytest.approx((2 + 3 + 4 + 5 + 8) / 5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 15])
def test_iqm_is_the_trimmed_mean_of_rliable(count):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(size=(3, count))
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=-1))


@pytest.mark.parametrize("count", [1, 3, 8, 21])
def test_weights_stand_for_repeated_values(count):
    generator = np.random.default_rng(count)
    values = generator.integers(0, 5, count).astype(float)  # with ties
    repeats = generator.multinomial(count, np.full(count, 1 / count), size=50)
    # As bootstrap weights come: parts of 1, scaled up again.
    weights = repeats / count * count
    expected = np.stack([iqm(np.repeat(values, row)) for row in repeats])
    assert weighted_iqm(values, weights) == pytest.approx(expected)


def test_nothing_has_no_average():
    with pytest.raises(ValueError, match="at least one value"):
        iqm(np.zeros((2, 0)))
