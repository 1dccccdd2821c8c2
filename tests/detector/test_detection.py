"""The result for one image prints in a line, and can be drawn and saved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.detector.decision import Decision
from lit_ad.detector.detection import Detection
from lit_ad.detector.painter import outline
from lit_ad.errors import UserError

IMAGE = np.full((12, 20, 3), 250, np.uint8)
HELD = {"nut": np.array([100.0, 200.0, 240.0])}
DECISION = Decision(HELD, HELD, HELD, false_alarm=0.01)


def test_a_detection_prints_in_a_line() -> None:
    assert str(Detection(IMAGE, 250.0)) == "Detection(score 250, no threshold, 20 x 12 pixels)"
    decided = Detection(IMAGE, 250.0, decision=DECISION, category="nut")
    verdict = "anomalous, score 250, threshold 240, p-value 0.25"
    assert str(decided) == f"Detection({verdict}, 20 x 12 pixels)"
    mapped = replace(decided, network_map=IMAGE[..., 0].astype(np.float32), box=(0, 0, 12, 20))
    assert str(mapped) == f"Detection({verdict}, 1 region, 20 x 12 pixels)"
    assert mapped.colour_range == DECISION.colour_range("nut")
    undecided = replace(mapped, decision=None)
    assert undecided.colour_range is None and undecided.plot().size == (2 * 20 + 4, 12)


def test_a_detection_is_drawn_and_saved(tmp_path: Path) -> None:
    network_map = np.zeros((12, 20), np.float32)
    network_map[3:8, 5:11] = 250
    detection = Detection(IMAGE, 250.0, network_map, (0, 0, 12, 20), DECISION, "nut")
    assert detection.plot().size == (2 * 20 + 4, 12)
    detection.save(tmp_path / "part.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "part.png"))[:, :20], IMAGE)
    with pytest.raises(UserError, match="does not end in the suffix of an image format"):
        detection.save(tmp_path / "part.xyz")
    assert detection.mask is not None and outline(detection.mask).sum() == 2 * 5 + 2 * 6 - 4
