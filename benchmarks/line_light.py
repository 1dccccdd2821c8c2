"""The story of a line with a strong detector: light changes, drift is reported, people label, and the detector grows.

    python benchmarks/line_light.py --root PATH/TO/mvtec/pill --weights DEIT_TINY --output FOLDER

All images are real, and the change of light is made: by `lit_ad.data.shift`, of each image another one, or by a lamp
that ages, which takes the same part of the light of each image (`--lamp 0.5`). MVTec's layout is expected. Each image
has one part in the story. Of the good images, of training and test together, two fifths train the detector, a tenth
comes along the line before the change and three tenths after it; a fifth measures old and new detector. Of the defects,
a tenth as many as there are good images come after the change, and the others measure. All pictures of after the change
are labelled, by their folders' names.
"""

import argparse
import csv
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from tabulate import tabulate

from lit_ad import Detector, Run, fit
from lit_ad.commands.grow import grow
from lit_ad.data.light import KINDS
from lit_ad.data.shift import Shift
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.line.comparison import compute_image_auroc
from lit_ad.line.paths import PathFeed
from lit_ad.line.watching import Watching

RATE, DELTA, STATED = 0.05, 0.01, 0.1  # asked of the detector, of the tests; the stated share of anomalous images
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Parts:
    """The images of each part of the story."""

    trained: list[Path]
    before: list[Path]
    after: list[Path]  # the good ones
    measured: list[Path]
    line_defects: list[Path]
    measured_defects: list[Path]


def divide(root: Path, seed: int) -> Parts:
    """Give each image of a data set its part, by chance."""
    generator = random.Random(seed)
    good = sorted(root.glob("*/good/*"))
    defects = sorted(path for path in root.glob("test/*/*") if path.parent.name != "good")
    generator.shuffle(good)
    generator.shuffle(defects)
    ends = [round(share * len(good)) for share in (0.4, 0.5, 0.8)]
    after = good[ends[1] : ends[2]]
    count = len(after) // 10
    return Parts(good[: ends[0]], good[ends[0] : ends[1]], after, good[ends[2] :], defects[:count], defects[count:])


def train(options: argparse.Namespace, trained: list[Path]) -> Run:
    """Train the old detector, unless FOLDER/run is there."""
    home, table = options.output / "run", options.output / "trained.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [("path", "split", "label", "category"), *((path, "train", 0, "part") for path in trained)]
        csv.writer(file).writerows(rows)
    if home.exists():
        return Run(home)
    source = {"class_path": "Table", "init_args": {"root": str(options.output), "table": table.name}}
    keys = {
        "model.weights": str(options.weights),
        "model.view.image_size": options.size,
        "data.source": source,
        "decision.false_alarm": RATE,
        "trainer.max_epochs": -1,
        "trainer.max_steps": options.steps,
        "trainer.check_val_every_n_epoch": None,
        "trainer.val_check_interval": options.steps // 4,
        "trainer.default_root_dir": str(home),
        "trainer.accelerator": "cpu",
        "test_after_fit": False,
    }
    return fit(options.config, keys=keys)


class Lamp:
    """A lamp that has aged.

    Args:
        part: What is left of its light: all values are multiplied by this.
    """

    def __init__(self, part: float) -> None:
        self.part = part

    def __call__(self, pixels: Pixels, name: str) -> Pixels:
        return np.rint(pixels * self.part).clip(0, 255).astype(np.uint8)


class Line:
    """The line: images in its light, and its journal.

    Args:
        output: FOLDER.
        shift: Changes the pixels of an image, (H, W, 3); it takes the image's name, too.
    """

    def __init__(self, output: Path, shift: Callable[[Pixels, str], Pixels]) -> None:
        self.folder, self.journal, self.shift = output / "line", output / "journal", shift
        for folder in (self.folder, self.journal):
            shutil.rmtree(folder, ignore_errors=True)

    def picture(self, path: Path, changed: bool) -> Pixels:
        """What the camera sees, (H, W, 3)."""
        pixels = np.asarray(Image.open(path).convert("RGB"))
        return self.shift(pixels, f"{path.parent.name}/{path.name}") if changed else pixels

    def watch(self, detector: Detector, name: str, paths: list[Path], changed: bool) -> list[str]:
        """Have images come along, judged as by `lit-ad watch`. Return the alarms of drift that stand."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        arrived = [str(folder / f"{number:04}-{path.parent.name}.png") for number, path in enumerate(paths)]
        for file, path in zip(arrived, paths, strict=True):
            Image.fromarray(self.picture(path, changed)).save(file)
        settings = JournalSettings(delta=DELTA, anomalous_rate=STATED, sample=1.0)
        with Journal(self.journal, detector, settings, "line") as journal:
            list(Watching(detector, PathFeed(arrived), None, journal))
            journal.writer.close()
            return journal.alarms()

    def label(self, after: int) -> dict[str, int]:
        """Have people label the images behind that number. Return how many of each label."""
        labels = Labels(self.journal, RATE)
        for each in labels.list_unlabelled("newest", most=10_000):
            kind = Path(each["name"]).stem.partition("-")[2]
            if each["id"] > after:
                labels.add(each["id"], "good" if kind == "good" else "defect", "" if kind == "good" else kind, "story")
        counts = labels.counts()
        labels.close()
        return counts

    def scores(self, detector: Detector, parts: Parts, changed: bool) -> tuple[list[float], list[float]]:
        """Of the images that measure: of the good ones and of the defects."""
        good, defects = (
            [detection.score for detection in detector.stream(self.picture(path, changed) for path in paths)]
            for paths in (parts.measured, parts.measured_defects)
        )
        return good, defects


def rate(wrong: int, images: int) -> str:
    """A number of wrong verdicts, with the 95 % interval of their rate."""
    ends = binomtest(wrong, images).proportion_ci(method="wilson")
    return f"{wrong} of {images} ({100 * ends.low:.1f} to {100 * ends.high:.1f} %)"


def misses_at_rate(good: list[float], defects: list[float]) -> str:
    """The misses at the threshold with RATE of these good images above it. It compares networks, without thresholds."""
    allowed = int(RATE * len(good))
    threshold = sorted(good)[-allowed - 1]
    return f"{sum(score <= threshold for score in defects)} at {allowed}"


def row(name: str, changed: bool, scores: tuple[list[float], list[float]], decision: Decision) -> Sequence[str]:
    """A row of the table of what was reached."""
    good, defects = scores
    alarms = sum(decision.anomalous(score, "part") for score in good)
    misses = sum(not decision.anomalous(score, "part") for score in defects)
    light = "changed" if changed else "as before"
    auroc = f"{compute_image_auroc(good, defects):.3f}"
    return name, light, rate(alarms, len(good)), rate(misses, len(defects)), misses_at_rate(good, defects), auroc


def decision_of(detector: Detector) -> Decision:
    decision = detector.card.decision
    assert decision is not None
    return decision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder; its FOLDER/run is taken if it is there")
    parser.add_argument("--config", default="l2bt_deit_tiny")
    parser.add_argument("--size", type=int, default=256, help="of images, as in benchmarks/shared.yaml")
    parser.add_argument("--weights", type=Path, required=True, help="the teacher's")
    parser.add_argument("--kind", choices=KINDS, default="light")
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--lamp", type=float, help="the part of the light that is left, in place of --kind")
    parser.add_argument("--steps", type=int, default=1200, help="of the training")
    parser.add_argument("--grow_steps", type=int, default=600)
    parser.add_argument("--held_out", choices=["both", "new"], default="new")
    parser.add_argument("--seed", type=int, default=0, help="of which image has which part")
    options = parser.parse_args()
    options.root, options.output, options.weights = (
        path.resolve() for path in (options.root, options.output, options.weights)
    )
    options.output.mkdir(parents=True, exist_ok=True)
    parts = divide(options.root, options.seed)
    run = train(options, parts.trained)
    shift = Shift(options.kind, options.strength) if options.lamp is None else Lamp(options.lamp)
    old, line = run.detector(), Line(options.output, shift)
    print(f"{len(parts.trained)} good images train, of which {len(decision_of(old).scores['part'])} are held out")

    alarms = line.watch(old, "before", parts.before, False)
    print(f"{len(parts.before)} good images before the change: {len(alarms)} alarms of drift")
    mixed = parts.after + parts.line_defects
    random.Random(options.seed).shuffle(mixed)
    line.watch(old, "after", mixed, True)
    file = JournalFile(line.journal, alone=False)
    events = file.events(kind="alarm")
    file.close()
    for event in events:
        print(f"After the change, alarm at image {event.image - len(parts.before)} of {len(mixed)}: {event.reason}")
    if not events:
        print(f"{len(mixed)} images after the change: no alarm")
    print("Labelled:", line.label(after=len(parts.before)))

    try:
        grow(run.directory, line.journal, options.grow_steps, options.held_out)
    except UserError as refusal:
        print(f"Refused: {refusal}")
    new = Detector.load(max(line.journal.glob("detectors/*/checkpoints")).parent)
    scores = {changed: line.scores(old, parts, changed) for changed in (False, True)}
    grown = {changed: line.scores(new, parts, changed) for changed in (False, True)}
    with_old, with_new = decision_of(old), decision_of(new)
    table = [
        row("old", False, scores[False], with_old),
        row("old", True, scores[True], with_old),
        row("grown", True, grown[True], with_new),
        row("grown", False, grown[False], with_new),
    ]
    headers = ["detector", "light", "false alarms", "misses", "misses at false alarms", "image AUROC"]
    print(tabulate(table, headers=headers, tablefmt="github", disable_numparse=True))
    alarms = line.watch(new, "grown", parts.measured, True)
    print(f"{len(parts.measured)} good images after the growth: {len(alarms)} alarms of drift")


if __name__ == "__main__":
    main()
