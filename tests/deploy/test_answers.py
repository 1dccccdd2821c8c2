"""A verdict as plain values and as a picture; test_serve.py compares them with what the service answers."""

import io
import json

import numpy as np
from PIL import Image

from lit_ad.deploy.answers import describe_detection, describe_detector, draw_png
from tests.deploy.test_journal import DECISION, detection, detector


def test_a_verdict_as_plain_values() -> None:
    told = json.loads(json.dumps(describe_detection(detection(150.0)), allow_nan=False))
    assert (told["score"], told["anomalous"], told["threshold"]) == (150.0, True, DECISION.threshold())
    assert told["p_value"] == 0.01 and told["size"] == {"height": 32, "width": 32}
    assert told["regions"][0]["box"] == [0, 0, 32, 32]
    nothing = describe_detection(detection(150.0, None))
    assert nothing["anomalous"] is nothing["threshold"] is nothing["p_value"] is None


def test_a_picture_is_a_png() -> None:
    picture = Image.open(io.BytesIO(draw_png(detection(150.0))))
    assert picture.format == "PNG" and np.array_equal(np.asarray(picture), np.asarray(detection(150.0).plot()))


def test_the_description_of_a_detector() -> None:
    known = describe_detector(detector())
    assert (known["method"], known["false_alarm"], known["threshold"]) == ("STFPM", 0.05, 95.0)
    assert describe_detector(detector(None))["threshold"] is None
