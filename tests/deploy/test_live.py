"""The last image of a line is sent once, to requests with the token, and the line's numbers are in /metrics."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")  # of its TestClient
pytest.importorskip("prometheus_client")
from starlette.testclient import TestClient

from lit_ad.deploy.live import Live
from lit_ad.deploy.serve import make_service
from tests.deploy.test_journal import detection, detector

STATUS: dict[str, Any] = {
    **{"judged": 2, "anomalous": 1, "refused": 3, "passed_over": 4, "waiting": 5, "trouble": None},
    "sinks": {"mqtt": {"sent": 1, "dropped": 6, "waiting": 7, "trouble": "away"}},
}


def test_the_last_image_is_sent_once() -> None:
    live = Live(lambda: STATUS)
    client = TestClient(make_service(detector(), "model.onnx", live=live))
    assert client.get("/live").json() == {"image": None, "line": STATUS}
    live.show("a.png", detection(5.0), 0.1)
    live.show("b.png", detection(150.0), 0.1)
    image = client.get("/live?after=1").json()["image"]
    assert (image["number"], image["name"], image["anomalous"]) == (2, "b.png", True)
    picture = Image.open(io.BytesIO(base64.b64decode(image["picture"].partition(",")[2])))
    assert np.array_equal(np.asarray(picture), np.asarray(detection(150.0).plot()))
    assert client.get("/live?after=2").json()["image"] is None
    assert client.get("/about").json()["line"] == STATUS
    numbers = client.get("/metrics").text
    for line in (
        'lit_ad_images_total{category="",verdict="anomalous"} 1.0',
        "lit_ad_line_waiting 5.0",
        "lit_ad_line_trouble 0.0",
        "lit_ad_line_refused_total 3.0",
        "lit_ad_line_passed_over_total 4.0",
        'lit_ad_sink_dropped_total{sink="mqtt"} 6.0',
        'lit_ad_sink_waiting{sink="mqtt"} 7.0',
    ):
        assert line in numbers.splitlines(), line


def test_requests_need_the_token() -> None:
    client = TestClient(make_service(detector(), "model.onnx", token="geheim", live=Live(lambda: STATUS)))
    assert client.get("/live").status_code == 401
    assert client.get("/live", headers={"authorization": "Bearer geheim"}).status_code == 200


def test_without_a_line_there_is_no_live_route() -> None:
    client = TestClient(make_service(detector(), "model.onnx"))
    assert client.get("/live").status_code == 404 and client.get("/about").json()["line"] is None
