"""The keys of pixel decisions."""

import pytest

from lit_ad.detector.pixel_rule import GivenCleanUp, PixelRule
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
    with pytest.raises(UserError, match=r"decision.pixel_rate is for decision.pixel pixel, or for decision.clean_up"):
        PixelRule(rate=0.1).check()
    PixelRule(area=5).check()  # it may be used later


def test_a_clean_up_is_off_learned_or_given() -> None:
    learned = PixelRule().changed(clean_up=True)
    assert learned.clean_up == GivenCleanUp() and learned.changed(clean_up=False) == PixelRule()
    given = learned.changed(clean_up={"closing": 3, "low": 0.5})
    assert given.clean_up == GivenCleanUp(low=0.5, closing=3) and given.changed() == given
    assert PixelRule.from_dict(given.to_dict()) == given
    PixelRule(rate=0.1, clean_up=GivenCleanUp()).check()


@pytest.mark.parametrize(
    ("clean_up", "message"),
    [
        ({"opening": 3}, r"decision.clean_up has no opening, but low, reach, closing, holes, area"),
        ({"closing": -1}, r"decision.clean_up.closing"),
        ({"closing": 100000}, r"decision.clean_up.closing is 100000, but it must lie between 0 and 1000"),
        ({"reach": 1e6}, r"decision.clean_up.reach"),
        ({"holes": float("inf")}, r"decision.clean_up.holes is inf, but it must be a finite number"),
        ({"low": float("nan")}, r"decision.clean_up.low is nan"),
        ({"area": 0}, r"decision.clean_up.area"),
        ({"holes": 1.5}, r"decision.clean_up.holes is a number of pixels, not 1.5"),
    ],
)
def test_a_clean_up_that_cannot_be(clean_up: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PixelRule().changed(clean_up=clean_up)
