"""Evaluation on predictions made by hand: every number by scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from lit_ad.callbacks import Calibration, Evaluation
from lit_ad.callbacks.evaluation import rows_of
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.decision import Decision
from lit_ad.metrics import ImageEvaluation
from lit_ad.results import Results
from lit_ad.view import View


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def evaluated(parts: Path, home: Path, brightness: Any, quiet_trainer: Any, **kwargs: Any) -> Results:
    model = brightness()
    model.decision = Decision({"bolt": [0.5, 0.6], "nut": [0.7]}, {"bolt": [0.6], "nut": [0.7]}, {"bolt": [0.4]}, 0.3)  # type: ignore[dict-item]
    evaluation = Evaluation(**kwargs)
    quiet_trainer(home, evaluation).test(
        model, AnomalyDataModule(MVTec(parts), model.view, num_workers=0), verbose=False
    )
    assert evaluation.results is not None
    return evaluation.results


def test_every_row_against_scikit_learn(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluated(parts, tmp_path / "run", brightness, quiet_trainer)
    assert set(results.rows) == {"overall", "bolt", "nut", "bolt/dent", "bolt/scratch", "nut/dent"}
    files = {
        row: [f for c, k in kinds for f in sorted((parts / c / "test" / k).iterdir())]
        for row, kinds in {
            "overall": [("bolt", "good"), ("bolt", "dent"), ("bolt", "scratch"), ("nut", "good"), ("nut", "dent")],
            "bolt": [("bolt", "good"), ("bolt", "dent"), ("bolt", "scratch")],
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
    shown = capsys.readouterr().out
    assert f"{results.rows['nut']['image_auroc']:.4f}" in shown
    saved = json.loads((tmp_path / "run/metrics.json").read_text())
    assert saved["rows"]["nut/dent"]["pixel_auroc"] == results.rows["nut/dent"]["pixel_auroc"]


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
        assert image.threshold == {"bolt": 0.6, "nut": 0.7}[image.category]
        held = {"bolt": [0.5, 0.6], "nut": [0.7]}[image.category]
        assert image.p_value == pytest.approx((1 + sum(h >= image.score for h in held)) / (1 + len(held)))
    assert (results.threshold, results.pixel_threshold, results.false_alarm) == (0.7, 0.7, 0.3)


def test_eval_size_is_height_and_width(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """Pixels are compared at a size of one's own: at a height of one row, its columns are those of the truth."""
    results = evaluated(parts / "nut", tmp_path / "run", brightness, quiet_trainer, eval_size=(12, 72))
    scores, truth = [], []
    for path in sorted((parts / "nut/test").rglob("*.png")):
        image = torch.from_numpy(read(path) / np.float32(255))[None, None]
        scores.append(torch.nn.functional.interpolate(image, (12, 72), mode="bilinear")[0, 0].numpy())
        file = parts / "nut/ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        mask = read(file) > 0 if file.exists() else np.zeros((24, 36), bool)
        truth.append(mask[::2].repeat(2, axis=1))  # nearest
    assert results.rows["overall"]["pixel_auroc"] == pytest.approx(
        roc_auc_score(np.ravel(truth), np.ravel(scores)), abs=2e-3
    )


def test_intervals_hold_95_per_cent() -> None:
    """Of the resamples, 2.5 % lie below and 2.5 % above."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    scores = (generator.normal(size=120) + labels).astype(np.float32)
    metric = ImageEvaluation()
    metric.update(torch.from_numpy(scores), torch.from_numpy(labels), ["a/good"] * 120)
    row = metric.compute_rows({"overall": {"a/good"}}, bootstrap=40_000)["overall"]
    draws = generator.integers(0, 120, (12_000, 120))
    found = [roc_auc_score(labels[drawn], scores[drawn]) for drawn in draws if 0 < labels[drawn].sum() < 120]
    assert [row["image_auroc_low"], row["image_auroc_high"]] == pytest.approx(
        np.quantile(found, [0.025, 0.975]), abs=5e-3
    )
    assert row["image_auroc_low"] < np.quantile(found, 0.04)


def test_rows() -> None:
    one = rows_of([("a", "good"), ("a", "dent")])
    assert one == {"overall": {"a/good", "a/dent"}, "dent": {"a/good", "a/dent"}}
    two = rows_of([("a", "good"), ("a", "dent"), ("b", "good"), ("b", "dent")])
    assert two["b"] == {"b/good", "b/dent"}
    assert two["a/dent"] == {"a/good", "a/dent"}
    assert two["overall"] == {"a/good", "a/dent", "b/good", "b/dent"}


def test_held_out_images_set_the_decision(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    """Of each category, by scores, maxima and medians of the original-size maps; in the checkpoint too."""
    model = brightness(View((12, 18)))
    data = AnomalyDataModule(MVTec(parts), model.view, batch_size=3, num_workers=0)
    fitting = quiet_trainer(tmp_path / "run", Calibration(0.4))
    with pytest.warns(UserWarning, match="2 held-out nominal images of bolt allow a false-alarm rate of 0.333"):
        quiet_trainer(tmp_path / "other", Calibration(0.2)).fit(brightness(View((12, 18))), data)
    fitting.fit(model, data)
    assert model.decision is not None
    assert model.decision.false_alarm == 0.4
    for category in ("bolt", "nut"):
        scores, maxima, medians = [], [], []
        for sample in data.listed["val"]:
            if sample.category == category:
                seen = torch.from_numpy(
                    model.view(np.repeat(read(sample.image)[..., None], 3, 2))[0][..., 0] / np.float32(255)
                )
                whole = torch.nn.functional.interpolate(seen[None, None], (24, 36), mode="bilinear")
                scores.append(float(seen.max()))
                maxima.append(float(whole.max()))
                medians.append(float(np.median(whole)))
        assert len(scores) == 2
        assert model.decision.scores[category] == pytest.approx(sorted(scores))
        assert model.decision.maxima[category] == pytest.approx(sorted(maxima))
        assert model.decision.medians[category] == pytest.approx(sorted(medians), abs=1e-6)
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["lit_ad"]["decision"]
    assert Decision.from_dict(saved).to_dict() == model.decision.to_dict()
