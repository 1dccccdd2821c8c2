"""The page works in a browser: counts equal scikit-learn's, keys work, and nothing is loaded from a network."""

import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc, confusion_matrix, precision_recall_curve, roc_auc_score

from lit_ad.detector.decision import Decision
from lit_ad.evaluation.report.page import write_page
from lit_ad.evaluation.report.table import select_row
from lit_ad.evaluation.results import Results
from lit_ad.evaluation.rows import wilson
from tests.report_runs import make_run

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium and chromium-driver")

ROWS = ("pooled", "nut/", "<b>bolt/<i>cut")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, Decision]:
    return make_run(tmp_path_factory.mktemp("one") / "run")


@pytest.fixture(scope="module")
def files(run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, and a page of two runs."""
    home = tmp_path_factory.mktemp("pages")
    write_page([run[0]], home / "one.html")
    write_page([run[0], make_run(home / "other", 1)[0]], home / "two.html")
    return {name: home / f"{name}.html" for name in ("one", "two")}


def opened(driver: Any, file: Path, width: int = 1400, height: int = 900) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(file.as_uri())
    assert driver.execute_script("return document.querySelectorAll('#gallery button').length") > 0


def choose(driver: Any, select: str, value: str) -> None:
    script = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    driver.execute_script(script, select, value)


def slide(driver: Any, value: float) -> None:
    script = (
        "const s = document.getElementById('threshold'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    )
    driver.execute_script(script, value)


def counts(driver: Any) -> list[int]:
    return [int(driver.find_element("id", name).text) for name in ("tn", "fp", "fn", "tp")]


def threshold(driver: Any) -> float:
    return float(driver.execute_script("return threshold()"))


def counted(results: Results, row: str, limit: float) -> list[int]:
    images = select_row(results.images, row)
    above = [one.score > limit for one in images]
    return list(confusion_matrix([one.label for one in images], above, labels=[0, 1]).ravel().tolist())


def shown(driver: Any) -> list[int]:
    """Return the numbers of the images in the gallery, in order."""
    script = "return [...document.querySelectorAll('#gallery button')].map(card => Number(card.dataset.number))"
    return list(driver.execute_script(script))


@pytest.mark.parametrize("row", ROWS)
def test_the_slider_counts_as_scikit_learn(driver: Any, files: dict[str, Path], run: Any, row: str) -> None:
    _, results, decision = run
    opened(driver, files["one"])
    choose(driver, "row", row)
    category = None if row == "pooled" else row.partition("/")[0]
    low, high = (float(driver.find_element("id", "threshold").get_attribute(end)) for end in ("min", "max"))
    for wanted in np.linspace(low, high, 9):
        slide(driver, float(wanted))
        limit = threshold(driver)
        assert limit == pytest.approx(wanted, abs=1e-9)  # the slider has 15 digits
        tn, fp, fn, tp = counts(driver)
        assert [tn, fp, fn, tp] == counted(results, row, limit)
        alarms, low, high = (float(x) for x in re.findall(r"([\d.]+) %", driver.find_element("id", "alarms").text))
        assert (alarms, low, high) == pytest.approx([100 * r for r in (fp / (fp + tn), *wilson(fp, fp + tn))], rel=5e-3)
        assert driver.find_element("id", "misses").text.startswith(f"Misses: {fn} of {fn + tp}: ")
        p = re.search(r"at most ([\d.]+), from (\d+) ", driver.find_element("id", "pvalue").text)
        assert p and int(p[2]) == (38 if category is None else 19)
        assert float(p[1]) == pytest.approx(float(decision.p_value(np.nextafter(limit, np.inf), category)), rel=1e-3)


def test_the_page_begins_with_the_shipped_threshold(driver: Any, files: dict[str, Path], run: Any) -> None:
    _, results, decision = run
    opened(driver, files["one"])
    for row in ROWS:
        choose(driver, "row", row)
        values = results.rows[row]
        wrong = [values["false_alarms"], values["misses"]]
        assert counts(driver)[1:3] == wrong  # of all: each category at its own threshold
        slide(driver, -1.0)
        assert counts(driver)[1:3] != wrong
        driver.find_element("id", "shipped").click()
        assert counts(driver)[1:3] == wrong
        assert threshold(driver) == decision.threshold(None if row == "pooled" else row.partition("/")[0])


def test_a_moved_threshold_is_shipped_by_a_command(driver: Any, files: dict[str, Path], run: Any) -> None:
    opened(driver, files["one"])
    checkpoint = run[0].absolute() / "checkpoints/it's best.ckpt"
    assert not driver.find_element("id", "ship").is_displayed()
    for row, category in (("pooled", []), ("<b>bolt/<i>cut", ["--category=<b>bolt"])):
        choose(driver, "row", row)
        slide(driver, 1.2345678901)
        words = shlex.split(driver.find_element("id", "command").text)
        assert words[:3] == ["lit-ad", "recalibrate", str(checkpoint)]
        assert words[3].startswith("--threshold=") and float(words[3].partition("=")[2]) == threshold(driver)
        assert words[4:] == category
        driver.find_element("id", "shipped").click()
        assert not driver.find_element("id", "ship").is_displayed()
    home = make_run(files["one"].parent / "nut", categories=("nut",))[0]
    write_page([home], home / "nut.html")
    opened(driver, home / "nut.html")
    slide(driver, -0.5)
    assert driver.find_element("id", "command").text.endswith(f"best.ckpt' --threshold={threshold(driver)}")


def test_the_threshold_is_dragged_in_the_chart(driver: Any, files: dict[str, Path], run: Any) -> None:
    opened(driver, files["one"])
    choose(driver, "row", "nut/")
    before = threshold(driver)
    canvas = driver.find_element("id", "histogram")
    at = driver.execute_script("return histogram.scales.x.getPixelForValue(threshold()) - histogram.width / 2")
    actions = webdriver.ActionChains(driver, duration=50)
    actions.move_to_element_with_offset(canvas, round(at), 0).click_and_hold().move_by_offset(
        120, 5
    ).release().perform()
    after = threshold(driver)
    wide = driver.execute_script(
        "return histogram.scales.x.getValueForPixel(120) - histogram.scales.x.getValueForPixel(0)"
    )
    assert after - before == pytest.approx(wide, rel=0.03)
    assert counts(driver) == counted(run[1], "nut/", after)
    assert float(driver.find_element("id", "number").get_attribute("value")) == pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize("row", ROWS)
def test_curves_and_operating_points(driver: Any, files: dict[str, Path], run: Any, row: str) -> None:
    _, results, _ = run
    opened(driver, files["one"])
    choose(driver, "row", row)
    images = select_row(results.images, row)
    labels, scores = [one.label for one in images], [one.score for one in images]
    script = "return charts[arguments[0]].data.datasets.map(set => set.data.map(point => [point.x, point.y]))"
    roc, ring, dot = driver.execute_script(script, "roc")
    assert auc(*np.transpose(roc)) == pytest.approx(roc_auc_score(labels, scores))
    values = results.rows[row]
    assert ring[0] == dot[0] == pytest.approx([values["false_alarm_rate"], values["recall"]])
    pr, ring, _ = driver.execute_script(script, "pr")
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = {(round(r, 9), round(p, 9)) for p, r in zip(precision[:-1], recall[:-1], strict=True)}
    assert {(round(r, 9), round(p, 9)) for r, p in pr} <= expected
    assert ring[0] == pytest.approx([values["recall"], values["precision"]])
    assert driver.execute_script(script, "pixelRoc")[1] == [[pytest.approx(0.01), pytest.approx(0.6)]]
    assert driver.execute_script(script, "pixelPr")[1] == [[pytest.approx(0.6), pytest.approx(600 / 690)]]


def test_the_pro_curve_shows_the_operating_point(driver: Any, files: dict[str, Path], tmp_path: Path) -> None:
    """It lies at the false positive rate of the threshold. With several categories there is no point."""
    script = "return charts.pro.data.datasets[1].data.map(point => [point.x, point.y])"
    opened(driver, files["one"])
    assert driver.execute_script(script) == []
    write_page([make_run(tmp_path / "run", categories=("nut",))[0]], tmp_path / "nut.html")
    opened(driver, tmp_path / "nut.html")
    assert driver.execute_script(script) == [[pytest.approx(0.01), pytest.approx(0.6)]]  # 90 of 9000 pixels


def test_a_run_without_the_chosen_category(driver: Any, run: Any, tmp_path: Path) -> None:
    write_page([run[0], make_run(tmp_path / "nut", 1, categories=("nut",))[0]], tmp_path / "page.html")
    opened(driver, tmp_path / "page.html")
    choose(driver, "run", "1")
    choose(driver, "row", "<b>bolt/")
    assert driver.find_element("id", "tp").text == "\N{EN DASH}" and len(shown(driver)) == 22
    assert "not tested" in driver.find_element("id", "gallery").text
    choose(driver, "row", "nut/")
    assert sum(counts(driver)) == 22
    assert driver.get_log("browser") == []


def test_the_gallery_is_sorted_and_filtered(driver: Any, files: dict[str, Path], run: Any) -> None:
    images = run[1].images
    opened(driver, files["one"])
    scores = np.array([one.score for one in images])
    assert shown(driver) == np.argsort(-scores).tolist()
    choose(driver, "sort", "lowest")
    assert shown(driver) == np.argsort(scores).tolist()
    choose(driver, "sort", "error")
    assert shown(driver) == sorted(range(len(images)), key=lambda number: -images[number].wrong_by)
    choose(driver, "filter", "misses")
    assert [images[number] for number in shown(driver)] == [one for one in run[1].worst_wrong_verdicts(99) if one.label]
    choose(driver, "filter", "all")
    choose(driver, "sort", "defect")
    kinds = [(images[number].category, images[number].defect) for number in shown(driver)]
    assert sum(a != b for a, b in pairwise(kinds)) == len(set(kinds)) - 1  # each in one piece


def test_keys_move_through_the_gallery(driver: Any, files: dict[str, Path]) -> None:
    opened(driver, files["one"])
    body = webdriver.ActionChains(driver, duration=0)
    keys = webdriver.Keys
    focused = "return [...document.querySelectorAll('#gallery button')].indexOf(document.activeElement)"
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    driver.execute_script("document.querySelector('#gallery button').focus()")
    body.send_keys(keys.ARROW_RIGHT, keys.ARROW_RIGHT, keys.ARROW_LEFT).perform()
    assert driver.execute_script(focused) == 1
    body.send_keys(keys.ARROW_DOWN).perform()
    columns = driver.execute_script(
        "return getComputedStyle(document.getElementById('gallery')).gridTemplateColumns.split(' ').length"
    )
    assert columns > 2 and driver.execute_script(focused) == 1 + columns
    body.send_keys(keys.ENTER).perform()
    heading = driver.find_element("id", "viewed")
    assert heading.text.startswith(f"{columns + 2} of 44: ")
    body.send_keys(keys.ARROW_RIGHT).perform()
    assert heading.text.startswith(f"{columns + 3} of 44: ")
    body.send_keys(keys.HOME, keys.ARROW_LEFT).perform()
    assert heading.text.startswith("1 of 44: ")
    assert float(driver.execute_script(style, "#large .heat", "opacity")) == 0.5
    body.send_keys("++-").perform()
    assert float(driver.execute_script(style, "#large .heat", "opacity")) == pytest.approx(0.6)
    assert driver.execute_script(style, "#large .truth", "visibility") == "visible"
    body.send_keys("t").perform()
    assert driver.execute_script(style, "#large .truth", "visibility") == "hidden"
    body.send_keys(keys.ARROW_RIGHT, keys.ESCAPE).perform()
    assert not driver.execute_script("return document.getElementById('viewer').open")
    pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait(driver, 5).until(
        lambda _: driver.execute_script(focused) == 1
    )  # "close" comes as an event of its own


def test_two_runs_are_shown_side_by_side(driver: Any, files: dict[str, Path]) -> None:
    opened(driver, files["two"])
    first = driver.find_element("css selector", "#gallery button")
    assert len(first.find_elements("css selector", ".stack img.heat")) == 2
    differ = driver.execute_script("return listed.map(number => differ(images[number]))")
    count = sum(differ)
    assert 0 < count < 44 and differ == [True] * count + [False] * (44 - count)
    choose(driver, "filter", "disagree")
    assert len(shown(driver)) == count
    first = driver.find_element("css selector", "#gallery button")
    assert len(first.find_elements("css selector", "figcaption.wrong")) == 1
    first.click()
    captions = [one.text for one in driver.find_elements("css selector", "#large figcaption")]
    assert (
        captions[0] == "the image" and captions[1].startswith("run: score") and captions[2].startswith("other: score")
    )
    driver.find_element("id", "close").click()
    choose(driver, "run", "1")
    slide(driver, 1.25)
    assert driver.execute_script("return runs.map((_, run) => threshold(run))")[1] == 1.25
    assert len(driver.execute_script("return charts.roc.data.datasets")) == 6


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("name", ["one", "two"])
def test_it_opens_offline_and_fits_the_window(driver: Any, files: dict[str, Path], name: str, width: int) -> None:
    for log in ("browser", "performance"):
        driver.get_log(log)  # what came before
    opened(driver, files[name], width)
    slide(driver, 1.0)
    driver.execute_script("document.querySelector('#gallery button').click()")
    time.sleep(0.3)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script("return [...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert not driver.find_elements("css selector", "b, i, u")  # names that would be tags
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {files[name].as_uri()}
