"""The page: its images match over runs, its pictures stay within a budget, and names stay text."""

import json
import re
import shlex
import zipfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.counts import format_count
from lit_ad.detector.summary import summarize
from lit_ad.errors import UserError
from lit_ad.evaluation.report import page
from lit_ad.evaluation.report.page import compare_verdicts, find_differing_keys, make_title, write_page
from lit_ad.evaluation.report.record import Record
from lit_ad.evaluation.report.runs import match_images, read_run
from lit_ad.evaluation.report.thumbnails import BYTES, THUMBNAILS, encode_jpeg, encode_outline, join_archives
from lit_ad.evaluation.results import ImageResult, Results
from lit_ad.evaluation.rows import verdict_row


def data_of(file: Path) -> dict[str, Any]:
    """Return the values that a page gives its script."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def image(path: str, score: float = 1.0) -> ImageResult:
    return ImageResult(path, "nut", "good", 0, score, 2.0, 0.5)


def test_pictures_stay_within_the_budget(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, results, _ = make_run(tmp_path / "run")
    write_page([home], tmp_path / "all.html")
    every = data_of(tmp_path / "all.html")
    assert None not in every["pictures"] and "without their picture" not in (tmp_path / "all.html").read_text()
    sizes = [sum(len(text) for text in (p["image"], p["truth"] or "", *p["heats"])) for p in every["pictures"]]
    missed = [number for number, one in enumerate(results.images) if one.is_wrong]
    assert 0 < len(missed) < len(sizes)
    budget = sum(sizes[number] for number in missed) + max(sizes)
    monkeypatch.setattr(page, "BUDGET", budget)
    write_page([home], tmp_path / "few.html")
    few = data_of(tmp_path / "few.html")
    assert all(few["pictures"][number] is not None for number in missed)
    assert sum(size for size, picture in zip(sizes, few["pictures"], strict=True) if picture is not None) <= budget
    left_out = few["pictures"].count(None)
    assert (
        left_out
        and f"{format_count(left_out, 'image is', 'images are')} shown without a picture"
        in (tmp_path / "few.html").read_text()
    )
    assert few["images"] == every["images"]


@pytest.mark.parametrize("earlier", [True, False], ids=["an earlier version's run", "no threshold"])
def test_a_page_needs_no_decision(earlier: bool, make_run: Any, tmp_path: Path) -> None:
    home, _, _ = make_run(tmp_path / "run")
    metrics = json.loads((home / "metrics.json").read_text())
    metrics["decision"] = {k: v for k, v in metrics["decision"].items() if k != "far_above"} if earlier else None
    (home / "metrics.json").write_text(json.dumps(metrics))
    write_page([home], tmp_path / "page.html")
    assert "Scores and threshold" in (tmp_path / "page.html").read_text()


def test_a_page_of_10_000_images_has_less_than_60_mb(tmp_path: Path) -> None:
    """With the largest possible pictures, more of them than the page takes."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    pictures = {kind: encode_jpeg(noise, most) for kind, most in BYTES.items()} | {
        "truth": encode_outline(noise[..., 0] > 127, (0, 255, 0))
    }
    images = [
        replace(image(f"/data/nut/test/scratched/{number:05}.png", score=number / 1000), label=1)
        for number in range(10_000)
    ]
    Results({"pooled": verdict_row(images)}, images, threshold=2.0, false_alarm=0.1).save(tmp_path / "metrics.json")
    with zipfile.ZipFile(tmp_path / "part", "w") as part:
        for number in range(1500):
            for kind, data in pictures.items():
                part.writestr(f"{number}.{kind}", data)
    join_archives([tmp_path / "part"], {number: one.path for number, one in enumerate(images)}, tmp_path / THUMBNAILS)
    write_page([tmp_path], tmp_path / "page.html")
    assert 54e6 < (tmp_path / "page.html").stat().st_size < 60e6


def test_names_and_config_are_shown_as_text(make_run: Any, tmp_path: Path) -> None:
    home, _, _ = make_run(tmp_path / "<u>run")
    write_page([home], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<b>" not in text and "<i>" not in text and "<u>" not in text
    assert "&lt;b&gt;bolt/" in text and "&lt;/pre&gt;" in text
    assert text.count("</script>") == 3  # the data, the library, the page's own
    assert data_of(tmp_path / "page.html")["images"][0]["file"] == "nut/test/good/0</script>.png"


def test_names_that_are_not_unicode(make_run: Any, tmp_path: Path) -> None:
    """Folders and files have any bytes. The script finds every name that it looks up."""
    home, results, _ = make_run(tmp_path / "r\udcfcn")
    images = [replace(one, path=f"{one.path}\udcfc", category=f"{one.category}\udcf6") for one in results.images]
    replace(results, images=images).save(home / "metrics.json")
    write_page([home], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert r"r\xfcn" in text
    data = data_of(tmp_path / "page.html")
    for image in data["images"]:
        assert image["path"].endswith(r"\xfc") and image["category"].endswith(r"\xf6")
        assert image["category"] in data["runs"][0]["thresholds"]


def test_a_run_of_an_older_version(make_run: Any, tmp_path: Path) -> None:
    home, _, _ = make_run(tmp_path / "run")
    for name in ("thumbnails.zip", "record.json", "config.yaml"):
        (home / name).unlink()
    write_page([home], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "run has no record.json" in text and "run has no config.yaml" in text
    assert set(map(str, data_of(tmp_path / "page.html")["pictures"])) == {"None"}


def test_directories_without_a_test_are_refused(make_run: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no metrics.json: give the directory of a tested run"):
        write_page([tmp_path], tmp_path / "page.html")
    home, results, _ = make_run(tmp_path / "run")
    Results(results.rows, []).save(home / "metrics.json")
    with pytest.raises(UserError, match=r"metrics.json has no images"):
        write_page([home], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_two_runs_are_compared(make_run: Any, tmp_path: Path) -> None:
    (a, first, _), (b, second, _) = (make_run(tmp_path / name, seed) for seed, name in enumerate("ab"))
    runs = [read_run(home, home.name) for home in (a, b)]
    images = match_images([run.results.images for run in runs])
    assert len(images) == len(first.images)
    pairs = list(zip(first.images, second.images, strict=True))
    assert list(compare_verdicts(runs, images)) == [
        (
            *("a", "b"),
            {
                "both right": sum(not x.is_wrong and not y.is_wrong for x, y in pairs),
                "first only": sum(not x.is_wrong and y.is_wrong for x, y in pairs),
                "second only": sum(x.is_wrong and not y.is_wrong for x, y in pairs),
                "both wrong": sum(x.is_wrong and y.is_wrong for x, y in pairs),
            },
        )
    ]
    assert find_differing_keys(runs) == {"model.lr": ["0", "1"]}
    write_page([a, b], tmp_path / "page.html")
    found = data_of(tmp_path / "page.html")
    scores = np.array([one.score for one in first.images])
    below = [(scores < score).mean() for score in scores]
    assert [one["ranks"][0] for one in found["images"]] == pytest.approx(below)
    assert [one["scores"][1] for one in found["images"]] == [one.score for one in second.images]


def test_the_page_says_what_the_thresholds_promise(make_run: Any, tmp_path: Path) -> None:
    home, results, decision = make_run(tmp_path / "run")
    write_page([home], tmp_path / "a.html")
    told = (tmp_path / "a.html").read_text()
    assert "set for 10 % false alarms" in told and "with a probability of at most 10 %, over the draw" in told
    assert data_of(tmp_path / "a.html")["runs"][0]["byHand"] == []
    checkpoint = home.absolute() / "checkpoints/it's best.ckpt"
    assert data_of(tmp_path / "a.html")["runs"][0]["checkpoint"] == shlex.quote(str(checkpoint))
    moved = replace(decision, also_chosen={"nut": ["the epoch"]}).with_threshold(1.5, "<b>bolt")
    results.decision, results.checkpoint = summarize(moved), "/elsewhere/best.ckpt"
    results.save(home / "metrics.json")
    write_page([home], tmp_path / "b.html")
    told = (tmp_path / "b.html").read_text()
    assert "threshold of &lt;b&gt;bolt 1.5, set by hand: p-value at most" in told
    assert "The threshold was set by hand, so no false-alarm rate is promised." in told
    assert "of 10 % is approximate: the epoch was chosen on the same held-out images." in told
    (run,) = data_of(tmp_path / "b.html")["runs"]
    assert (run["byHand"], run["checkpoint"]) == (["<b>bolt"], "/elsewhere/best.ckpt")


def test_the_title_names_three_categories_and_counts_more(make_run: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    run = read_run(tmp_path / "run", "run")
    for names, data in (("abc", "a, b, c: "), ("abcd", "4 categories: ")):
        run.results.images = [ImageResult(name, name, "good", 0, 1.0) for name in names]
        assert make_title([run]).startswith(data)


def test_the_title_names_categories_and_methods(make_run: Any, tmp_path: Path) -> None:
    home, results, _ = make_run(tmp_path / "run")
    write_page([home], tmp_path / "page.html")
    record = Record.load(home)
    data = ", ".join(sorted({image.category for image in results.images}))
    title = escape(f"{data}: {record.method if record else home.name}")
    text = (tmp_path / "page.html").read_text()
    assert f"<h1>{title}</h1>" in text and f"<title>{title}, lit_ad report</title>" in text
