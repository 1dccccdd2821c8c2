"""Runs' directories as a test leaves them, with numbers that are known and names that are traps."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad.detector.decision import Decision
from lit_ad.detector.summary import summarize
from lit_ad.evaluation.report.record import Record, Took, environment
from lit_ad.evaluation.report.thumbnails import THUMBNAILS, encode_jpeg, encode_outline, join_archives
from lit_ad.evaluation.results import ImageResult, Results
from lit_ad.evaluation.rows import mean_row, pixel_verdict_row, verdict_row

CATEGORIES = ("nut", "<b>bolt")
DEFECTS = {"good": 12, "dent": 6, "<i>cut": 4}


def image_metrics(images: list[ImageResult]) -> dict[str, float]:
    """Of scikit-learn."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels, scores = [one.label for one in images], [one.score for one in images]
    return {
        **{"image_auroc": roc_auc_score(labels, scores), "image_f1_max": 0.5, "pixel_auroc": 0.9},
        **{"image_average_precision": average_precision_score(labels, scores), "aupro_30": float("nan")},
    }


def make_run(
    home: Path, seed: int = 0, root: str = "/data/parts", categories: tuple[str, ...] = CATEGORIES
) -> tuple[Path, Results, Decision]:
    generator = np.random.default_rng(seed)
    held = {category: generator.normal(3 * i, 1, 19) for i, category in enumerate(categories)}
    decision = Decision(held, false_alarm=0.1)
    images = []
    for i, category in enumerate(categories):
        for defect, count in DEFECTS.items():
            for number in range(count):
                score = float(generator.normal(3 * i + 1.5 * (defect != "good"), 1))
                path = f"{root}/{category}/test/{defect}/{number}</script>.png"
                judged = (decision.threshold(category), float(decision.p_value(score, category)))
                images.append(ImageResult(path, category, defect, int(defect != "good"), score, *judged))
    groups = {"pooled": images}
    for category in categories:
        mine = [one for one in images if one.category == category]
        groups[f"{category}/"] = mine
        groups |= {
            f"{category}/{d}": [one for one in mine if one.defect in (d, "good")] for d in DEFECTS if d != "good"
        }
    rows = {
        name: {**image_metrics(of), **verdict_row(of), **pixel_verdict_row(9000, 1000, 600, 90)}
        for name, of in groups.items()
    }
    rows["mean"] = mean_row([row for name, row in rows.items() if name.endswith("/")])
    curve = (np.array([0.0, 0.01, 0.5, 1.0]), np.array([0.0, 0.6, 0.9, 1.0]))
    logarithmic = (np.geomspace(1e-6, 1, 4), curve[1])
    curves = {"image_roc": curve, "pixel_roc": curve, "pro": curve, "pimo": logarithmic, "instances": curve}
    results = Results(rows, images, curves, decision.threshold(), 2.0, 0.1)
    results.decision, results.checkpoint = summarize(decision), "checkpoints/it's best.ckpt"
    home.mkdir(parents=True, exist_ok=True)
    results.save(home / "metrics.json")
    (home / "config.yaml").write_text(f"model: {{lr: {seed}}}\ndata: {{root: '</pre><b>'}}\n")
    took = Took(12.5, 50, 2**30, None, environment(1, []))
    Record("STFPM", None, took, {name: of.tolist() for name, of in decision.scores.items()}).save(home)
    with zipfile.ZipFile(home / "part", "w") as part:
        for number, one in enumerate(images):
            pixels = np.full((24, 36, 3), 5 * number % 256, np.uint8)
            part.writestr(f"{number}.image", encode_jpeg(pixels, 9000))
            part.writestr(f"{number}.heat", encode_jpeg(255 - pixels, 9000))
            if one.label:
                part.writestr(f"{number}.truth", encode_outline(np.eye(24, 36) > 0, (0, 255, 0)))
    join_archives([home / "part"], {number: one.path for number, one in enumerate(images)}, home / THUMBNAILS)
    return home, results, decision


def decoded(data: bytes | None) -> np.ndarray:
    """A picture's pixels, RGB or RGBA."""
    assert data is not None
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.convert("RGBA" if image.mode == "P" else "RGB"))
