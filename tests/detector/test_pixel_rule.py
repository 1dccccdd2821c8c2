"""The keys of the pixel rule are checked, and changed one by one."""

import pytest

from lit_ad.detector.pixel_rule import GivenCleanUp, PixelKind, PixelRule
from lit_ad.errors import UserError


def test_arguments_that_are_not_given_keep_their_value() -> None:
    rule = PixelRule("region", area=7).with_values(kind="pixel", rate=0.02)
    assert rule == PixelRule("pixel", 0.02, 7) and rule.with_values() == rule
    assert PixelRule.from_dict(rule.to_dict()) == rule


@pytest.mark.parametrize(("key", "value"), [("rate", 0.0), ("rate", 1.0), ("area", 0), ("area", -3)])
def test_impossible_values_are_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=r"decision.(pixel_rate|area)"):
        PixelRule(**{key: value})  # type: ignore[arg-type]


def test_keys_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"decision.pixel region needs decision.area"):
        PixelRule("region").check()
    with pytest.raises(UserError, match=r"decision.pixel_rate is for decision.pixel pixel or for decision.clean_up"):
        PixelRule(rate=0.1).check()
    PixelRule(area=5).check()  # it may be used later


def test_a_clean_up_is_off_learned_or_given() -> None:
    learned = PixelRule().with_values(clean_up=True)
    assert learned.clean_up == GivenCleanUp() and learned.with_values(clean_up=False) == PixelRule()
    given = learned.with_values(clean_up={"closing": 3, "low": 0.5})
    assert given.clean_up == GivenCleanUp(low=0.5, closing=3) and given.with_values() == given
    assert PixelRule.from_dict(given.to_dict()) == given
    PixelRule(rate=0.1, clean_up=GivenCleanUp()).check()


def test_the_lowest_and_the_highest_values_of_a_clean_up_are_taken() -> None:
    lowest = {"reach": 0, "closing": 0, "holes": 0, "area": 1}
    assert GivenCleanUp.from_key(lowest) == GivenCleanUp(None, 0, 0, 0, 1)
    highest = {"low": -1e9, "reach": 1000, "closing": 1000, "holes": 1e9, "area": 1e9}
    given = GivenCleanUp.from_key(highest)
    assert given == GivenCleanUp(-1e9, 1000, 1000, 10**9, 10**9)
    assert all(isinstance(number, int) for name, number in vars(given).items() if name != "low")


@pytest.mark.parametrize("kind", ["image", "region"])
def test_a_rule_that_uses_no_rate_drops_the_rate_that_it_had(kind: PixelKind) -> None:
    rule = PixelRule("pixel", 0.02)
    assert rule.with_values(kind=kind, area=5) == PixelRule(kind, None, 5)
    assert rule.with_values(kind=kind, area=5, clean_up=True) == PixelRule(kind, 0.02, 5, GivenCleanUp())
    with pytest.raises(UserError, match=r"decision.pixel_rate is for"):
        rule.with_values(kind=kind, area=5, rate=0.03).check()  # the user gave a rate that has no effect


def test_rules_that_lack_nothing_pass_the_check() -> None:
    PixelRule("region", area=1).check()
    PixelRule("pixel", 0.1).check()
    PixelRule().check()


def test_a_rule_that_an_earlier_version_saved_has_no_clean_up() -> None:
    assert PixelRule.from_dict({"kind": "pixel", "rate": 0.02}) == PixelRule("pixel", 0.02)


@pytest.mark.parametrize(
    ("clean_up", "message"),
    [
        ({"opening": 3}, r"decision.clean_up has no opening: its keys are low, reach, closing, holes, area"),
        *(({name: -1}, rf"decision.clean_up.{name} is -1") for name in ("reach", "closing", "holes")),
        ({"closing": 100000}, r"decision.clean_up.closing is 100000, but it must lie between 0 and 1000"),
        ({"reach": 1e6}, r"decision.clean_up.reach"),
        ({"holes": float("inf")}, r"decision.clean_up.holes is inf, but it must be a finite number"),
        ({"low": float("nan")}, r"decision.clean_up.low is nan"),
        *(({"area": area}, r"decision.clean_up.area") for area in (0, 1e12)),
        ({"holes": 1.5}, r"decision.clean_up.holes is a whole number of pixels, not 1.5"),
    ],
)
def test_impossible_clean_ups_are_refused(clean_up: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PixelRule().with_values(clean_up=clean_up)
