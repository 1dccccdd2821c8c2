"""Today's pixel threshold against each rule for pixels, with and without clean-up, light and windows. Prints Markdown.

    python benchmarks/masks.py --data ../shared/data --sets hazelnut_toy mvtec_pill magnetic_tile \\
        --weights ../shared/weights/deit_tiny_patch16_224.safetensors --runs runs/masks
    python benchmarks/masks.py --data ../shared/data --sets glass_fibre --trainings plain light windows \\
        --weights ../shared/weights/deit_tiny_patch16_224.safetensors --runs runs/masks

Each data set has MVTec's layout. A detector is trained on it with few steps, as it is, with `data.augment light`, or on
windows of the image at its own size, unless RUNS has its run already: two fifths of its nominal images are held out,
and decide alone, since the last step is taken. Nothing is chosen by a test image, and one rule serves all sets:
false-alarm rate and rate of pixels are those given, and a region counts from a square with a 64th of the side of an
image of median size.

Each detector is tested on the test set as it is, and on the copy that `lit-ad data shift` writes of it: a cell has both
figures. A map is computed once, and decided about by each rule. Of each rule: SegF1 (the F1 of all pixels of the test,
and its mean over the anomalous images), the share of true and of marked regions that match with an intersection over
union of 0.3 or more, how many of the nominal test images have a marked pixel, and of their pixels are marked, and which
of the two the rule promises. AUPIMO, which takes no threshold, is that of the maps.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import lit_ad
from lit_ad.batch import Sample
from lit_ad.data import MVTec
from lit_ad.data.masks import read_truth
from lit_ad.detector.decision import Decision
from lit_ad.detector.decision_keys import DecisionKeys
from lit_ad.detector.detection import Detection
from lit_ad.detector.held_out import HeldOutImages
from lit_ad.detector.marking import Marking
from lit_ad.detector.painter import FOUND, TRUTH, draw_outlines, outline
from lit_ad.detector.pixel_rule import PixelKind
from lit_ad.metrics import AUPIMO
from lit_ad.metrics.instances import match_regions

Mask = NDArray[np.bool_]
SIDE = 64  # of an image: a region counts from a square with this part of its side
SHOWN = 3  # pictures of each test
STRENGTH = 0.3  # of the light of shifted copies
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "light": {"data.augment": "light"},
    "windows": {
        "model.view": {"image_size": None, "tile": 256, "overlap": 64},
        "data.loading.train_tiles": "random",
        "data.loading.cache_images": True,
    },
}


@dataclass
class Test:
    """What is counted of a test."""

    sums: dict[str, dict[str, float]]  # by rule
    overlaps: AUPIMO = field(default_factory=AUPIMO)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # for the masks of each rule
    megapixels: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of the teacher")
    parser.add_argument("--trainings", nargs="+", default=["plain", "light"], choices=list(TRAININGS))
    parser.add_argument("--config", default="dinomaly_deit_tiny")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--false_alarm", type=float, default=0.05)
    parser.add_argument("--pixel_rate", type=float, default=0.01)
    parser.add_argument("--pictures", type=Path, help="a folder for outlines of some anomalous images")
    arguments = parser.parse_args()
    print(
        "\n| data, training: AUPIMO | rule | SegF1 | by image | instance recall | precision | nominal images marked | "
        "nominal pixels marked, % | asked |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    remarks = [measure(name, training, arguments) for name in arguments.sets for training in arguments.trainings]
    print("\n".join(["", *remarks]))


def train(root: Path, run: Path, training: str, arguments: argparse.Namespace) -> None:
    """Train a detector whose held-out images decide alone."""
    sizes = [Image.open(sample.image).size for sample in MVTec(root).samples() if sample.split == "train"]
    area = max(1, round(float(np.median([width * height for width, height in sizes])) / SIDE**2))
    keys: dict[str, Any] = {
        "model.weights": arguments.weights,
        "data.split.val_fraction": 0.4,
        "data.batch_size": arguments.batch_size,
        "decision.false_alarm": arguments.false_alarm,
        "decision.area": area,
        "trainer.max_steps": arguments.steps,
        "trainer.max_epochs": 1000,
        "trainer.check_val_every_n_epoch": 10**9,
        "trainer.default_root_dir": run,
        "checkpoint.monitor": None,
        "cache.enabled": False,
        "test_after_fit": False,
    }
    lit_ad.fit(arguments.config, data=root, keys=keys | TRAININGS[training])


def measure(name: str, training: str, arguments: argparse.Namespace) -> str:
    """Print the rows of a detector, and return what it took."""
    root, shifted = arguments.data / name, arguments.runs / f"{name}-shifted"
    if not shifted.is_dir():
        words = ["data", "shift", root, "--kind", "light", "--strength", STRENGTH, "--output", shifted]
        subprocess.run([sys.executable, "-m", "lit_ad", *map(str, words)], check=True, capture_output=True)
    run, begin = arguments.runs / f"{name}-{training}", time.process_time()
    if not (run / "checkpoints").is_dir():
        train(root, run, training, arguments)
    trained = time.process_time() - begin
    detector = lit_ad.Detector.load(run)
    decision = detector.card.decision
    assert decision is not None
    rules = list_rules(arguments.pixel_rate)
    markings: dict[str, Marking] = {}
    for title, rule in rules.items():
        marking = decision.with_keys(rule).marking()
        assert marking is not None
        markings[title] = marking
    pictures = None if arguments.pictures is None else arguments.pictures / f"{name}-{training}"
    tests = [test(detector, where, markings, pictures) for where in (root, shifted)]
    aupimo = " / ".join(f"{float(each.overlaps.compute()):.3f}" for each in tests)
    for title, rule in rules.items():
        asked = f"{100 * arguments.pixel_rate:g} % of pixels" if rule.pixel == "pixel" else decision_rate(decision)
        first = f"{name}, {training}: {aupimo}" if title == "image" else ""
        print(row(first, title, [each.sums[title] for each in tests], asked), flush=True)
    seconds, megapixels = tests[0].seconds, tests[0].megapixels
    masks = ", ".join(f"{title} {1000 * took / megapixels:.1f}" for title, took in seconds.items())
    return (
        f"- {name}, {training}: {trained:.0f} s of a core for the training, "
        f"{describe(decision, markings['image, cleaned up'])}. ms of a core for the mask of a megapixel: {masks}. "
        f"{describe_cost(detector(next(iter(MVTec(root).samples())).image), decision)}"
    )


def test(detector: lit_ad.Detector, root: Path, markings: Mapping[str, Marking], pictures: Path | None) -> Test:
    """Judge the test images of a data set once, and count each rule's masks."""
    counted = Test({title: defaultdict(float) for title in markings})
    samples = [sample for sample in MVTec(root).samples() if sample.split == "test"]
    anomalous = [sample for sample in samples if sample.label == 1]
    shown = anomalous[len(anomalous) // (2 * SHOWN) :: max(len(anomalous) // SHOWN, 1)]
    for sample in samples:
        detection = detector(sample.image)
        heat = detection.anomaly_map
        assert heat is not None
        truth = read_mask(sample, heat.shape)
        counted.overlaps.update(torch.from_numpy(heat), torch.from_numpy(truth))
        counted.megapixels += heat.size / 1e6
        masks = {}
        for title, marking in markings.items():
            begin = time.process_time()
            masks[title] = marking(heat)
            counted.seconds[title] += time.process_time() - begin
            count(counted.sums[title], truth, masks[title], sample.label)
        if pictures is not None and sample in shown:
            show(detection, truth, masks, pictures / root.name / f"{sample.defect}-{sample.image.stem}.png")
    return counted


def read_mask(sample: Sample, size: tuple[int, ...]) -> Mask:
    """The true mask of an image, (H, W)."""
    return np.zeros(size, bool) if sample.label == 0 else np.asarray(read_truth(sample, (size[0], size[1])))


def list_rules(rate: float) -> dict[str, DecisionKeys]:
    """Return the keys of the rules that are compared, by what the table calls them."""
    rules = {}
    for kind in get_args(PixelKind):
        rules[kind] = DecisionKeys(pixel=kind, pixel_rate=rate if kind == "pixel" else None)
        rules[f"{kind}, cleaned up"] = DecisionKeys(pixel=kind, pixel_rate=rate, clean_up=True)
    return rules


def count(sums: dict[str, float], truth: Mask, mask: Mask, label: int) -> None:
    """Add an image's pixels and regions, 2 x (H, W), to the sums of a rule."""
    matches = match_regions(truth, mask)
    added = {
        **{"hits": (truth & mask).sum(), "marked": mask.sum(), "true": truth.sum()},
        **{"defects": len(matches.hit), "matched": matches.hit.sum(), "regions": matches.marked},
    }
    if label == 0:
        added |= {"images": 1, "alarms": mask.any(), "shares": mask.mean()}
    elif truth.any():
        added |= {"anomalous": 1, "f1s": 2 * added["hits"] / (added["marked"] + added["true"])}
    for name, value in added.items():
        sums[name] += float(value)


def row(first: str, title: str, tests: list[dict[str, float]], asked: str) -> str:
    """Return a line of the table: of each figure that of each test."""
    cells: dict[str, list[str]] = defaultdict(list)
    for sums in tests:
        cells["f1"].append(f"{2 * sums['hits'] / (sums['marked'] + sums['true']):.3f}")
        cells["by image"].append(f"{sums['f1s'] / sums['anomalous']:.3f}")
        cells["recall"].append(f"{sums['matched'] / sums['defects']:.3f}")
        cells["precision"].append(f"{sums['matched'] / sums['regions']:.3f}" if sums["regions"] else "none")
        cells["images"].append(f"{sums['alarms']:.0f}")
        cells["pixels"].append(f"{100 * sums['shares'] / sums['images']:.2f}")
    cells["images"][-1] += f" of {tests[0]['images']:.0f}"
    return f"| {first} | {title} | {' | '.join(' / '.join(cell) for cell in cells.values())} | {asked} |"


def decision_rate(decision: Decision) -> str:
    """Return what is promised of nominal images."""
    return f"{100 * decision.kept_rate():.3g} % of images"


def describe(decision: Decision, marking: Marking) -> str:
    """Return what the held-out images set."""
    assert marking.clean_up is not None
    held = len(next(iter(decision.scores.values())))
    learned = marking.clean_up
    return (
        f"{held} images held out, regions from {decision.pixel_rule.area} pixels, thresholds {marking.threshold:.3g} "
        f"and {learned.low:.3g}, closing {learned.closing}, holes and areas {learned.holes} pixels"
    )


def describe_cost(detection: Detection, decision: Decision) -> str:
    """Return what a held-out image takes, and what the file of the detector holds of all of them."""
    assert detection.anomaly_map is not None
    taken = []
    for area in (None, decision.pixel_rule.area):
        begin = time.process_time()
        HeldOutImages(area).add("", detection.score, detection.anomaly_map, None)
        taken.append(1e9 * (time.process_time() - begin) / detection.anomaly_map.size)
    kept = len(json.dumps(decision.to_dict()["pixels"])) / 2**10
    return (
        f"A held-out map takes {taken[0]:.0f} ms for a megapixel, {taken[1]:.0f} with the search for regions. The "
        f"histogram of pixels has {kept:.0f} KiB"
    )


def show(detection: Detection, truth: Mask, masks: dict[str, Mask], file: Path) -> None:
    """Write the image with the outline of the truth, and its heatmap with that of each rule's mask beside it."""
    heat = detection.heatmap()
    assert heat is not None
    panels = [draw_outlines(detection.image, [(outline(truth), TRUTH)])]
    panels += [draw_outlines(heat, [(outline(truth), TRUTH), (outline(mask), FOUND)]) for mask in masks.values()]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(panels)).save(file)


if __name__ == "__main__":
    main()
