"""Every config trains, validates and tests, on small images with a small random teacher."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml

from lit_ad import methods
from lit_ad.commands.main import main
from lit_ad.methods import __all__ as METHODS
from tests.test_docs import check_that_it_parses, split

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if "model" in yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(
    config: Path,
    images: Path,
    shrink: Callable[[dict[str, Any]], list[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = yaml.safe_load(config.read_text())
    distilled = settings["model"]["class_path"].endswith(".Distillation")
    arguments = [
        *("distill" if distilled else "fit", "--config", config, "--trainer.fast_dev_run", "true"),
        *("--trainer.logger", "false", "--trainer.default_root_dir", tmp_path),
        *("--data.source", "lit_ad.data.MVTec", "--data.source.root", images, *shrink(settings)),
    ]
    if "category" in settings["data"]["source"].get("init_args", {}):
        arguments += ["--data.source.category", "null"]
    monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
    monkeypatch.chdir(tmp_path)
    main()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_weights_from_the_hub_have_a_tag(config: Path) -> None:
    """Without a tag, timm loads its default weights, which may be others than the paper's."""
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
    "ReContrast": "wide_resnet50_2.tv_in1k",
    "DeSTSeg": "resnet18.tv_in1k",
    "FoundAD": "vit_base_patch14_dinov2.lvd142m",
    "Dinomaly": "vit_base_patch14_reg4_dinov2.lvd142m",
    "INPFormer": "vit_base_patch14_reg4_dinov2.lvd142m",
}


def test_the_default_teachers_are_those_of_the_papers() -> None:
    """EfficientAD has a network of its own, which its weights identify."""
    arguments = {method: inspect.signature(getattr(methods, method)).parameters for method in METHODS}
    assert {method: of["backbone"].default for method, of in arguments.items() if "backbone" in of} == PAPERS
    assert set(METHODS) - set(PAPERS) == {"EfficientAD"} and "weights" in arguments["EfficientAD"]


LENGTHS = {"max_epochs", "max_steps"}
SETTINGS = {  # batch, epochs or steps, image size: of the papers, or of their authors' code
    "stfpm": (32, 100, 256),
    "mkd": (64, 600, 128),
    "mkd_cifar10": (64, 200, 256),
    "transformaly": (32, 30, 384),
    "l2bt": (4, 50, 1036),
    "efficient_ad_s": (1, 70_000, 256),
    "efficient_ad_m": (1, 70_000, 256),
    "mixed_teacher": (8, 100, 256),
    "multiclass_dcam": (32, 100, 256),
    "reverse_distillation": (16, 200, 256),
    "recontrast": (16, 2_000, 256),
    "multiclass_recontrast": (16, 5_000, 256),
    "destseg": (32, 5_000, 256),
    "foundad": (8, 2_000, 518),
    "multiclass_dinomaly": (16, 10_000, 448),
    "multiclass_dinomaly2": (16, 40_000, 448),
    "dinomaly2": (16, 5_000, 448),
    "inp_former": (16, 200, 448),
    "multiclass_inp_former": (16, 200, 448),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_those_of_the_papers(name: str) -> None:
    settings = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    trainer = settings["trainer"]
    (length,) = (trainer[key] for key in LENGTHS & set(trainer) if trainer[key] > 0)
    image_size = settings["model"]["init_args"]["view"]["image_size"]
    assert (settings["data"]["batch_size"], length, image_size) == SETTINGS[name]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_each_header_has_the_command(config: Path) -> None:
    header = "".join(line for line in config.read_text().splitlines(True) if line.startswith("#"))
    commands = [f"lit-ad {command} --config configs/{config.name}" for command in ("fit", "distill")]
    assert any(command in header for command in [*commands, "make demo"])


def header_commands() -> list[tuple[Path, list[str]]]:
    """What follows `lit-ad` in the header of each file of configs/, as a reader would copy it."""
    listed = []
    for path in sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file()):
        lines = path.read_text(encoding="utf-8").splitlines()
        block = "\n".join(line.removeprefix("#") for line in lines if line.startswith("#   ")).replace("\\\n", " ")
        for line in block.splitlines():
            program, *words = split(line)
            if program == "sbatch":
                words = ["benchmark" if "benchmark" in words[0] else "fit", *words[1:]]
            if program in ("lit-ad", "sbatch"):
                listed.append((path, words))
    return listed


@pytest.mark.parametrize(
    ("path", "words"), header_commands(), ids=lambda value: value.stem if isinstance(value, Path) else None
)
def test_the_commands_of_headers_parse(
    path: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_that_it_parses(path.name, words, tmp_path, monkeypatch, capsys, path if path in CONFIGS else CONFIGS[0])
