"""Every threshold as plain values."""

import json

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.detector.pixel_guarantee import pixel_guarantee
from lit_ad.detector.summary import summary
from tests.detector.test_pixel_decision import RULES, decided, draw


@pytest.mark.parametrize("kind", RULES)
def test_what_is_marked_is_there_as_numbers_and_in_words(kind: str) -> None:
    decision = decided(draw(np.random.default_rng(0), 19), RULES[kind])
    (entry,) = json.loads(json.dumps(summary(decision)))["thresholds"]
    pixels = entry["pixels"]
    assert pixels["rule"] == kind and pixels["guarantee"] == pixel_guarantee(decision)
    assert pixels["threshold"] == pixels["marking"]["threshold"] == decision.pixel_threshold()
    assert 0 <= pixels["resolution"] < 0.01


def test_without_maps_there_is_nothing_of_pixels() -> None:
    (entry,) = summary(Decision({"": np.ones(3)}))["thresholds"]
    assert entry["pixels"] is None and entry["image"]["threshold"] == 1
