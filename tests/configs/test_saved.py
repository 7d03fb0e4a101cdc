import json

import pytest

from ring_rl.configs import presets
from ring_rl.configs.saved import from_json, to_json


@pytest.mark.parametrize("name", presets())
def test_every_preset_comes_back(name):
    config = presets()[name]
    assert from_json(to_json(config), "here") == config


def test_an_older_file_lacks_younger_fields():
    config = presets()["point-mass"]
    plain = json.loads(to_json(config))
    del plain["agent"]["chains"]["order"], plain["data"]["seed"]
    assert from_json(json.dumps(plain), "here") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.pop("agent"), "fields differ, agent"),
        (lambda plain: plain.update(colour="red"), "fields differ, colour"),
        (lambda plain: plain["loop"].update(pace=1), "loop: fields differ, pace"),
        (lambda plain: plain["data"].update(kind="os.system"), "data: no such kind"),
        (lambda plain: plain["loop"].update(steps="9"), "loop.steps: expected int"),
    ],
)
def test_other_content_is_refused(change, message):
    plain = json.loads(to_json(presets()["dark-room"]))
    change(plain)
    with pytest.raises(ValueError, match=f"^here: .*{message}"):
        from_json(json.dumps(plain), "here")


def test_a_file_nested_without_end_is_refused():
    with pytest.raises(ValueError, match="^here: expected a configuration"):
        from_json("[" * 100_000, "here")
