"""The summary has every threshold as plain values."""

import json

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.detector.pixel_guarantee import describe_pixel_guarantee
from lit_ad.detector.summary import summarize
from tests.detector.test_pixel_decision import RULES, decide, draw


@pytest.mark.parametrize("kind", RULES)
def test_the_marking_is_there_as_numbers_and_in_words(kind: str) -> None:
    decision = decide(draw(np.random.default_rng(0), 19), RULES[kind])
    (entry,) = json.loads(json.dumps(summarize(decision)))["thresholds"]
    pixels = entry["pixels"]
    assert pixels["rule"] == kind and pixels["guarantee"] == describe_pixel_guarantee(decision)
    assert pixels["threshold"] == pixels["marking"]["threshold"] == decision.pixel_threshold()
    assert 0 <= pixels["resolution"] < 0.01


def test_without_maps_there_is_no_entry_of_pixels() -> None:
    (entry,) = summarize(Decision({"": np.ones(3)}))["thresholds"]
    assert entry["pixels"] is None and entry["image"]["threshold"] == 1
