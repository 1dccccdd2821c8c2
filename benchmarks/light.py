"""What training on other light costs, and gains on shifted copies of a test set. Prints a Markdown table.

    python benchmarks/light.py --root ../shared/data/hazelnut_toy \\
        --weights ../shared/weights/resnet18_stages1-3.safetensors      # 4 minutes of one core

STFPM with ResNet-18 is trained as it is and with `data.augment light`, in as many steps. Both are tested on the test
set as it is, on copies under all kinds of light at three strengths, and on copies under each kind alone (`lit-ad data
shift`). A cell has image AUROC / AUPRO / false alarms / misses, at the thresholds of held-out images as they are.
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
    """A command, `lit-ad WORDS`."""
    subprocess.run([sys.executable, "-m", "lit_ad", *map(str, words)], check=True, capture_output=True)


def cell(home: Path) -> str:
    """The figures of a test."""
    row = json.loads((home / "metrics.json").read_text(encoding="utf-8"))["rows"]["pooled"]
    alarms = f"{row['false_alarms']}/{row['nominal_images']}"
    misses = f"{row['misses']}/{row['anomalous_images']}"
    return f"{row['image_auroc']:.3f} / {row['aupro_30']:.3f} / {alarms} / {misses}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a category in MVTec AD's layout")
    parser.add_argument("--weights", type=Path, required=True, help="ResNet-18's")
    parser.add_argument("--kinds", nargs="+", default=list(dict(SHIFTS)), help="of shifts")
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
        print(f"| not shifted | {' | '.join(map(cell, homes))} |", flush=True)
        for kind, strength in (shift for shift in SHIFTS if shift[0] in options.kinds):
            copy = Path(folder, f"{kind}-{strength}")
            run("data", "shift", options.root, "--kind", kind, "--strength", strength, "--output", copy)
            for home in homes:
                tested = home / copy.name
                run("test", home, "--data.source.root", copy, "--trainer.default_root_dir", tested)
            print(f"| {kind} {strength} | {' | '.join(cell(home / copy.name) for home in homes)} |", flush=True)


if __name__ == "__main__":
    main()
