"""Compare losses and metrics of trainings by one process, by two with half the batch each, and by one in bfloat16.

    python benchmarks/processes.py --root ../shared/data/hazelnut_toy --weights ../shared/weights

The folder of weights has resnet18_stages1-3, vgg16_blocks1-3 and deit_tiny_patch16_224 as .safetensors. Each run is one
`lit-ad fit` in OUTPUT. Runs that are finished there are not repeated.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = {  # config, image size, epochs, weights
    "STFPM": ("stfpm", 256, 10, "resnet18_stages1-3"),
    "MKD": ("mkd_vgg16_blocks1-3", 128, 20, "vgg16_blocks1-3"),
    "Transformaly": ("transformaly_deit_tiny", 224, 4, "deit_tiny_patch16_224"),
    "L2BT": ("l2bt_deit_tiny", 224, 20, "deit_tiny_patch16_224"),
}
BATCH = 8  # if the images of an epoch were odd, two processes would train on one of them twice
RUNS = {"one": (1, "32-true"), "two": (2, "32-true"), "bf16": (1, "bf16-mixed")}
Report = tuple[list[float], dict[str, float]]


def fit(method: str, processes: int, precision: str, home: Path, options: argparse.Namespace) -> Report:
    """Train and test a method, unless `home` has the run already. Return the loss of each step, and the metrics."""
    config, size, epochs, weights = METHODS[method]
    if not (home / "metrics.json").is_file():
        source = {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(options.root)}}
        arguments = [
            *("--config", ROOT / f"configs/{config}.yaml", "--data.source", json.dumps(source)),
            *("--model.weights", options.weights / f"{weights}.safetensors", "--heatmaps.enabled", "false"),
            *("--model.view.image_size", size),
            *("--data.batch_size", BATCH // processes, "--data.loading.eval_batch_size", 1),
            *("--data.split.val_fraction", 0.2, "--cache.enabled", "false"),
            *("--trainer.max_epochs", epochs, "--trainer.check_val_every_n_epoch", 1),
            *("--trainer.accelerator", "cpu", "--trainer.devices", processes, "--trainer.precision", precision),
            *("--trainer.log_every_n_steps", 1),
            *("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", home, "--trainer.default_root_dir", home),
            *("--overwrite", "true"),  # an interrupted run
        ]
        if method == "STFPM":
            arguments += ["--model.backbone", "resnet18"]
        subprocess.run([sys.executable, "-m", "lit_ad", "fit", *map(str, arguments)], check=True)
    with max(home.glob("lightning_logs/*/metrics.csv")).open() as file:
        losses = [float(row["train/loss_step"]) for row in csv.DictReader(file) if row["train/loss_step"]]
    return losses, json.loads((home / "metrics.json").read_text())["rows"]["pooled"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a data set in MVTec's layout")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/processes"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    columns = ("image_auroc", "pixel_auroc")
    print("| method | steps | largest relative difference of a step's loss, two processes |", end="")
    print("".join(f" {c}: one / two / bf16 |" for c in columns))
    for method in options.methods:
        runs = {
            name: fit(method, processes, precision, options.output / f"{method}_{name}", options)
            for name, (processes, precision) in RUNS.items()
        }
        pairs = zip(runs["one"][0], runs["two"][0], strict=True)
        worst = max(abs(b - a) / abs(a) for a, b in pairs)
        cells = [" / ".join(f"{runs[name][1][column]:.5f}" for name in RUNS) for column in columns]
        print(f"| {method} | {len(runs['one'][0])} | {worst:.1e} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
