"""Keys change the settings of a decision, and settings survive JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lit_ad.detector.decision import Decision
from lit_ad.detector.decision_keys import DecisionKeys, DecisionSettings
from lit_ad.detector.held_out import HeldOutImages
from lit_ad.detector.pixel_rule import GivenCleanUp, PixelRule
from lit_ad.errors import UserError


def held_out_maps() -> list[NDArray[np.float32]]:
    return list(np.random.default_rng(0).random((30, 8, 8)).astype(np.float32))


def decide(settings: DecisionSettings) -> Decision:
    images = HeldOutImages(settings.pixel_rule.area)
    for heat in held_out_maps():
        images.add("", float(heat.max()), heat, None)
    return Decision(**images.held, false_alarm=settings.false_alarm, pixel_rule=settings.pixel_rule)


def test_keys_that_are_not_given_change_nothing() -> None:
    asked = DecisionSettings(0.1, 0.9, PixelRule("pixel", 0.02, clean_up=GivenCleanUp(closing=3)))
    assert asked.with_keys(DecisionKeys()) == asked
    assert asked.with_keys(DecisionKeys(false_alarm=0.2)) == replace(asked, false_alarm=0.2)
    assert asked.with_keys(DecisionKeys(confidence=0.5)) == replace(asked, confidence=0.5)
    assert asked.with_keys(DecisionKeys(confidence=0)) == replace(asked, confidence=None)
    assert asked.with_keys(DecisionKeys(clean_up=False)).pixel_rule == PixelRule("pixel", 0.02)
    assert DecisionSettings.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    assert DecisionSettings.from_dict({"false_alarm": 0.3}) == DecisionSettings(0.3)  # of an earlier version


def test_a_rate_of_pixels_is_dropped_with_the_rule_that_uses_it() -> None:
    """A checkpoint with `pixel` is tested with `image`, and there is no error about a rate that nobody typed."""
    by_pixel = decide(DecisionSettings(0.1, None, PixelRule("pixel", 0.02)))
    by_image = by_pixel.with_keys(DecisionKeys(pixel="image"))
    assert by_image.pixel_rule == PixelRule() and by_image.pixel_threshold() == by_image.threshold()
    assert by_pixel.with_keys(DecisionKeys(pixel="image", clean_up=True)).pixel_rule.rate == 0.02
    with pytest.raises(UserError, match=r"decision.pixel_rate is for decision.pixel pixel"):
        by_pixel.with_keys(DecisionKeys(pixel="image", pixel_rate=0.02))


def test_keys_apply_together() -> None:
    """A rule that the old rate does not allow is accepted with a new rate that does."""
    loose = decide(DecisionSettings(0.6))
    with pytest.raises(UserError, match=r"must be below 0.5"):
        loose.with_keys(DecisionKeys(pixel="pixel"))
    strict = loose.with_keys(DecisionKeys(false_alarm=0.05, pixel="pixel"))
    point = strict.pixel_operating_point()
    assert point is not None and point.share is not None and point.share <= 0.05
    assert strict.settings == DecisionSettings(0.05, None, PixelRule("pixel"))
