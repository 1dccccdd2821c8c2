"""Each benchmark in configs/benchmark and benchmarks; those of published data on small trees in its layout."""

import csv
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lit_ad import data
from lit_ad.benchmark.tables import row_of
from lit_ad.commands.benchmark import STOP
from lit_ad.commands.main import main, run
from lit_ad.evaluation.results import Results
from lit_ad.shipped_configs import find_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted([*(ROOT / "configs/benchmark").glob("*.yaml"), *(ROOT / "benchmarks").glob("*.yaml")])
Shrink = Callable[[dict[str, Any]], list[object]]

MVTEC = "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
LOCO = "breakfast_box juice_bottle pushpins screw_bag splicing_connectors"
MVTEC2 = "can fabric fruit_jelly rice sheet_metal vial wallplugs walnuts"
DEFAULT = ["image_auroc", "pixel_auroc", "aupro_30"]  # of the command
TRAIN = 8  # nominal images, so that those left to train on make a whole batch of 4 for Dinomaly, which drops others
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"


def save(file: Path, mask: int = 0) -> None:
    """Write a random image, or a mask with a square of this value."""
    pixels = np.random.default_rng(len(str(file))).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    if mask:
        pixels = np.zeros((32, 40), np.uint8)
        pixels[8:20, 10:25] = mask
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def save_several(folder: Path, ending: str = ".png", count: int = 2, mask: int = 0) -> None:
    """Write images, or masks, 000, 001, ... to a folder."""
    for i in range(count):
        save(folder / f"{i:03}{ending}", mask)


def mvtec(root: Path) -> None:
    save_several(root / "train/good", count=TRAIN)
    save_several(root / "test/good")
    save_several(root / "test/broken")
    save_several(root / "ground_truth/broken", "_mask.png", mask=255)


def loco(root: Path) -> None:
    save_several(root / "train/good", count=TRAIN)
    save_several(root / "validation/good")
    save_several(root / "test/good")
    for number, kind in enumerate(("logical_anomalies", "structural_anomalies")):
        save_several(root / "test" / kind)
        save_several(root / "ground_truth" / kind, "/000.png", mask=255 - number)
    entry = {"saturation_threshold": 0.5, "relative_saturation": True}
    defects = [{"defect_name": str(value), "pixel_value": value, **entry} for value in (255, 254)]
    (root / "defects_config.json").write_text(json.dumps(defects))


def mvtec2(root: Path) -> None:
    save_several(root / "train/good", "_regular.png", TRAIN)
    for folder in ("validation/good", "test_public/good", "test_public/bad", "test_private"):
        save_several(root / folder, "_regular.png")
    save_several(root / "test_public/ground_truth/bad", "_regular_mask.png", mask=255)


def visa(root: Path) -> None:
    rows = [("object", "split", "label", "image", "mask")]
    for name in VISA.split():
        for i in range(TRAIN + 2):
            image = f"{name}/Data/Images/Normal/{i:04}.JPG"
            save(root / image)
            rows.append((name, "train" if i < TRAIN else "test", "normal", image, ""))
        for i in range(2):
            image, mask = f"{name}/Data/Images/Anomaly/{i:03}.JPG", f"{name}/Data/Masks/Anomaly/{i:03}.png"
            save(root / image)
            save(root / mask, 3)
            rows.append((name, "test", "anomaly", image, mask))
    (root / "split_csv").mkdir()
    with (root / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def cifar10(root: Path) -> None:
    for name in CIFAR10.split():
        for i in range(3):
            save(root / f"train/{name}/{i:05}.png")
            save(root / f"test/{name}/{i:05}.png")


def each(names: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def make_each(root: Path) -> None:
        for name in names.split():
            make(root / name)

    return make_each


LAYOUTS = {  # the data's folder, how it is made, its tasks
    "mvtec": ("data/mvtec", each(MVTEC, mvtec), MVTEC.split()),
    "visa": ("data/visa", visa, VISA.split()),
    "loco": ("data/mvtec_loco", each(LOCO, loco), LOCO.split()),
    "mvtec2": ("data/mvtec_ad_2", each(MVTEC2, mvtec2), MVTEC2.split()),
    "cifar10": (
        "data/cifar10",
        cifar10,
        [f"{how}/{name}" for how in ("unimodal", "multimodal") for name in CIFAR10.split()],
    ),
}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_benchmark_configs_have_a_command_known_methods_and_sourced_numbers(file: Path) -> None:
    """Each has its command, methods that exist, and only published numbers that the method's own config names."""
    said = yaml.safe_load(file.read_text())
    assert f"lit-ad benchmark --config {file.relative_to(ROOT).as_posix()}" in file.read_text()
    for source in said["sources"].values():
        name = source["class_path"].rsplit(".", 1)[-1]
        assert hasattr(data, name) or name in ("VisA", "MVTecLOCO", "MVTecAD2")
    for method in said["methods"].values():
        text = find_config(method["config"]).read_text()
        header = "".join(line for line in text.splitlines(True) if line.startswith("#"))
        published = method.get("published", {})
        assert not published or published["source"]
        for numbers in (value for key, value in published.items() if key != "source"):
            assert all(f"{number:.3f}" in header for number in numbers.values())


@pytest.fixture(params=LAYOUTS)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a benchmark whose data and configurations are in the current directory, and whose cells exist."""
    folder, make, _ = LAYOUTS[request.param]
    make(tmp_path / folder)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in STOP}  # which the command takes for its process
    empty = ["--index", "9999", "--of", "10000"]  # a share without cells: all are made, and none is done
    run(["benchmark", "--config", f"configs/benchmark/{request.param}.yaml", "--seeds", "[0]", *empty])
    yield request.param
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_every_published_number_has_its_row(made: str) -> None:
    """The tasks are those of the data set, and the tables show each published number beside our metric."""
    said, tasks = yaml.safe_load(Path(f"configs/benchmark/{made}.yaml").read_text()), LAYOUTS[made][2]
    report = json.loads(Path(said["output"], "results.json").read_text())
    assert {cell["task"] for cell in report["cells"]} == {*tasks}
    metrics = said.get("metrics", DEFAULT)
    for method in said["methods"].values():
        for row, numbers in method.get("published", {}).items():
            assert row == "source" or (row in ("mean", *tasks) and {*numbers} <= {*metrics})


@pytest.mark.slow
def test_every_method_runs(made: str, shrink: Shrink, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell of each runs with its configuration and arguments, a small teacher and one step, and has every metric of
    the benchmark."""
    said = yaml.safe_load(Path(f"configs/benchmark/{made}.yaml").read_text())
    for method in said["methods"]:
        home = Path(said["output"], method, LAYOUTS[made][2][0], "seed-0").absolute()
        asked = json.loads((home / "asked.json").read_text())
        more = [*("--trainer.default_root_dir", home, "--trainer.max_steps", 1, "--trainer.logger", "false")]
        arguments = ["fit", "--config", home / "cell.yaml", *asked["arguments"], *shrink(asked["config"]), *more]
        monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        main()
        row = row_of(Results.load(home / "metrics.json"))
        for metric in said.get("metrics", DEFAULT):
            assert 0 <= row[metric] <= 1, f"{method}: {metric}"
