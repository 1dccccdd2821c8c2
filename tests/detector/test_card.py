"""A card survives plain values, and a file without a readable card is an error."""

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from lit_ad import __version__
from lit_ad.detector.card import Card, read_card
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.image.view import View

SCORES = {"nut": np.array([0.5, 1.5, 1.0])}
CARDS = [
    Card("STFPM", View(64, tile=32, roi=(1, 2, 30, 40)), Decision(SCORES, SCORES, SCORES, false_alarm=0.2), 0.01),
    Card("Transformaly", View((64, 32), window=(0, 4095)), None, 0.0, False, "0.2.0", "int8", "no map"),
]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.method)
def test_to_json_and_back(card: Card) -> None:
    values = json.loads(json.dumps(card.to_dict()))
    again = Card.from_dict(values)
    assert again.to_dict() == card.to_dict() and again.view == card.view
    assert set(values) == {field.name for field in fields(Card)}
    if card.decision is not None:
        assert again.decision is not None and again.decision.threshold("nut") == card.decision.threshold("nut")


def test_unknown_keys_are_ignored_and_missing_ones_have_defaults() -> None:
    values = {**CARDS[0].to_dict(), "input_size": [64, 64], "threshold": {"": 1.0}}
    assert Card.from_dict(values).to_dict() == CARDS[0].to_dict()
    del values["precision"]
    assert Card.from_dict(values).precision == "fp32"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"view": {"image_size": 64, "old": 1}}, "unexpected keyword argument 'old'"),
        ({"view": {"image_size": 0}}, "view.image_size is 0"),
        ({"decision": {"scores": {"nut": [1.0]}, "quantile": 0.9}}, "unexpected keyword argument 'quantile'"),
        ({"decision": {"scores": {}}}, "a decision needs the scores"),
        ({"decision": [1]}, "must be a mapping"),
        ({"view": None}, "NoneType"),
    ],
)
def test_an_unreadable_card_of_another_version_names_the_version(change: dict[str, Any], why: str) -> None:
    values = {**CARDS[1].to_dict(), "version": "0.1.0", **change}
    said = f"^a.ckpt was written by lit_ad 0.1.0, and lit_ad {__version__} cannot read .*{why}.*: use it with that vers"
    with pytest.raises(UserError, match=said):
        read_card(values, "a.ckpt")
    assert read_card(CARDS[1].to_dict(), "a.ckpt") == CARDS[1]


@pytest.mark.parametrize("values", [None, [1], "text", {}, {"method": "STFPM"}])
def test_values_that_are_no_card_are_refused(values: Any) -> None:
    with pytest.raises(UserError, match=r"^a.ckpt was not written by lit_ad"):
        read_card(values, "a.ckpt")
