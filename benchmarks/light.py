"""Measure how training with `data.augment light` changes the results under other light. Prints a Markdown table.

    python benchmarks/light.py --root ../shared/data/hazelnut_toy \\
        --weights ../shared/weights/resnet18_stages1-3.safetensors      # 4 minutes of one core

STFPM with ResNet-18 is trained without and with `data.augment light`, in the same number of steps. Both detectors are
tested on the original test set, on copies with all kinds of light at three strengths, and on copies with one kind of
light each (`lit-ad data shift`). A cell has image AUROC / AUPRO / false alarms / misses, at the thresholds that the
original held-out images set.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

STRENGTH = 0.3
SHIFTS = [
    *(("light", strength) for strength in (0.15, STRENGTH, 0.5)),
    *((kind, STRENGTH) for kind in ("brightness", "white_balance", "shadow", "noise", "contrast", "gamma")),
]


def run(*words: object) -> None:
    """Run the command `lit-ad WORDS`."""
    subprocess.run([sys.executable, "-m", "lit_ad", *map(str, words)], check=True, capture_output=True)


def format_cell(home: Path) -> str:
    """Return the figures of a test as a cell of the table."""
    row = json.loads((home / "metrics.json").read_text(encoding="utf-8"))["rows"]["pooled"]
    alarms = f"{row['false_alarms']}/{row['nominal_images']}"
    misses = f"{row['misses']}/{row['anomalous_images']}"
    return f"{row['image_auroc']:.3f} / {row['aupro_30']:.3f} / {alarms} / {misses}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a category in MVTec AD's layout")
    parser.add_argument("--weights", type=Path, required=True, help="weights of ResNet-18")
    parser.add_argument("--kinds", nargs="+", default=list(dict(SHIFTS)), help="kinds of light")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    print("| test | as it is | `data.augment light` |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder, "plain"), Path(folder, "light")]
        common = ["--config", "stfpm", "--model.weights", options.weights, "--data.source.root", options.root]
        common += [
            "--trainer.max_epochs",
            options.epochs,
            "--heatmaps.enabled",
            "false",
            "--decision.false_alarm",
            0.15,
        ]
        for home in homes:
            words = [] if home.name == "plain" else ["--data.augment", "light"]
            run("fit", *common, "--trainer.default_root_dir", home, *words)
        print(f"| not shifted | {' | '.join(map(format_cell, homes))} |", flush=True)
        for kind, strength in (shift for shift in SHIFTS if shift[0] in options.kinds):
            copy = Path(folder, f"{kind}-{strength}")
            run("data", "shift", options.root, "--kind", kind, "--strength", strength, "--output", copy)
            for home in homes:
                tested = home / copy.name
                run("test", home, "--data.source.root", copy, "--trainer.default_root_dir", tested)
            print(f"| {kind} {strength} | {' | '.join(format_cell(home / copy.name) for home in homes)} |", flush=True)


if __name__ == "__main__":
    main()
