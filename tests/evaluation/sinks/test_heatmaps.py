"""Heatmaps: one picture for each image, with the image's name, and its verdict in the title."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.data import AnomalyDataModule, Folder, Loading, MVTec
from lit_ad.detector.decision import Decision
from lit_ad.detector.painter import draw
from lit_ad.errors import UserError
from lit_ad.evaluation import Heatmaps
from lit_ad.evaluation.sinks import heatmaps
from lit_ad.evaluation.sinks.heatmaps import shorten

GREY = np.full((64, 64, 3), 128, np.uint8)


@pytest.mark.parametrize(("height", "fits"), [(15, False), (16, True), (8192, True), (8193, False)])
def test_heights_out_of_range_are_refused(height: int, fits: bool) -> None:
    if fits:
        assert Heatmaps(height=height).height == height
    else:
        with pytest.raises(UserError, match=f"heatmaps.height is {height}, but it must lie between 16 and 8192"):
            Heatmaps(height=height)


def test_two_folders_of_one_name_keep_all_pictures(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    for line in ("line1", "line2"):
        for folder, count in (("good", 4), ("bad", 2)):
            for i in range(count):
                (tmp_path / line / folder).mkdir(parents=True, exist_ok=True)
                pixels = np.full((16, 16), 50 + 9 * i + 100 * (line == "line2"), np.uint8)
                Image.fromarray(pixels).save(tmp_path / line / folder / f"{i}.png")
    source = Folder(["line1/good"], ["line1/bad", "line2/bad"], nominal_test="line2/good", root=tmp_path)
    model = brightness()
    data = AnomalyDataModule(source, model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Heatmaps(height=20)).test(model, data, verbose=False)
    pictures = sorted((tmp_path / "run/heatmaps" / tmp_path.name).rglob("*.jpg"))
    names = [path.relative_to(tmp_path / "run/heatmaps" / tmp_path.name).as_posix() for path in pictures]
    assert names == [
        *("line1/bad/0.jpg", "line1/bad/1.jpg", "line2/bad/0.jpg", "line2/bad/1.jpg"),
        *(f"line2/good/{i}.jpg" for i in range(4)),
    ]
    shown = {name: int(np.asarray(Image.open(p))[30, 5, 0]) for name, p in zip(names, pictures, strict=True)}
    assert (shown["line1/bad/1.jpg"], shown["line2/bad/1.jpg"]) == (59, 159)


def test_predicted_pictures_keep_their_folders(tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    for name in ("new/a.png", "new/b/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16), 90, np.uint8)).save(tmp_path / name)
    model = brightness()
    data = AnomalyDataModule(MVTec(tmp_path), model.view, loading=Loading(num_workers=0), predict_path=tmp_path / "new")
    quiet_trainer(tmp_path / "run", Heatmaps(height=20)).predict(model, data)
    quiet_trainer(tmp_path / "none", Heatmaps(enabled=False)).predict(model, data)
    home = tmp_path / "run/predictions/heatmaps"
    assert sorted(p.relative_to(home).as_posix() for p in home.rglob("*.jpg")) == ["a.jpg", "b/a.jpg"]
    assert not (tmp_path / "none/predictions/heatmaps").exists()


def test_titles_have_verdict_and_truth_and_colours_come_from_the_decision(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Any, ...]] = {}

    def watch(image: Any, heat: Any, truth: Any, marked: Any, *others: Any) -> Image.Image:
        span, threshold, title, _ = others
        seen[title] = (image, heat, truth, marked, span, threshold)
        return draw(image, heat, truth, marked, *others)

    monkeypatch.setattr(heatmaps, "draw", watch)
    model = brightness()
    model.decision = Decision({"nut": [0.85]}, {"nut": [0.9]}, {"nut": [0.4]}, 0.5)  # type: ignore[dict-item]
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", Heatmaps(height=64)).test(model, data, verbose=False)
    assert len(seen) == 7
    for title, (image, heat, mask, marked, span, threshold) in seen.items():
        name, score, verdict, truth = title.replace("score ", "").replace("truth: ", "").split("   ")
        assert span == pytest.approx((0.4, 1.4))
        assert threshold == 0.9 and np.array_equal(marked, heat > 0.9)
        assert verdict == ("anomalous" if float(score) > 0.85 else "nominal")
        assert mask.any() == (truth == "dent")
        file = parts / "nut/test" / truth / name
        assert np.array_equal(image[..., 0], np.asarray(Image.open(file)))
        assert heat == pytest.approx(image[..., 0] / 255)
        assert (tmp_path / "run/heatmaps/nut" / truth / name).with_suffix(".jpg").is_file()
    assert {title.split("   ")[2] for title in seen} == {"nominal", "anomalous"}


def test_long_names_lose_their_middle() -> None:
    assert len(shorten("x" * 200 + ".png")) == 48
    assert shorten("x" * 200 + "end.png").endswith("xend.png")
    assert shorten("a.png") == "a.png"
