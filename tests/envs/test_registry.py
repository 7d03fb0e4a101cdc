import gymnasium
import pytest

from ring_rl.envs import check_known, families, make_vector, register


def test_importing_registers_and_registering_again_does_nothing():
    before = dict(gymnasium.registry)
    assert "ring_rl/DarkRoom-v0" in before
    register()
    assert dict(gymnasium.registry) == before


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_families_are_what_they_say(family):
    environment = make_vector(family.name, 1, seed=0)
    assert environment.spaces == family.spaces
    assert environment.max_episode_steps == family.horizon
    environment.close()


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("Hoper-v5", "Hopper-v5"),
        ("hopper-v5", "Hopper-v5"),
        ("DarkRoom-v0", "ring_rl/DarkRoom-v0"),
        ("ring_rl/darkroom", "ring_rl/DarkRoom-v0"),
        ("CartPole", "CartPole-v1"),
    ],
)
def test_an_unknown_name_brings_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=nearest) as caught:
        check_known(wrong)
    assert repr(wrong) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_known_names_pass():
    for family in families():
        check_known(family.name)


def test_a_name_near_nothing_says_so():
    with pytest.raises(ValueError, match="none is near"):
        check_known("zzzzqqqq")
