"""After how many images drift is reported, by the scores of a real detector on changed images; and with defects alone.

    python benchmarks/drift_images.py --roots PATH/TO/CATEGORY ... --weights DEIT_TINY

MVTec's layout is expected. Of the good images of each folder, of training and test together, a third, but at most 200,
train L2BT (configs/l2bt_deit_tiny.yaml at 256). At most 150 of the others, and at most 60 defects, are judged once as
they are, and the good ones once for each change. A stream draws its 100 held-out scores and its images from these with
replacement, as if they were all that the line makes. So without a change the promise of the tests holds exactly.

Changes, at three strengths: `brightness` multiplies all values; `blur` is Gaussian, with a standard deviation of that
part of the longer side; `shift` moves the image to the right and down by that part of its sides, mirrored at the
border; `texture` multiplies with a smooth random field of that standard deviation, another for each image.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from tabulate import tabulate

from lit_ad import Detector, fit
from lit_ad.detector.decision import Decision
from lit_ad.detector.drift import DriftTest, ShareTest

RATE, STATED, HELD_OUT, BEFORE, AFTER = 0.05, 0.1, 100, 100, 1000
DELTAS = (0.05, 0.01)
Pixels = NDArray[np.uint8]
Scores = NDArray[np.float64]


def brightness(pixels: Pixels, strength: float, seed: int) -> NDArray[np.float32]:
    return pixels.astype(np.float32) * strength


def blur(pixels: Pixels, strength: float, seed: int) -> NDArray[np.float32]:
    sigma = strength * max(pixels.shape[:2])
    blurred: NDArray[np.float32] = gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0))
    return blurred


def shift(pixels: Pixels, strength: float, seed: int) -> NDArray[np.float32]:
    down, right = (round(strength * side) for side in pixels.shape[:2])
    padded = np.pad(pixels, ((down, 0), (right, 0), (0, 0)), mode="symmetric")
    moved: NDArray[np.float32] = padded[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    return moved


def texture(pixels: Pixels, strength: float, seed: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(pixels.shape[:2])
    field = gaussian_filter(noise, max(pixels.shape[:2]) / 64)
    textured: NDArray[np.float32] = (pixels * (1 + strength * field / field.std())[..., None]).astype(np.float32)
    return textured


CHANGES: dict[str, tuple[Callable[[Pixels, float, int], NDArray[np.float32]], tuple[float, float, float]]] = {
    "brightness": (brightness, (0.9, 0.75, 0.5)),
    "blur": (blur, (1 / 512, 1 / 256, 1 / 128)),
    "shift": (shift, (0.02, 0.05, 0.1)),
    "texture": (texture, (0.02, 0.05, 0.1)),
}


def judge(detector: Detector, paths: list[Path], name: str = "", strength: float = 1.0) -> Scores:
    """The scores of images, (n,), changed where a change is named."""

    def pictures() -> Iterable[Pixels]:
        for seed, path in enumerate(paths):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            changed = CHANGES[name][0](pixels, strength, seed) if name else pixels
            yield np.rint(changed.clip(0, 255)).astype(np.uint8)

    return np.array([detection.score for detection in detector.stream(pictures())])


def train(folder: Path, trained: list[Path], options: argparse.Namespace) -> Detector:
    """L2BT of these images."""
    table = folder / "trained.csv"
    table.write_text("path,split,label\n" + "".join(f"{path},train,0\n" for path in trained), encoding="utf-8")
    keys = {
        "model.weights": str(options.weights),
        "model.view.image_size": 256,
        "data.source": {"class_path": "Table", "init_args": {"root": str(folder), "table": table.name}},
        "decision.false_alarm": RATE,
        "trainer.max_epochs": -1,
        "trainer.max_steps": options.steps,
        "trainer.check_val_every_n_epoch": None,
        "trainer.val_check_interval": options.steps // 4,
        "trainer.default_root_dir": str(folder / "run"),
        "trainer.accelerator": "cpu",
        "test_after_fit": False,
    }
    return fit("l2bt_deit_tiny", keys=keys).detector()


def first_alarms(held_out: Scores, images: Scores, seed: int) -> dict[tuple[str, float], float]:
    """For each test and delta, the first image of a stream (images,) at which it alarms, from 1; infinity: none."""
    decision = Decision({"": held_out}, false_alarm=RATE)
    scores, share = DriftTest(held_out, decision.threshold(), seed=seed), ShareTest(STATED)
    tests = {"scores": scores.capital, "share": share.capital}
    first = {(name, delta): math.inf for name in tests for delta in DELTAS}
    for number, score in enumerate(images, 1):
        scores.update(float(score))
        share.update(decision.anomalous(float(score)))
        for name, capital in tests.items():
            for delta in DELTAS:
                if capital.log >= -math.log(delta):
                    first[name, delta] = min(first[name, delta], number)
        if all(map(math.isfinite, first.values())):
            break
    return first


def false_alarms(good: Scores, defects: Scores, rate: float, streams: int) -> list[str]:
    """The share of streams without a change that alarm, with a rate of defects: of each test and delta.

    The share test promises its rate of alarms where anomalous verdicts are as rare as stated. The held-out scores of a
    stream set its threshold, and in some streams the threshold is so low that verdicts are anomalous more often. There
    an alarm is right, so only the other streams count for the share test. A cell has their number, too.
    """
    firsts, as_stated = [], []
    for seed in range(streams):
        draw = np.random.default_rng(seed)
        images = np.where(draw.random(500) < rate, draw.choice(defects, 500), draw.choice(good, 500))
        held_out = draw.choice(good, HELD_OUT)
        threshold = Decision({"": held_out}, false_alarm=RATE).threshold()
        share = (1 - rate) * np.mean(good > threshold) + rate * np.mean(defects > threshold)
        as_stated.append(share <= STATED)
        firsts.append(first_alarms(held_out, images, seed))
    cells = []
    for key in firsts[0]:
        alarmed = np.array([math.isfinite(first[key]) for first in firsts])
        if key[0] == "share":
            alarmed = alarmed[as_stated]
        cells.append(f"{np.mean(alarmed):.3f} of {len(alarmed)}")
    return cells


def delays(good: Scores, changed: Scores, streams: int) -> list[str]:
    """The median number of images from the change to the alarm, of each test and delta; in how many streams."""
    firsts = []
    for seed in range(streams):
        draw = np.random.default_rng(seed)
        images = np.concatenate([draw.choice(good, BEFORE), draw.choice(changed, AFTER)])
        firsts.append(first_alarms(draw.choice(good, HELD_OUT), images, seed))
    cells = []
    for key in firsts[0]:
        late = [first[key] - BEFORE for first in firsts if first[key] > BEFORE]
        median = float(np.median(late)) if late else math.inf
        found = sum(map(math.isfinite, late))
        cells.append(f"{median:.0f}" if found == streams else f"{median:.0f} ({found}/{len(late)})")
    return cells


def measure(root: Path, options: argparse.Namespace) -> None:
    generator = random.Random(0)
    good = sorted(root.glob("*/good/*"))
    defective = sorted(path for path in root.glob("test/*/*") if path.parent.name != "good")
    generator.shuffle(good)
    generator.shuffle(defective)
    count = min(len(good) // 3, 200)
    judged = good[count : count + 150]
    with tempfile.TemporaryDirectory() as folder:
        detector = train(Path(folder).resolve(), good[:count], options)
    as_they_are, defects = judge(detector, judged), judge(detector, defective[:60])
    print(f"\n{root.name}: {count} images train, {len(judged)} and {len(defects)} defects are judged\n")
    headers = [f"{name}, {delta:g}" for name in ("scores", "share") for delta in DELTAS]
    rows = [
        [f"{rate:.0%} defects", *false_alarms(as_they_are, defects, rate, options.streams)] for rate in (0, 0.01, 0.05)
    ]
    print(tabulate(rows, headers=["streams that alarm", *headers], tablefmt="github", disable_numparse=True))
    rows = []
    threshold = Decision({"": as_they_are}, false_alarm=RATE).threshold()
    for name, (_, strengths) in CHANGES.items():
        for strength in strengths:
            changed = judge(detector, judged, name, strength)
            above = f"{np.mean(changed >= threshold):.0%}"
            rows.append([f"{name} {strength:.3g}", above, *delays(as_they_are, changed, options.orders)])
    print()
    print(
        tabulate(rows, headers=["images until the alarm", "above", *headers], tablefmt="github", disable_numparse=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the teacher's")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--streams", type=int, default=1000, help="without a change")
    parser.add_argument("--orders", type=int, default=100, help="of each change")
    options = parser.parse_args()
    options.weights = options.weights.resolve()
    for root in options.roots:
        measure(root.resolve(), options)


if __name__ == "__main__":
    main()
