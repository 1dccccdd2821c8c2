"""The routes below /review list images, send pictures, take labels and undo them, and check the service's token."""

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")  # of its TestClient
pytest.importorskip("prometheus_client")
from starlette.testclient import TestClient

from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.deploy.serve import make_service
from lit_ad.detector.card import Card
from lit_ad.detector.detector import Detector
from lit_ad.image.view import View
from tests.deploy.test_journal import DECISION, PIXELS, brightness, detection, detector, write
from tests.deploy.test_serve import served


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with Journal(tmp_path, detector(), JournalSettings(sample=1)) as journal:
        for score in (150.0, 94.0, 5.0):
            assert write(journal, detection(score))
        deadline = time.monotonic() + 30
        while len(journal.file.pictures()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        yield journal


def test_images_are_listed_shown_and_labelled(journal: Journal) -> None:
    client = TestClient(make_service(detector(), "model.onnx", journal=journal))
    assert "<title>lit_ad review</title>" in client.get("/review").text
    told = client.get("/review/images").json()
    assert [image["id"] for image in told["images"]] == [3, 2, 1]
    assert told["images"][2]["regions"][0]["box"] == [0, 0, 32, 32]
    assert [image["id"] for image in client.get("/review/images?order=doubtful").json()["images"]] == [2, 1, 3]
    picture = client.get("/review/pictures/1")
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    sent = {"image": 1, "label": "defect", "defect": "dent", "who": "Ada"}
    assert client.post("/review/labels", json=sent).json() == {
        "counts": {"good": 0, "defect": 1, "unsure": 0},
        "replaced": None,
    }
    assert len(client.get("/review/images").json()["images"]) == 2
    assert client.post("/review/undo", json={"who": "Ada"}).json()["image"] == 1
    assert client.post("/review/undo", json={"who": "Ada"}).json()["image"] is None


@pytest.mark.parametrize(("kind", "window"), [("TIFF", None), ("TIFF", (0, 4095)), ("PNG", (0, 4095))])
def test_pictures_that_browsers_do_not_show_are_converted(
    kind: str, window: tuple[float, float] | None, tmp_path: Path
) -> None:
    deep = window is not None
    file = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 16 if deep else PIXELS).save(file, kind)
    judging = Detector(brightness, Card("lit_ad.methods.STFPM", View(32, window=window), DECISION))
    with Journal(tmp_path, judging, JournalSettings(sample=1)) as journal:
        assert write(journal, judging(file.getvalue()), file=file.getvalue())
        client = TestClient(make_service(judging, "model.onnx", journal=journal))
        while not client.get("/review/images").json()["images"]:
            time.sleep(0.01)
        answer = client.get("/review/pictures/1")
        shown = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        assert answer.headers["content-type"] == "image/png"
        assert np.array_equal(shown, judging(file.getvalue()).image)


def test_a_journal_that_cannot_be_read_is_one_sentence(journal: Journal) -> None:
    client = TestClient(make_service(detector(), "model.onnx", journal=journal))
    journal.file.connection.execute("ALTER TABLE labels RENAME TO lost")
    answer = client.get("/review/images")
    assert (answer.status_code, answer.json()["error"]) == (503, "the journal cannot be used: no such table: labels")


def test_heatmaps_rates_and_alarms(journal: Journal) -> None:
    client = TestClient(make_service(detector(), "model.onnx", journal=journal))
    heat = client.get("/review/heatmaps/1")
    assert heat.headers["content-type"] == "image/png"
    expected = detector()(PIXELS).heatmap()
    assert expected is not None and np.array_equal(np.asarray(Image.open(io.BytesIO(heat.content))), expected)
    client.post("/review/labels", json={"image": 1, "label": "defect", "defect": "", "who": ""})
    shipped = client.get("/review/rates").json()["rates"][0]
    assert shipped["rate"] is None and (shipped["recall"]["count"], shipped["recall"]["images"]) == (1, 1)
    assert client.get("/review/alarms").json() == {"alarms": []}
    journal.file.add_event("alarm", "", "", "it is darker", since=time.time() + 9)
    (alarm,) = client.get("/review/alarms").json()["alarms"]
    assert (alarm["reason"], alarm["before"], alarm["after"]) == ("it is darker", [3, 2, 1], [])
    assert client.get("/review/heatmaps/77").status_code == client.get(f"/review/pictures/{10**30}").status_code == 404
    (journal.file.path.parent / "pictures/000000002.png").write_text("no image")
    assert client.get("/review/heatmaps/2").status_code == 422


def test_requests_that_are_refused(journal: Journal) -> None:
    client = TestClient(make_service(detector(), "model.onnx", journal=journal))
    sent = {"image": 1, "label": "good", "defect": "", "who": ""}
    text = client.post("/review/labels", content=json.dumps(sent), headers={"content-type": "text/plain"})
    assert text.status_code == 415 and "content-type: application/json" in text.json()["error"]
    for body, status, sentence in (
        ({**sent, "image": "1"}, 400, "image (number)"),
        ({**sent, "image": True}, 400, "image (number)"),
        ([], 400, "send a JSON object"),
        ({**sent, "label": "fine"}, 422, "label is 'fine'"),
        ({**sent, "image": 77}, 404, "image 77 has no picture"),
    ):
        answer = client.post("/review/labels", json=body)
        assert answer.status_code == status and sentence in answer.json()["error"]
    assert client.get("/review/images?order=best").status_code == 422
    assert client.get("/review/pictures/77").status_code == 404
    assert client.get("/review/pictures/..%2Fjournal.sqlite").status_code == 404


def test_requests_need_the_token(journal: Journal) -> None:
    client = TestClient(make_service(detector(), "model.onnx", token="geheim", journal=journal))
    assert client.get("/review").status_code == 200  # the page itself holds no data
    paths = ("/review/images", "/review/pictures/1", "/review/heatmaps/1", "/review/rates", "/review/alarms")
    for path in paths:
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer geheim"}).status_code == 200
    assert client.post("/review/labels", json={}).status_code == client.post("/review/undo", json={}).status_code == 401


def test_without_a_journal_there_is_no_review_page() -> None:
    assert TestClient(make_service(detector(), "model.onnx")).get("/review").status_code == 404


@pytest.mark.slow  # needs a browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium and chromium-driver")
def test_the_page(journal: Journal, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.implicitly_wait(30)

    def wait_until(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline, driver.find_element("tag name", "body").text
            time.sleep(0.05)

    def wait(text: str) -> None:
        wait_until(lambda: text in driver.find_element("tag name", "body").text)

    journal.file.add_event("alarm", "", "", "it is darker", since=time.time() + 9)

    try:
        with served(detector(), journal=journal) as port:
            driver.get(f"http://127.0.0.1:{port}/review")
            wait("image 3")
            body = driver.find_element("tag name", "body")
            heat = "arguments[0].value = 0.6; arguments[0].dispatchEvent(new Event('input'))"
            driver.execute_script(heat, driver.find_element("id", "heatOpacity"))
            wait_until(lambda: driver.find_element("id", "heat").is_displayed())
            assert driver.execute_script("return document.getElementById('heat').naturalWidth") == 32
            body.send_keys("g")
            wait("1 good, 0 defects")
            wait("image 2")
            Labels(tmp_path, 0.05).add(2, "good", who="Bo")  # while this page shows the image
            body.send_keys("u")
            wait("Image 2 had the label good of Bo. Yours replaces it")
            wait("image 1")
            body.send_keys("z")
            wait("Your label unsure of image 2 is taken back. It has the label good of Bo again.")
            assert len(driver.find_elements("css selector", "rect")) == 1
            phone = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
            for name in ("ratesPanel", "alarmsPanel"):
                driver.execute_script(f"document.getElementById('{name}').open = true")
            wait("it is darker")
            wait("5 % false alarms, shipped")
            wait_until(lambda: len(driver.find_elements("css selector", "#alarms img")) == 3)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 420
            driver.save_screenshot(str(tmp_path / "review.png"))
            body.send_keys("d")
            wait("nothing is left to review.")
            body.send_keys("z")
            wait("Your label defect of image 1 is taken back.")
            assert driver.find_element("id", "about").text.endswith("image 1")
            body.send_keys("z")
            wait("Your label good of image 3 is taken back.")
            assert driver.find_element("id", "about").text.endswith("image 3")
    finally:
        driver.quit()
