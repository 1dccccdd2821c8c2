"""The keys of pixel decisions."""

import pytest

from lit_ad.detector.pixel_rule import PixelRule
from lit_ad.errors import UserError


def test_what_is_not_given_stays() -> None:
    rule = PixelRule("region", area=7).changed(kind="pixel", rate=0.02)
    assert rule == PixelRule("pixel", 0.02, 7) and rule.changed() == rule
    assert PixelRule.from_dict(rule.to_dict()) == rule


@pytest.mark.parametrize(("key", "value"), [("rate", 0.0), ("rate", 1.0), ("area", 0), ("area", -3)])
def test_values_that_cannot_be(key: str, value: float) -> None:
    with pytest.raises(UserError, match=r"decision.(pixel_rate|area)"):
        PixelRule(**{key: value})  # type: ignore[arg-type]


def test_keys_that_do_not_go_together() -> None:
    with pytest.raises(UserError, match=r"decision.pixel region needs decision.area"):
        PixelRule("region").check()
    with pytest.raises(UserError, match=r"decision.pixel_rate is for decision.pixel pixel, not image"):
        PixelRule(rate=0.1).check()
    PixelRule(area=5).check()  # it may be used later
