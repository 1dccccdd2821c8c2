"""The service answers as its Detector judges, serves many clients at once, and refuses bad input in one sentence."""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.detector.decision import Decision
from lit_ad.detector.detector import Detector
from lit_ad.detector.stream import CALLERS
from lit_ad.image.limits import MEGAPIXELS
from lit_ad.image.view import View
from lit_ad.methods.network import make_inference_network
from lit_ad.methods.stfpm import STFPM

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
from lit_ad.deploy.journal import Journal  # noqa: E402
from lit_ad.deploy.journal_file import JournalFile  # noqa: E402
from lit_ad.deploy.journal_settings import JournalSettings  # noqa: E402
from lit_ad.deploy.limits import Limits  # noqa: E402
from lit_ad.deploy.serve import make_service  # noqa: E402


def network(small_models: dict[str, dict[str, Any]]) -> STFPM:
    torch.manual_seed(0)
    arguments = {**small_models["STFPM"]["init_args"], "view": View(64, fit="pad", mm_per_pixel=0.1)}
    return STFPM(**arguments).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def detector(small_models: dict[str, dict[str, Any]]) -> Detector:
    method = network(small_models)
    method.decision = Decision(
        {"nut": np.array([0.1, 0.2]), "bolt": np.array([9.0])},
        {"nut": np.array([0.05, 0.06]), "bolt": np.array([9.0])},
        {"nut": np.array([0.01]), "bolt": np.array([0.01])},
        false_alarm=0.5,
    )
    return Detector(make_inference_network(method), method.card)


@contextmanager
def served(detector: Detector, **options: Any) -> Iterator[int]:
    """Run a service of the detector. Yield its port."""
    server = uvicorn.Server(
        uvicorn.Config(make_service(detector, "model.onnx", **options), port=0, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def port(detector: Detector) -> Iterator[int]:
    with served(detector, limits=Limits(mib=0.5, megapixels=0.1)) as port:
        yield port


def ask(
    port: int, path: str, body: bytes | None = None, method: str = "", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    connection.close()
    return found


def image(seed: int = 0, size: tuple[int, int] = (60, 90)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8))


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


@pytest.mark.parametrize("category", [None, "bolt"])
def test_the_json_agrees_with_the_detector(detector: Detector, port: int, category: str | None) -> None:
    status, body, headers = ask(port, "/detect" + (f"?category={category}" if category else ""), file_of(image()))
    assert (status, headers["content-type"]) == (200, "application/json")
    told, found = json.loads(body), detector(image(), category)
    assert told["score"] == found.score and told["p_value"] == found.p_value
    assert told["anomalous"] is found.anomalous is (category != "bolt")
    assert told["category"] == found.category == ("bolt" if category == "bolt" else None)
    assert told["threshold"] == detector.card.decision.threshold(category)  # type: ignore[union-attr]
    assert told["size"] == {"height": 60, "width": 90}
    assert [tuple(region["box"]) for region in told["regions"]] == [region.box for region in found.regions]
    assert bool(told["regions"]) == (category != "bolt")
    assert [region["length_mm"] for region in told["regions"]] == [0.1 * region.length for region in found.regions]


def test_a_score_that_is_not_finite_is_the_services_error(detector: Detector) -> None:
    def run(pixels: Any) -> tuple[Any, Any]:
        return None, np.full(len(pixels), np.nan, np.float32)

    with served(Detector(run, detector.card)) as port:
        for path in ("/detect", "/detect?picture=1"):
            status, body, _ = ask(port, path, file_of(image()))
            assert status == 500 and b"NaN," not in body
            assert json.loads(body)["error"].startswith("the image: its score or anomaly map is NaN or infinite")


def test_a_threshold_set_by_hand_decides_and_is_told(detector: Detector) -> None:
    assert detector.card.decision is not None
    score = detector(image()).score
    for limit, anomalous in ((score - 0.01, True), (score + 0.01, False)):
        decision = detector.card.decision.with_threshold(limit, "bolt").with_threshold(limit)
        with served(Detector(detector.network, replace(detector.card, decision=decision))) as port:
            for query in ("", "?category=bolt"):
                told = json.loads(ask(port, f"/detect{query}", file_of(image()))[1])
                assert (told["anomalous"], told["threshold"]) == (anomalous, limit)
            about = json.loads(ask(port, "/about")[1])
            assert about["threshold_by_hand"] and about["threshold"] == limit
            assert "set by hand: p-value at most" in about["decision"]["by_hand"][0]


def form(*parts: tuple[str, str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form's body and headers, of names, file names ("" of a text) and contents."""
    body = b""
    for name, file, content in parts:
        about = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        body += f"--edge\r\nContent-Disposition: {about}\r\n\r\n".encode() + content + b"\r\n"
    return body + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def test_a_form_is_what_a_body_is(port: int) -> None:
    expected = json.loads(ask(port, "/detect?category=bolt", file_of(image()))[1])
    for parts, query in (
        ([("image", "part.png", file_of(image()))], "?category=bolt"),
        ([("category", "", b"bolt"), ("file", "x", file_of(image()))], ""),
    ):
        body, headers = form(*parts)
        status, answer, _ = ask(port, f"/detect{query}", body, **headers)
        assert (status, json.loads(answer)) == (200, expected)


def test_a_category_without_thresholds_is_refused(port: int) -> None:
    body, headers = form(("category", "", b"bo\nlt"), ("image", "a.png", file_of(image())))
    for told, (status, answer, _) in (
        ("nowhere", ask(port, "/detect?category=nowhere", file_of(image()))),
        ("bo\\nlt", ask(port, "/detect", body, **headers)),
    ):
        error = f"category {told} is not one of the detector's: it has bolt, nut"
        assert (status, json.loads(answer)["error"]) == (422, error)


FILE = ("image", "part.png", b"x")
FORMS = {
    "nothing": (form(), 400, r"the form has no files, but it must have one image"),
    "two files": (form(FILE, FILE), 400, r"the form has 2 files"),
    "another field": (
        form(FILE, ("threshold", "", b"1")),
        400,
        r"a field 'threshold', but it may have one file and `category` only",
    ),
    "an empty file": (form(("image", "part.png", b"")), 400, r"the form's file is empty; send an image file"),
    "too many bytes": (form(("image", "part.png", bytes(600_000))), 413, r"more than 0.5 MiB"),
    "no image": (form(FILE), 415, r"not an image of a known format"),
    "no boundary": (
        (b"x", {"content-type": "multipart/form-data"}),
        400,
        r"the form cannot be read \(Missing",
    ),
    "no form": ((b"x", {"content-type": "multipart/form-data; boundary=edge"}), 400, r"the form"),
}


@pytest.mark.parametrize("what", FORMS)
def test_forms_that_are_refused(port: int, what: str) -> None:
    (body, headers), status, sentence = FORMS[what]
    found = ask(port, "/detect", body, **headers)
    assert found[0] == status
    assert re.search(sentence, json.loads(found[1])["error"])


def test_requests_that_hang_are_answered_and_told(detector: Detector) -> None:
    gate = threading.Event()

    def run(pixels: Any) -> Any:
        gate.wait(60)
        return detector.network(pixels)

    hanging = Detector(run, detector.card)
    with served(hanging, limits=Limits(seconds=0.5)) as port, ThreadPoolExecutor(CALLERS + 1) as clients:
        assert ask(port, "/health")[0] == 200
        answers = list(clients.map(lambda _: ask(port, "/detect", file_of(image())), range(CALLERS + 1)))
        for status, body, _ in answers:
            assert status == 504
            assert re.match(
                r"there is no answer within 0.5 s: the request is at (the network|waiting)", json.loads(body)["error"]
            )
        gate.set()
        time.sleep(0.5)
        assert ask(port, "/health")[0] == 200
        assert ask(port, "/detect", file_of(image()))[0] == 200  # the service still works


def test_a_service_whose_threads_all_hang_is_not_healthy(detector: Detector) -> None:
    gate, first = threading.Event(), iter([True])

    def run(pixels: Any) -> Any:
        if not next(first, False):  # the first request is answered alone
            gate.wait(60)
        return detector.network(pixels)

    with served(Detector(run, detector.card), limits=Limits(seconds=0.3)) as port:
        assert ask(port, "/detect", file_of(image()))[0] == 200
        with ThreadPoolExecutor(CALLERS) as clients:
            list(clients.map(lambda _: ask(port, "/detect", file_of(image())), range(CALLERS)))
        end = time.monotonic() + 30  # a job begins a moment after its request, so that it hangs a moment later
        while (found := ask(port, "/health"))[0] == 200 and time.monotonic() < end:
            time.sleep(0.05)
        status, body, _ = found
        assert (status, json.loads(body)) == (
            503,
            {"status": "hangs", "stages": ["the network, for the image,"] * CALLERS},
        )
        gate.set()


def test_a_body_that_does_not_arrive_is_refused_in_time(detector: Detector) -> None:
    with served(detector, limits=Limits(seconds=0.3)) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/detect")
        connection.putheader("content-length", "1000")
        connection.endheaders(b"x")
        response = connection.getresponse()
        assert response.status == 408
        assert "there is no answer within 0.3 s: the request is at receiving the image" in response.read().decode()


def test_pictures(detector: Detector, port: int) -> None:
    expected = np.asarray(detector(image()).plot())
    status, body, headers = ask(port, "/detect", file_of(image()), accept="image/png")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), expected)
    kind, _, data = json.loads(ask(port, "/detect?picture=1", file_of(image()))[1])["picture"].partition(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), expected)


def test_files_of_regions(detector: Detector, port: int) -> None:
    boxes = [region.box for region in detector(image()).regions]
    status, body, headers = ask(port, "/detect?regions=csv&name=part.png", file_of(image()))
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert [tuple(int(row[side]) for side in ("top", "left", "bottom", "right")) for row in rows] == boxes
    assert rows[0]["path"] == "part.png"
    coco = json.loads(ask(port, "/detect?regions=coco", file_of(image()))[1])
    assert coco["images"] == [{"id": 1, "file_name": "image", "height": 60, "width": 90}]
    assert [each["bbox"][:2] for each in coco["annotations"]] == [[left, top] for top, left, _, _ in boxes]
    labelme = json.loads(ask(port, "/detect?regions=labelme&name=part.png", file_of(image()))[1])
    assert labelme["imagePath"] == "part.png" and len(labelme["shapes"]) == len(boxes)
    status, body, _ = ask(port, "/detect?regions=xml", file_of(image()))
    assert (status, json.loads(body)["error"]) == (
        400,
        "regions is 'xml', but it must be csv, coco, labelme",
    )
    status, body, _ = ask(port, "/detect?categories=bolt", file_of(image()))
    assert status == 400 and "'categories', but it may have picture, category, source" in json.loads(body)["error"]


def test_without_a_pixel_threshold_there_is_no_file_of_regions(detector: Detector) -> None:
    with served(Detector(detector.network, replace(detector.card, decision=None))) as port:
        status, body, _ = ask(port, "/detect?regions=csv", file_of(image()))
        assert status == 422 and "there are no regions: this detector has no map" in json.loads(body)["error"]


def test_an_upright_photograph(detector: Detector, port: int) -> None:
    """The camera was turned: pixels in the answer are those of the image as people see it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    body = file_of(image(), "JPEG", quality=95, exif=exif)
    told = json.loads(ask(port, "/detect", body)[1])
    assert told["size"] == {"height": 90, "width": 60}
    assert told["score"] == detector(Image.open(io.BytesIO(body))).score


def bomb() -> bytes:
    """A PNG that says it has a hundred thousand pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


PAGE = Image.new("L", (9, 9))
REFUSED = {
    "nothing": (b"", 400, r"send an image file as the body"),
    "a text": (b"no image at all", 415, r"not an image of a known format: send JPEG, PNG"),
    "another format": (file_of(image(), "GIF"), 415, r"not an image of a known format"),
    "a truncated image": (file_of(image())[:-3000], 422, r"damaged or cut off"),
    "too many bytes": (bytes(600_000), 413, r"more than 0.5 MiB"),
    "too many pixels": (file_of(Image.new("L", (400, 300))), 413, r"400x300 pixels, and the limit is 0.1 million"),
    "a bomb": (bomb(), 413, r"too large"),
    "several pages": (
        file_of(PAGE, "TIFF", save_all=True, append_images=[PAGE]),
        422,
        r"several pages, .* send one page",
    ),
    "numbers that are no image": (file_of(Image.fromarray(np.full((9, 9), 7.0, np.float32)), "TIFF"), 422, r"values"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_sentence(port: int, what: str) -> None:
    body, status, sentence = REFUSED[what]
    found = ask(port, "/detect", body)
    assert found[0] == status
    assert re.search(sentence, json.loads(found[1])["error"])
    assert ask(port, "/detect", file_of(image()))[0] == 200  # the service still works


def test_the_service_has_limits_of_its_own(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limits replace those of Pillow and those of reading files."""
    body = file_of(image())  # 60x90
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setenv(MEGAPIXELS, "0.0001")
    with served(detector, limits=Limits(megapixels=0.01)) as port:
        assert ask(port, "/detect", body)[0] == 200
        assert ask(port, "/detect", file_of(Image.new("L", (400, 300))))[0] == 413


def test_other_routes(port: int) -> None:
    assert json.loads(ask(port, "/health")[1]) == {"status": "ok"}
    about = json.loads(ask(port, "/about")[1])
    assert about["file"] == "model.onnx" and about["method"] == "STFPM"
    assert about["view"]["image_size"] == 64 and about["categories"] == ["bolt", "nut"]
    assert about["limits"] == {"mib": 0.5, "megapixels": 0.1, "seconds": 60}
    assert (
        not about["threshold_by_hand"]
        and about["threshold"] == about["decision"]["thresholds"][-1]["image"]["threshold"]
    )
    assert b"<!doctype html>" in ask(port, "/")[1]
    assert ask(port, "/detect")[0] == 405 and ask(port, "/nowhere")[0] == 404


def test_a_token(detector: Detector) -> None:
    with served(detector, token="geheim") as port:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "geheim"}):
            for path, body in (("/detect", file_of(image())), ("/about", None), ("/metrics", None)):
                status, said, _ = ask(port, path, body, **headers)
                assert status == 401 and "Authorization: Bearer TOKEN" in json.loads(said)["error"]
        assert ask(port, "/detect", file_of(image()), authorization="Bearer geheim")[0] == 200
        assert ask(port, "/about", authorization="Bearer geheim")[0] == 200
        assert ask(port, "/health")[0] == 200


def test_each_answer_has_a_row_in_the_journal(detector: Detector, tmp_path: Path) -> None:
    with Journal(tmp_path, detector, JournalSettings(sample=0)) as journal, served(detector, journal=journal) as port:
        for number in range(5):
            query = f"category=bolt&source=line-{number}&name=part-{number}"
            status, body, _ = ask(port, f"/detect?{query}", file_of(image(number)))
            assert status == 200
            _, row = list(journal.file.rows())[-1]  # at once
            told = json.loads(body)
            assert (row.score, row.p_value, row.category) == (told["score"], told["p_value"], "bolt")
            assert (row.source, row.name, row.verdict) == (f"line-{number}", f"part-{number}", "nominal")
        assert ask(port, "/detect", b"no image")[0] == 415
        assert ask(port, "/detect?category=nowhere", file_of(image()))[0] == 422 and journal.file.last() == 5
        assert ask(port, "/detect?category=", file_of(image()))[0] == 200
        _, row = list(journal.file.rows())[-1]
        assert (row.kept, row.category) == ("anomalous", "") and journal.file.last() == 6
        about = json.loads(ask(port, "/about")[1])["journal"]
        assert about["dropped"] == 0 and len(about["drift"]["tests"]) == 6 and not about["drift"]["alarms"]
        numbers = ask(port, "/metrics")[1].decode()
        assert 'lit_ad_images_total{category="bolt",verdict="nominal"} 5.0' in numbers
        assert 'lit_ad_log_martingale{category="bolt",source="line-3",test="scores"}' in numbers
    assert (tmp_path / "pictures" / "000000006.png").read_bytes() == file_of(image())


def test_health_and_about_tell_of_a_drift_alarm(detector: Detector, tmp_path: Path) -> None:
    settings = JournalSettings(delta=0.05, anomalous_rate=0.01)
    with Journal(tmp_path, detector, settings) as journal, served(detector, journal=journal) as port:
        assert json.loads(ask(port, "/health")[1]) == {"status": "ok"}
        for _ in range(5):
            ask(port, "/detect?category=nut", file_of(image()))
        assert json.loads(ask(port, "/health")[1]) == {"status": "ok", "drift": "there is an alarm, see /about"}
        drift = json.loads(ask(port, "/about")[1])["journal"]["drift"]
        assert re.match(
            r"more images are judged anomalous than the stated 1 %, category nut: since", drift["alarms"][0]
        )
        assert "This holds if nominal images are distributed as the held-out images" in drift["promise"]
        assert 'lit_ad_drift_alarm{category="nut",source="",test="share"} 1.0' in ask(port, "/metrics")[1].decode()


def test_fifty_clients_at_once(detector: Detector, port: int) -> None:
    files = [file_of(image(seed, (40 + seed, 60))) for seed in range(10)]
    expected = [detector(Image.open(io.BytesIO(file))).score for file in files]

    def client(number: int) -> list[tuple[int, float, float]]:
        found = []
        for i in range(4):
            which = (number + i) % len(files)
            status, body, _ = ask(port, "/detect", files[which])
            found.append((status, json.loads(body)["score"], expected[which]))
        return found

    with ThreadPoolExecutor(50) as clients:
        found = [answer for answers in clients.map(client, range(50)) for answer in answers]
    assert len(found) == 200
    for status, score, wanted in found:
        assert (status, score) == (200, wanted)


@contextmanager
def command(detector_file: Path, log: Path, *options: str) -> Iterator[str]:
    """Run `lit-ad serve` on a file. Yield its address."""
    arguments = [sys.executable, "-m", "lit_ad", "serve", str(detector_file), "--port", "0", *options]
    with log.open("w") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            end = time.monotonic() + 120
            while not (found := re.search(r"is served at (http://127.0.0.1:\d+);", log.read_text())):
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            yield found[1]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="module")
def onnx_file(detector: Detector, small_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    from lit_ad.deploy.export import export

    method = network(small_models)
    method.decision = detector.card.decision
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(method, file, "onnx")
    return file


def test_the_command(onnx_file: Path, detector: Detector, tmp_path: Path) -> None:
    options = ("--journal", str(tmp_path / "journal"), "--watch.delta", "0.02")
    with command(onnx_file, tmp_path / "log", *options) as address:
        port = int(address.rpartition(":")[2])
        assert "at most 2 %" in json.loads(ask(port, "/about")[1])["journal"]["drift"]["promise"]
        assert json.loads(ask(port, "/about")[1])["file"] == "model.onnx"
        score = json.loads(ask(port, "/detect", file_of(image()))[1])["score"]
    assert score == pytest.approx(detector(image()).score, rel=1e-4)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert JournalFile(tmp_path / "journal", alone=True).last() == 1


@pytest.mark.slow  # needs a browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium and chromium-driver")
def test_the_page(onnx_file: Path, detector: Detector, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(option)
    options.add_argument("--window-size=1200,900")
    image().resize((360, 240)).save(tmp_path / "<b>part.png")
    (tmp_path / "text.png").write_text("no image")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        with command(onnx_file, tmp_path / "log") as address:
            driver.get(address)
            driver.find_element("id", "files").send_keys(f"{tmp_path / '<b>part.png'}\n{tmp_path / 'text.png'}")
            deadline = time.monotonic() + 300
            while len(driver.find_elements("css selector", "article img, article .error")) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            first, second = reversed(driver.find_elements("css selector", "#results article"))
            assert "<b>part.png" in first.text and "anomalous: score" in first.text
            assert "not an image of a known format" in second.text
            assert driver.execute_script("return arguments[0].querySelector('img').naturalWidth", first) == 724
            assert "model.onnx: STFPM, fp32, threshold for 50 % false alarms" in driver.find_element("id", "about").text
            phone = {"width": 420, "height": 1100, "deviceScaleFactor": 1, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
            assert (
                driver.execute_script("return document.documentElement.scrollWidth") <= 420
            )  # nothing sticks out at the side
            driver.save_screenshot(str(tmp_path / "page.png"))
    finally:
        driver.quit()
