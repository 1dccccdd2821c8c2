"""The sentences about pixels follow the rule."""

from dataclasses import replace

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.detector.pixel_guarantee import describe_pixel_guarantee
from lit_ad.detector.pixel_rule import PixelRule
from tests.detector.test_pixel_decision import RULES, decide, draw

MAPS = draw(np.random.default_rng(0), 19)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("image", "A nominal image like the held-out ones has any anomalous pixel, with a probability of at most 10 %"),
        ("region", "has an anomalous region, 6 connected pixels or more, with a probability of at most 10 %"),
        ("pixel", " % of a held-out nominal image's pixels lie above the pixel threshold, and about as many"),
    ],
)
def test_each_rule_has_its_sentence(kind: str, sentence: str) -> None:
    decision = decide(MAPS, RULES[kind])
    assert sentence in describe_pixel_guarantee(decision)
    by_hand = decision.with_threshold(50, pixels=True)
    assert describe_pixel_guarantee(by_hand) == "The pixel threshold was set by hand, so no rate of pixels is promised."


def test_a_share_of_pixels_is_bounded() -> None:
    decision = decide(MAPS, RULES["pixel"])
    share = decision.pixel_operating_point().share  # type: ignore[union-attr]
    assert share is not None and f"at most {100 * (19 * share + 1) / 20:.3g} %" in describe_pixel_guarantee(decision)


@pytest.mark.parametrize("kind", RULES)
def test_a_choice_on_the_same_images_makes_the_guarantee_approximate(kind: str) -> None:
    decision = decide(MAPS, RULES[kind])
    chosen = Decision.from_dict({**decision.to_dict(), "also_chosen": {"": ["the epoch"]}})
    assert "approximate: the epoch was chosen on the same held-out images" in describe_pixel_guarantee(chosen)
    assert "at most" not in describe_pixel_guarantee(chosen)
    folds = Decision.from_dict({**decision.to_dict(), "folds": {"": [10, 9]}})
    told = describe_pixel_guarantee(folds)
    assert "at most" not in told and "bout" in told and "held-out" not in told
    assert "under the condition that the guarantee of the image threshold names" in told


def test_a_confidence_is_for_the_image_threshold_only() -> None:
    decision = decide(MAPS, RULES["image"])
    for confidence in (0.5, 0.95):
        assert describe_pixel_guarantee(replace(decision, confidence=confidence)) == describe_pixel_guarantee(decision)


def test_without_maps_there_is_no_sentence() -> None:
    assert describe_pixel_guarantee(Decision({"": np.ones(3)}, pixel_rule=PixelRule())) == ""
