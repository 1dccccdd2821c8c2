"""Today's pixel threshold against each rule for pixels, with and without clean-up. Prints Markdown.

    python benchmarks/masks.py --data ../shared/data --sets hazelnut_toy mvtec_pill magnetic_tile glass_fibre \\
        --weights ../shared/weights/resnet18_stages1-3.safetensors --runs runs/masks   # 2 minutes of a core each

Each data set has MVTec's layout. A detector is trained on it with few steps, unless RUNS has its run already: two
fifths of its nominal images are held out, and decide alone, since the last step is taken. Nothing is chosen by a test
image, and one rule serves all sets: false-alarm rate and rate of pixels are those given, and a region counts from a
square with a 64th of the side of an image of median size.

Of each rule: SegF1 (the F1 of all pixels of the test), the share of true and of marked regions that match with an
intersection over union of 0.3 or more, the share of nominal test images with any marked pixel, or of their pixels, and
which of the two the rule promises. AUPIMO, which takes no threshold, is that of the maps.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import lit_ad
from lit_ad.data import MVTec
from lit_ad.data.masks import read_truth
from lit_ad.detector.decision import Decision
from lit_ad.detector.detection import Detection
from lit_ad.detector.held_out import HeldOutImages
from lit_ad.detector.marking import Marking
from lit_ad.detector.painter import FOUND, TRUTH, outline, outlined
from lit_ad.detector.pixel_rule import GivenCleanUp, PixelRule
from lit_ad.metrics import AUPIMO
from lit_ad.metrics.instances import match_regions

Mask = NDArray[np.bool_]
SIDE = 64  # of an image: a region counts from a square with this part of its side
SHOWN = 3  # pictures of each data set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of ResNet-18's first three stages")
    parser.add_argument("--config", default="reverse_distillation_resnet18")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--false_alarm", type=float, default=0.05)
    parser.add_argument("--pixel_rate", type=float, default=0.01)
    parser.add_argument("--pictures", type=Path, help="a folder for outlines of some anomalous images")
    arguments = parser.parse_args()
    for name in arguments.sets:
        measure(name, arguments)


def train(root: Path, run: Path, arguments: argparse.Namespace) -> None:
    """Train a detector whose held-out images decide alone."""
    sizes = [Image.open(sample.image).size for sample in MVTec(root).samples() if sample.split == "train"]
    area = max(1, round(float(np.median([width * height for width, height in sizes])) / SIDE**2))
    keys: dict[str, Any] = {
        "model.weights": arguments.weights,
        "data.val_fraction": 0.4,
        "data.batch_size": 8,
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
    lit_ad.fit(arguments.config, data=root, keys=keys)


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Print the table of a data set."""
    root, run = arguments.data / name, arguments.runs / name
    if not (run / "checkpoints").is_dir():
        train(root, run, arguments)
    detector = lit_ad.Detector.load(run)
    decision = detector.card.decision
    assert decision is not None and decision.pixel_rule.area is not None
    rules = list_rules(decision.pixel_rule.area, arguments.pixel_rate)
    markings = {title: decision.with_pixel_rule(rule).marking() for title, rule in rules.items()}
    counts: dict[str, dict[str, float]] = {title: defaultdict(float) for title in rules}
    seconds: dict[str, float] = defaultdict(float)
    overlaps, megapixels, shown = AUPIMO(), 0.0, 0
    for sample in MVTec(root).samples():
        if sample.split != "test":
            continue
        found = detector(sample.image)
        heat = found.anomaly_map
        assert heat is not None
        truth = np.zeros(heat.shape, bool) if sample.label == 0 else np.asarray(read_truth(sample, heat.shape))
        overlaps.update(torch.from_numpy(heat), torch.from_numpy(truth))
        megapixels += heat.size / 1e6
        masks = {}
        for title, marking in markings.items():
            assert marking is not None
            begin = time.process_time()
            masks[title] = marking(heat)
            seconds[title] += time.process_time() - begin
            count(counts[title], truth, masks[title], sample.label)
        if arguments.pictures is not None and sample.label == 1 and shown < SHOWN:
            shown += 1
            show(found, truth, masks, arguments.pictures / f"{name}-{shown}.png")
    aupimo = float(overlaps.compute())
    print(f"\n{name}: {describe(decision, markings['image, cleaned up'])}; AUPIMO {aupimo:.3f}\n")
    print("| rule | SegF1 | instance recall | precision | nominal images marked | nominal pixels marked | promised |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for title, rule in rules.items():
        promised = f"{100 * arguments.pixel_rate:g} % of pixels" if rule.kind == "pixel" else decision_rate(decision)
        print(row(title, counts[title], promised))
    each = ", ".join(f"{title} {1000 * took / megapixels:.1f}" for title, took in seconds.items())
    print(f"\nms of a core for the mask of a megapixel: {each}. {describe_cost(found, decision)}")


def list_rules(area: int, rate: float) -> dict[str, PixelRule]:
    """Return the rules that are compared, by what the table calls them."""
    plain = {
        "image": PixelRule("image", area=area),
        "region": PixelRule("region", area=area),
        "pixel": PixelRule("pixel", rate, area),
    }
    cleaned = {
        f"{title}, cleaned up": PixelRule(rule.kind, rate, area, GivenCleanUp()) for title, rule in plain.items()
    }
    return {title: {**plain, **cleaned}[title] for kind in plain for title in (kind, f"{kind}, cleaned up")}


def count(sums: dict[str, float], truth: Mask, mask: Mask, label: int) -> None:
    """Add an image's pixels and regions, 2 x (H, W), to the sums of a rule."""
    matches = match_regions(truth, mask)
    added = {
        **{"hits": (truth & mask).sum(), "marked": mask.sum(), "true": truth.sum()},
        **{"defects": len(matches.hit), "matched": matches.hit.sum(), "regions": matches.marked},
    }
    if label == 0:
        added |= {"images": 1, "alarms": mask.any(), "shares": mask.mean()}
    for name, value in added.items():
        sums[name] += float(value)


def row(title: str, sums: dict[str, float], promised: str) -> str:
    """Return a line of the table."""
    f1 = 2 * sums["hits"] / (sums["marked"] + sums["true"])
    recall, precision = sums["matched"] / sums["defects"], sums["matched"] / max(sums["regions"], 1)
    rate = f"{100 * sums['alarms'] / sums['images']:.1f} % ({sums['alarms']:.0f}/{sums['images']:.0f})"
    share = f"{100 * sums['shares'] / sums['images']:.2f} %"
    return f"| {title} | {f1:.3f} | {recall:.3f} | {precision:.3f} | {rate} | {share} | {promised} |"


def decision_rate(decision: Decision) -> str:
    """Return what is promised of nominal images."""
    return f"{100 * decision.kept_rate():.3g} % of images"


def describe(decision: Decision, marking: Marking | None) -> str:
    """Return what the held-out images set."""
    assert marking is not None and marking.clean_up is not None
    held = len(next(iter(decision.scores.values())))
    learned = marking.clean_up
    return (
        f"{held} images held out; regions from {decision.pixel_rule.area} pixels; thresholds {marking.threshold:.3g} "
        f"and {learned.low:.3g}; closing {learned.closing}, holes and areas {learned.holes} pixels"
    )


def describe_cost(found: Detection, decision: Decision) -> str:
    """Return what a held-out image takes, and what the file of the detector holds of all of them."""
    assert found.anomaly_map is not None
    taken = []
    for area in (None, decision.pixel_rule.area):
        begin = time.process_time()
        HeldOutImages(area).add("", found.score, found.anomaly_map, None)
        taken.append(1e9 * (time.process_time() - begin) / found.anomaly_map.size)
    kept = len(json.dumps(decision.to_dict()["pixels"])) / 2**10
    return (
        f"A held-out map takes {taken[0]:.0f} ms for a megapixel, {taken[1]:.0f} with the search for regions. The "
        f"histogram of pixels has {kept:.0f} KiB"
    )


def show(found: Detection, truth: Mask, masks: dict[str, Mask], file: Path) -> None:
    """Write the image with the outline of the truth, and of each rule's mask."""
    panels = [outlined(found.image, [(outline(truth), TRUTH)])]
    panels += [outlined(found.image, [(outline(truth), TRUTH), (outline(mask), FOUND)]) for mask in masks.values()]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(panels)).save(file)


if __name__ == "__main__":
    main()
