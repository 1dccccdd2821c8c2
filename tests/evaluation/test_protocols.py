"""Official rules: their optional fields are empty, and each printed figure is explained."""

from pathlib import Path

import numpy as np

from lit_ad.data import MVTecAD2
from lit_ad.evaluation.protocols import Defect, Rules


def test_rules_have_no_subsets_no_defects_and_no_remarks_unless_given() -> None:
    rules = Rules("Nuts", {"spro": "as in the paper"}, ("spro",))
    assert (dict(rules.subsets), rules.defects, rules.remarks) == ({}, None, ())


def test_every_figure_that_is_printed_is_explained(tmp_path: Path) -> None:
    rules = MVTecAD2(tmp_path).rules()
    assert rules is not None and rules.name == "MVTec AD 2"
    assert rules.headline and set(rules.headline) <= set(rules.metrics)
    assert all(sentence.strip() for sentence in rules.metrics.values())


def test_a_defect_is_a_mask_and_its_saturation() -> None:
    mask, saturation = Defect(np.ones((2, 3), bool), 4)
    assert mask.sum() == 6 and saturation == 4
