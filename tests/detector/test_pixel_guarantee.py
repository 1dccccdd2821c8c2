"""What a decision says of pixels."""

from dataclasses import replace

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.detector.pixel_guarantee import pixel_guarantee
from lit_ad.detector.pixel_rule import PixelRule
from tests.detector.test_pixel_decision import RULES, decided, draw

MAPS = draw(np.random.default_rng(0), 19)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("image", "A nominal image like the held-out ones has any anomalous pixel, with a probability of at most 10 %"),
        ("region", "has an anomalous region, 6 connected pixels or more, with a probability of at most 10 %"),
        ("pixel", " % of a held-out nominal image's pixels lie above the pixel threshold, and about as many"),
    ],
)
def test_the_words_are_those_of_the_rule(kind: str, sentence: str) -> None:
    decision = decided(MAPS, RULES[kind])
    assert sentence in pixel_guarantee(decision)
    by_hand = decision.with_threshold(50, pixels=True)
    assert pixel_guarantee(by_hand) == "The pixel threshold was set by hand, so no rate is promised of pixels."


def test_a_share_of_pixels_is_bounded() -> None:
    decision = decided(MAPS, RULES["pixel"])
    share = decision.pixel_operating_point().share  # type: ignore[union-attr]
    assert share is not None and f"at most {100 * (19 * share + 1) / 20:.3g} %" in pixel_guarantee(decision)


@pytest.mark.parametrize("kind", RULES)
def test_what_was_chosen_on_the_same_images_makes_it_approximate(kind: str) -> None:
    decision = decided(MAPS, RULES[kind])
    chosen = Decision.from_dict({**decision.to_dict(), "also_chosen": {"": ["the epoch"]}})
    assert "approximate: the epoch was chosen on the same held-out images" in pixel_guarantee(chosen)
    assert "at most" not in pixel_guarantee(chosen)
    folds = Decision.from_dict({**decision.to_dict(), "folds": {"": [10, 9]}})
    assert "at most" not in pixel_guarantee(folds) and "bout" in pixel_guarantee(folds)


def test_a_confidence_is_of_the_image_threshold_alone() -> None:
    decision = decided(MAPS, RULES["image"])
    for confidence in (0.5, 0.95):
        assert pixel_guarantee(replace(decision, confidence=confidence)) == pixel_guarantee(decision)


def test_without_maps_nothing_is_said() -> None:
    assert pixel_guarantee(Decision({"": np.ones(3)}, pixel_rule=PixelRule())) == ""
