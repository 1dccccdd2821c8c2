"""Evaluation of made-up predictions: every number is checked by scikit-learn."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score, roc_auc_score

from lit_ad.batch import Prediction, Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.data.shift import Shift, write_shifted
from lit_ad.detector.decision import Decision
from lit_ad.errors import NotFiniteError
from lit_ad.evaluation import Evaluation
from lit_ad.evaluation.results import Results
from lit_ad.metrics import ImageEvaluation

HELD = {"bolt": [0.5, 0.73], "nut": [0.78]}  # scores of held-out images: their maxima are the thresholds
PIXEL_LIMITS = {"bolt": 0.6, "nut": 0.7}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def evaluated(parts: Path, home: Path, brightness: Any, quiet_trainer: Any, **kwargs: Any) -> Results:
    model = brightness()
    maxima = {category: [limit] for category, limit in PIXEL_LIMITS.items()}
    model.decision = Decision(HELD, maxima, {"bolt": [0.4]}, 0.3)  # type: ignore[arg-type, dict-item]
    evaluation = Evaluation(**kwargs)
    quiet_trainer(home, evaluation).test(
        model, AnomalyDataModule(MVTec(parts), model.view, loading=Loading(num_workers=0)), verbose=False
    )
    assert evaluation.results is not None
    return evaluation.results


def test_every_row_against_scikit_learn(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluated(parts, tmp_path / "run", brightness, quiet_trainer)
    assert list(results.rows) == ["pooled", "mean", "bolt/", "bolt/dent", "bolt/scratch", "nut/", "nut/dent"]
    files = {
        row: [f for c, k in kinds for f in sorted((parts / c / "test" / k).iterdir())]
        for row, kinds in {
            "pooled": [("bolt", "good"), ("bolt", "dent"), ("bolt", "scratch"), ("nut", "good"), ("nut", "dent")],
            "bolt/": [("bolt", "good"), ("bolt", "dent"), ("bolt", "scratch")],
            "bolt/scratch": [("bolt", "good"), ("bolt", "scratch")],
            "nut/dent": [("nut", "good"), ("nut", "dent")],
        }.items()
    }
    for row, paths in files.items():
        pixels = [read(path).astype(np.float64) / 255 for path in paths]
        labels = [path.parent.name != "good" for path in paths]
        masks = [
            read(p.parents[2] / "ground_truth" / p.parent.name / f"{p.stem}_mask.png") > 0
            if bad
            else np.zeros((24, 36), bool)
            for p, bad in zip(paths, labels, strict=True)
        ]
        expected = roc_auc_score(labels, [image.max() for image in pixels])
        assert results.rows[row]["image_auroc"] == pytest.approx(expected), row
        expected = roc_auc_score(np.ravel(masks), np.ravel(pixels))
        assert results.rows[row]["pixel_auroc"] == pytest.approx(expected, abs=1e-6), row
        # The verdicts, each by its category's thresholds.
        found = [image > PIXEL_LIMITS[path.parts[-4]] for image, path in zip(pixels, paths, strict=True)]
        verdicts = [image.max() > max(HELD[path.parts[-4]]) for image, path in zip(pixels, paths, strict=True)]
        values = results.rows[row]
        assert values["false_alarms"] == sum(v and not bad for v, bad in zip(verdicts, labels, strict=True))
        assert values["misses"] == sum(bad and not v for v, bad in zip(verdicts, labels, strict=True))
        assert values["precision"] == precision_score(labels, verdicts)
        assert values["recall"] == recall_score(labels, verdicts)
        assert values["pixel_f1"] == pytest.approx(f1_score(np.ravel(masks), np.ravel(found)), abs=1e-12), row
        assert values["pixel_iou"] == pytest.approx(jaccard_score(np.ravel(masks), np.ravel(found)), abs=1e-12), row
    for name in ("image_auroc", "pixel_auroc", "aupro_30", "pixel_iou", "miss_rate"):
        of_both = (results.rows["bolt/"][name] + results.rows["nut/"][name]) / 2
        assert results.rows["mean"][name] == pytest.approx(of_both)
        assert results.rows["pooled"][name] != pytest.approx(of_both)
    assert (results.rows["pooled"]["false_alarms"], results.rows["pooled"]["misses"]) == (3, 1)
    shown = capsys.readouterr().out
    assert f"{results.rows['nut/']['image_auroc']:.4f}" in shown
    assert f"{results.rows['pooled']['misses']}/7" in shown
    saved = json.loads((tmp_path / "run/metrics.json").read_text())
    assert saved["rows"]["nut/dent"]["pixel_auroc"] == results.rows["nut/dent"]["pixel_auroc"]


def test_loggers_get_the_mean_over_categories_as_papers_quote_it(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    for name, source in (("two", parts), ("one", parts / "nut")):
        model = brightness()
        trainer = quiet_trainer(tmp_path / name, evaluation := Evaluation())
        trainer.test(model, AnomalyDataModule(MVTec(source), model.view, loading=Loading(num_workers=0)), verbose=False)
        assert evaluation.results is not None
        rows, logged = evaluation.results.rows, trainer.callback_metrics
        for metric in ("image_auroc", "image_f1_max", "pixel_auroc", "aupro_30"):
            row = rows["mean" if name == "two" else "pooled"]
            assert logged[f"test/{metric}"].item() == pytest.approx(row[metric], rel=1e-6)
            assert (f"test/pooled_{metric}" in logged) == (name == "two")
        if name == "two":
            assert logged["test/pooled_image_auroc"].item() == pytest.approx(rows["pooled"]["image_auroc"], rel=1e-6)
            assert logged["test/pooled_image_auroc"] != logged["test/image_auroc"]


def test_each_image_is_judged_by_its_categorys_threshold(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    results = evaluated(parts, tmp_path / "run", brightness, quiet_trainer)
    assert len(results.images) == 18
    for image in results.images:
        path = Path(image.path)
        assert image.score == pytest.approx(read(path).max() / 255)
        assert (image.category, image.defect) == (path.parts[-4], path.parent.name)
        assert image.label == (image.defect != "good")
        held = HELD[image.category]
        assert image.threshold == max(held)
        assert image.p_value == pytest.approx((1 + sum(h >= image.score for h in held)) / (1 + len(held)))
    assert (results.threshold, results.pixel_threshold, results.false_alarm) == (0.78, 0.7, 0.3)


def test_every_image_has_its_path_and_its_line_in_scores_csv(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    results = evaluated(parts, tmp_path / "run", brightness, quiet_trainer)
    expected = sorted(str(path) for path in parts.glob("*/test/*/*.png"))
    assert sorted(image.path for image in results.images) == expected
    with (tmp_path / "run/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [image.path for image in results.images]
    for row, image in zip(rows, results.images, strict=True):
        assert (row["category"], row["defect"], int(row["label"])) == (image.category, image.defect, image.label)
        assert float(row["score"]) == pytest.approx(image.score, rel=1e-5)
        assert row["verdict"] == ("anomalous" if image.score > max(HELD[image.category]) else "nominal")
        assert row["threshold"] == {"bolt": "0.73", "nut": "0.78"}[image.category]
        assert float(row["p_value"]) == pytest.approx(image.p_value, rel=1e-5)


class Viewed(MVTec):
    """Images of one number are views of one part in the test, also the good ones."""

    def samples(self) -> list[Sample]:
        return [s._replace(item=s.image.stem if s.split == "test" else "") for s in super().samples()]


def test_samples_of_several_views_against_scikit_learn(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, evaluation = brightness(), Evaluation()
    data = AnomalyDataModule(Viewed(parts), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", evaluation).test(model, data, verbose=False)
    assert evaluation.results is not None
    rows = evaluation.results.rows

    def expected(categories: str, *defects: str) -> float:
        """Over the samples of which no view has another defect."""
        views: dict[tuple[str, str], list[Path]] = {}
        for path in parts.glob("*/test/*/*.png"):
            views.setdefault((path.parts[-4], path.stem), []).append(path)
        whole = [
            paths
            for (category, _), paths in views.items()
            if category in categories and {p.parent.name for p in paths} <= {"good", *defects}
        ]
        labels = [any(p.parent.name != "good" for p in paths) for paths in whole]
        return float(roc_auc_score(labels, [max(read(p).max() for p in paths) for paths in whole]))

    of_bolts, of_nuts = expected("bolt", "scratch", "dent"), expected("nut", "dent")
    assert rows["pooled"]["sample_auroc"] == pytest.approx(expected("bolt nut", "scratch", "dent"))
    assert (rows["bolt/"]["sample_auroc"], rows["nut/"]["sample_auroc"]) == pytest.approx((of_bolts, of_nuts))
    assert rows["mean"]["sample_auroc"] == pytest.approx((of_bolts + of_nuts) / 2)
    assert rows["bolt/dent"]["sample_auroc"] == pytest.approx(expected("bolt", "dent"))
    assert np.isnan(rows["bolt/scratch"]["sample_auroc"])  # each part with a scratch has a dent as well
    assert {image.item for image in evaluation.results.images} == {str(i) for i in range(6)}
    shown = capsys.readouterr().out
    assert "sample" in shown.split() and "no sample with good images only" in shown
    assert Results.load(tmp_path / "run/metrics.json").images == evaluation.results.images


def test_without_several_views_there_is_no_sample_auroc(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    results = evaluated(parts, tmp_path / "run", brightness, quiet_trainer)
    assert not any("sample_auroc" in values for values in results.rows.values())
    assert "sample" not in results.table().split()


def test_folders_may_have_the_names_of_rows(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """Categories and defect types called pooled, mean or overall have rows of their own."""
    (parts / "bolt").rename(parts / "pooled")
    (parts / "nut").rename(parts / "mean")
    for folder in ("test", "ground_truth"):
        (parts / "pooled" / folder / "dent").rename(parts / "pooled" / folder / "pooled")
    model, evaluation = brightness(), Evaluation()
    data = AnomalyDataModule(MVTec(parts), model.view, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path / "run", evaluation).test(model, data, verbose=False)
    assert evaluation.results is not None
    rows = evaluation.results.rows
    assert list(rows) == ["pooled", "mean", "mean/", "mean/dent", "pooled/", "pooled/pooled", "pooled/scratch"]
    numbers = {row: (rows[row]["nominal_images"], rows[row]["anomalous_images"]) for row in rows if row != "mean"}
    assert numbers == {
        **{"pooled": (11, 7), "mean/": (5, 2), "mean/dent": (5, 2)},
        **{"pooled/": (6, 5), "pooled/pooled": (6, 3), "pooled/scratch": (6, 2)},
    }
    assert "no threshold" in evaluation.results.table()  # there was no decision
    assert evaluation.results.images[0].anomalous is None
    assert np.isnan(rows["pooled"]["pixel_f1"])


@pytest.mark.parametrize("part", ["map", "score", "part"])
def test_a_score_or_map_that_is_not_finite_names_its_file(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, part: str
) -> None:
    class Diverged(brightness):  # type: ignore[misc]
        """Of the third of four images, something is NaN."""

        map_scored = False

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            score = disagreement.flatten(1).amax(dim=1)
            third = torch.arange(len(score)) == 2
            if part == "map":
                disagreement = disagreement.clone()
                disagreement[third, 0, 3, 4] = torch.nan
                return Prediction(disagreement, score)
            broken = torch.where(third, torch.nan, score)
            return Prediction(disagreement, score, {"teacher": broken}) if part == "part" else Prediction(None, broken)

    model = Diverged()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0, eval_batch_size=4))
    file = str(data.splits.test[2].image)
    with pytest.raises(NotFiniteError, match=rf"^{re.escape(file)}: its score or anomaly map is NaN or infinite"):
        quiet_trainer(tmp_path / "run", Evaluation()).test(model, data, verbose=False)
    assert not (tmp_path / "run/metrics.json").exists()


def test_a_bug_of_ours_keeps_its_traceback(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    class Odd(brightness):  # type: ignore[misc]
        map_scored = False

        def detect(self, disagreement: torch.Tensor) -> Prediction:
            return Prediction(disagreement, torch.zeros(len(disagreement), 2))

    model = Odd()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, loading=Loading(num_workers=0))
    with pytest.raises(ValueError, match=r"Odd gave scores of shape \(\d, 2\) for \d images"):
        quiet_trainer(tmp_path / "run", Evaluation()).test(model, data, verbose=False)


@pytest.mark.parametrize("size", [(12, 72), (16, 24), (7, 50), (48, 11)])
def test_eval_size_is_height_and_width(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, size: tuple[int, int]
) -> None:
    """Pixels are compared at this size. The truth is that of the pixel at a cell's centre."""
    results = evaluated(parts / "nut", tmp_path / "run", brightness, quiet_trainer, eval_size=size)
    scores, truth = [], []
    rows, columns = (
        np.floor((np.arange(to) + 0.5) * have / to + 1e-9).astype(int) for to, have in zip(size, (24, 36), strict=True)
    )
    for path in sorted((parts / "nut/test").rglob("*.png")):
        image = torch.from_numpy(read(path) / np.float32(255))[None, None]
        scores.append(torch.nn.functional.interpolate(image, size, mode="bilinear")[0, 0].numpy())
        file = parts / "nut/ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        mask = read(file) > 0 if file.exists() else np.zeros((24, 36), bool)
        truth.append(mask[rows][:, columns])
    assert results.rows["pooled"]["pixel_auroc"] == pytest.approx(
        roc_auc_score(np.ravel(truth), np.ravel(scores)), abs=1e-4
    )
    assert results.rows["pooled"]["anomalous_pixels"] == np.sum(truth)
    assert results.rows["pooled"]["nominal_pixels"] == np.size(truth) - np.sum(truth)
    original = evaluated(parts / "nut", tmp_path / "original", brightness, quiet_trainer)
    for name in ("pixel_f1", "pixel_iou", "pixel_recall", "pixel_false_positive_rate"):  # at the threshold's own size
        assert results.rows["pooled"][name] == original.rows["pooled"][name] > 0


def test_intervals_hold_95_per_cent() -> None:
    """2.5 % of the resamples lie below, and 2.5 % above."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    scores = (generator.normal(size=120) + labels).astype(np.float32)
    metric = ImageEvaluation()
    metric.update(torch.from_numpy(scores), torch.from_numpy(labels), ["a/good"] * 120)
    row = metric.compute_rows({"pooled": {"a/good"}}, bootstrap=40_000)["pooled"]
    draws = generator.integers(0, 120, (12_000, 120))
    # The AUROC of a draw is the share of its pairs in which the anomalous image has the higher score.
    times = np.stack([np.bincount(drawn, minlength=120) for drawn in draws])
    good, bad = times[:, labels == 0].astype(float), times[:, labels == 1].astype(float)
    above = (scores[labels == 1][:, None] > scores[labels == 0]).astype(float)
    found = np.sum(bad @ above * good, axis=1) / (bad.sum(axis=1) * good.sum(axis=1))
    assert found[0] == pytest.approx(roc_auc_score(labels[draws[0]], scores[draws[0]]))
    assert [row["image_auroc_low"], row["image_auroc_high"]] == pytest.approx(
        np.quantile(found, [0.025, 0.975]), abs=5e-3
    )
    assert row["image_auroc_low"] < np.quantile(found, 0.04)


def test_a_test_under_other_light_records_the_shift(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    assert evaluated(parts, tmp_path / "run", brightness, quiet_trainer).shift is None
    write_shifted(MVTec(parts).samples(), Shift("shadow", 0.5), tmp_path / "shifted")
    results = evaluated(tmp_path / "shifted", tmp_path / "run/test", brightness, quiet_trainer)
    assert list(results.rows) == ["pooled", "mean", "bolt/", "bolt/dent", "bolt/scratch", "nut/", "nut/dent"]
    assert results.images[0].threshold == max(HELD["bolt"])  # the categories are called as before
    assert results.shift == {"kind": "shadow", "strength": 0.5, "seed": 0}
    assert Results.load(tmp_path / "run/test/metrics.json").shift == results.shift
