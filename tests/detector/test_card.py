"""The card of a detector, to plain values and back."""

import json
from dataclasses import fields

import numpy as np
import pytest

from lit_ad.detector.card import Card
from lit_ad.detector.decision import Decision
from lit_ad.image.view import View

SCORES = {"nut": np.array([0.5, 1.5, 1.0])}
CARDS = [
    Card("STFPM", View(64, tile=32, roi=[1, 2, 30, 40]), Decision(SCORES, SCORES, SCORES, false_alarm=0.2), 0.01),
    Card("Transformaly", View((64, 32), window=[0, 4095]), None, 0.0, False, "0.2.0", "int8", "no map"),
]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.method)
def test_to_json_and_back(card: Card) -> None:
    values = json.loads(json.dumps(card.to_dict()))
    again = Card.from_dict(values)
    assert again.to_dict() == card.to_dict() and again.view == card.view
    assert set(values) == {field.name for field in fields(Card)}
    if card.decision is not None:
        assert again.decision is not None and again.decision.threshold("nut") == card.decision.threshold("nut")


def test_what_other_programs_read_is_passed_over_and_what_is_not_there_has_its_default() -> None:
    values = {**CARDS[0].to_dict(), "input_size": [64, 64], "threshold": {"": 1.0}}
    assert Card.from_dict(values).to_dict() == CARDS[0].to_dict()
    del values["precision"]
    assert Card.from_dict(values).precision == "fp32"
