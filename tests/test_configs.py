"""Every config trains, validates and tests: a fast run of each on small images, with a small random teacher."""

import inspect
import sys
from pathlib import Path

import pytest
import timm
import yaml

from lit_ad import methods
from lit_ad.methods import __all__ as METHODS
from lit_ad.run.main import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if "model" in yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(
    config: Path,
    images: Path,
    resnet_file: Path,
    vit_file: Path,
    pdn_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = yaml.safe_load(config.read_text())
    distilled = settings["model"]["class_path"].endswith(".Distillation")
    vit = any(name in settings["model"]["class_path"] for name in ("L2BT", "Transformaly", "Dinomaly"))
    backbone, weights = ("deit_tiny_patch16_224", vit_file) if vit else ("resnet10t", resnet_file)
    taps = settings["model"]["init_args"].get("taps")
    arguments = [
        *("distill" if distilled else "fit", "--config", config, "--trainer.fast_dev_run", "true"),
        *("--trainer.logger", "false", "--trainer.default_root_dir", tmp_path),
        *("--data.source", "lit_ad.data.MVTec", "--data.source.root", images),
        *("--model.view.image_size", 64, "--data.batch_size", 4),
    ]
    if settings["model"]["class_path"].endswith("EfficientAD"):
        arguments += ["--model.weights", pdn_file, "--model.width", 1 / 16, "--model.size", "small"]
        arguments += ["--data.unrelated", images, "--model.view.image_size", 256]
    else:
        arguments += ["--model.backbone", backbone, "--model.weights", weights]
    if "deep_backbone" in settings["model"]["init_args"]:
        arguments += ["--model.deep_backbone", backbone, "--model.deep_weights", weights]
    if taps is not None and not vit:
        arguments += ["--model.taps", str([tap % 4 for tap in taps])]
    if "category" in settings["data"]["source"].get("init_args", {}):
        arguments += ["--data.source.category", "null"]
    if settings["model"]["init_args"].get("view", {}).get("tile"):
        arguments += ["--model.view.tile", 32]
    if settings["model"]["init_args"].get("view", {}).get("crop"):
        arguments += ["--model.view.crop", 32]
    monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
    monkeypatch.chdir(tmp_path)
    main()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_weights_from_the_hub_have_their_tag(config: Path) -> None:
    """Without one, timm gives its newest weights, which no paper used."""
    arguments = yaml.safe_load(config.read_text())["model"]["init_args"]
    for network in ("", "deep_"):
        if arguments.get(f"{network}weights") == "hub":
            name = arguments[f"{network}backbone"]
            assert "." in name and timm.is_model_pretrained(name)


PAPERS = {
    "STFPM": "resnet18.tv_in1k",
    "DCAM": "resnet18.tv_in1k",
    "DSKD": "resnet18.tv_in1k",
    "MixedTeacher": "resnet18.tv_in1k",
    "MKD": "vgg16.tv_in1k",
    "Transformaly": "vit_base_patch16_384.orig_in21k_ft_in1k",
    "L2BT": "vit_base_patch14_reg4_dinov2.lvd142m",
    "ReverseDistillation": "wide_resnet50_2.tv_in1k",
    "Dinomaly": "vit_base_patch14_reg4_dinov2.lvd142m",
}


@pytest.mark.parametrize("method", METHODS)
def test_the_default_teacher_is_the_papers(method: str) -> None:
    arguments = inspect.signature(getattr(methods, method)).parameters
    assert method not in PAPERS or arguments["backbone"].default == PAPERS[method]
    assert method in PAPERS or "backbone" not in arguments


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_header_gives_the_command(config: Path) -> None:
    header = "".join(line for line in config.read_text().splitlines(True) if line.startswith("#"))
    commands = [f"lit-ad {command} --config configs/{config.name}" for command in ("fit", "distill")]
    assert any(command in header for command in [*commands, "make demo"])
