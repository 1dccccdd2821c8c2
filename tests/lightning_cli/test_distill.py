"""`lit-ad distill` writes a teacher, resumes, and refuses to resume from another network."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lit_ad.commands.main import main
from lit_ad.errors import UserError
from lit_ad.methods.efficient_ad import EfficientAD
from lit_ad.teachers.pdn import PDNTeacher

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for i in range(10):
        folder = root / "train" / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 60), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return root


def distill(home: Path, photographs: Path, weights: Path, *more: object) -> str:
    """Run the command, and return the error that ends it, if any."""
    arguments = [
        *("distill", "--config", ROOT / "configs/distill_pdn.yaml", "--data.source.root", photographs),
        *("--model.backbone", "resnet10t", "--model.weights", weights, "--model.width", 1 / 32),
        *("--model.view.image_size", 64, "--data.batch_size", 4, "--data.split.val_fraction", 0.2, "--model.lr", 0.01),
        *("--trainer.val_check_interval", 1, "--trainer.default_root_dir", home, "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--model.grey", 0, *more),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return str(stop.code or "")
    return ""


@pytest.fixture(scope="module")
def run(photographs: Path, resnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("distilled") / "run"
    every = ("--checkpoint.save_top_k", -1, "--checkpoint.filename", "{step}")
    assert not distill(home, photographs, resnet_file, "--trainer.max_steps", 8, *every)
    return home


def test_distill_writes_weights_that_a_teacher_loads(run: Path, tmp_path: Path) -> None:
    path = run / "pdn_small.safetensors"
    teacher = PDNTeacher(str(path), width=1 / 32)
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    state = {name: t for name, t in checkpoint["state_dict"].items() if name.startswith("pdn.")}
    assert checkpoint["global_step"] == 8
    assert {f"pdn.{name}" for name in load_file(path)} == set(state)
    assert all(torch.equal(tensor, state[f"pdn.{name}"]) for name, tensor in load_file(path).items())
    assert not [name for name in checkpoint["state_dict"] if name.startswith("teacher.")]
    assert (checkpoint["state_dict"]["target_deviation"] != 1).any()
    assert EfficientAD(str(path), width=1 / 32).teacher.fingerprint == teacher.fingerprint
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert (about["network"], about["backbone"], about["steps"]) == ("pdn_small", "resnet10t", "8")
    assert about["backbone_fingerprint"] == checkpoint["lit_ad"]["teacher"]
    assert json.loads(about["taps"]) == [2, 3]
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.safetensors is damaged"):
        PDNTeacher(str(tmp_path / "damaged.safetensors"), width=1 / 32)
    assert not list(run.rglob("*.tmp"))
    assert (run / "config.yaml").is_file()


@pytest.mark.parametrize("step", [3, 4])  # an epoch has two
def test_a_killed_distillation_is_resumed(
    run: Path, photographs: Path, resnet_file: Path, tmp_path: Path, step: int
) -> None:
    """From a checkpoint in the middle of the complete run, like the one that a killed run leaves."""
    killed = run / "checkpoints" / f"step={step}.ckpt"
    home = tmp_path / "run"
    assert not distill(home, photographs, resnet_file, "--trainer.max_steps", 8, "--ckpt_path", killed)
    whole, resumed = (load_file(of / "pdn_small.safetensors") for of in (run, home))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-6)


def test_another_backbone_cannot_resume(run: Path, photographs: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.pt"
    torch.save(timm.create_model("resnet10t").state_dict(), other)
    last = run / "checkpoints/last.ckpt"
    error = distill(run, photographs, other, "--trainer.max_steps", 9, "--ckpt_path", last)
    assert "this checkpoint distils a network with the weights" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.width", 1 / 16), "this checkpoint was trained with model.width 0.03125"),
        (("--model.images", 5), "this checkpoint was trained with model.images 10000"),
        (("--model.view.image_size", 128), "this checkpoint was trained with model.view"),
    ],
)
def test_what_is_fixed_before_the_first_step_stays(
    more: tuple[object, ...], message: str, run: Path, photographs: Path, resnet_file: Path
) -> None:
    last = run / "checkpoints/last.ckpt"
    assert message in distill(run, photographs, resnet_file, "--trainer.max_steps", 9, "--ckpt_path", last, *more)


def test_bad_settings_end_in_one_line(photographs: Path, resnet_file: Path, tmp_path: Path) -> None:
    assert "there is no folder" in distill(tmp_path / "run", tmp_path / "none", resnet_file)
