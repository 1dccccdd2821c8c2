"""On a CUDA GPU every method gives the CPU's numbers, also in mixed precision, compiled, distributed and exported.

Without a GPU these tests are skipped. `make gpu` runs them, and then measures. By default, TF32 rounds convolutions to
10 bits on a GPU; it is off where numbers are compared with the CPU's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lit_ad.batch import Others
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Perlin
from lit_ad.deploy.export import export
from lit_ad.detector.detector import Detector
from lit_ad.image.view import View
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network
from lit_ad.training import Calibration
from tests.methods.training import made, trainer_in
from tests.test_precision import fit_and_test_again

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
PARTS = 1e-3  # of a number, by which it may differ from the CPU's


@pytest.fixture
def without_tf32() -> Iterator[None]:
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def trained(name: str, small_models: dict[str, dict[str, Any]], images: Path, home: Path, accelerator: str) -> Method:
    """Return a small method after three training steps."""
    view = View(**small_models[name]["init_args"]["view"])
    method = made(name, small_models, view)
    data = AnomalyDataModule(MVTec(images), view, batch_size=4, corrupt=Perlin(), loading=Loading(num_workers=0))
    trainer = trainer_in(home, accelerator=accelerator, devices=1, max_steps=3, callbacks=[Calibration()])
    trainer.fit(method, data)
    return method.eval().requires_grad_(False)


def pictures(images: Path) -> list[str]:
    return [str(path) for path in sorted(images.glob("test/*/*.png"))]


def largest_difference(one: Detector, other: Detector, files: list[str]) -> float:
    """Return the largest difference of scores and maps of two detectors, relative to the first one's largest value."""
    parts = []
    for left, right in zip(one(files), other(files), strict=True):
        parts.append(abs(left.score - right.score) / abs(left.score))
        if left.anomaly_map is not None and right.anomaly_map is not None:
            parts.append(float(np.abs(left.anomaly_map - right.anomaly_map).max() / np.abs(left.anomaly_map).max()))
    return max(parts)


@pytest.mark.parametrize("name", METHODS)
def test_training_equals_that_on_the_cpu(
    name: str,
    small_models: dict[str, dict[str, Any]],
    images: Path,
    tmp_path: Path,
    without_tf32: None,
    record_property: Any,
) -> None:
    cpu, gpu = (trained(name, small_models, images, tmp_path, accelerator) for accelerator in ("cpu", "gpu"))
    losses = [float(method.trainer.callback_metrics["train/loss"]) for method in (cpu, gpu)]
    assert losses[1] == pytest.approx(losses[0], rel=PARTS)
    assert cpu.decision is not None and gpu.decision is not None
    scores = [method.decision.scores["stripes"] for method in (cpu, gpu)]  # type: ignore[union-attr]
    difference = float(np.abs(scores[1] / scores[0] - 1).max())
    record_property("losses", losses)
    record_property("held-out scores differ by", f"{difference:.1e}")
    assert difference < 20 * PARTS  # three steps amplify how sums are rounded; MKD's gradients jump at a ReLU's end


@pytest.mark.parametrize("name", METHODS)
def test_a_detector_gives_the_results_of_the_cpu(
    name: str,
    small_models: dict[str, dict[str, Any]],
    images: Path,
    tmp_path: Path,
    without_tf32: None,
    record_property: Any,
) -> None:
    method = trained(name, small_models, images, tmp_path, "gpu")
    method.trainer.save_checkpoint(tmp_path / "model.ckpt")
    cpu, gpu = (Detector.load(tmp_path / "model.ckpt", device=device) for device in ("cpu", "cuda"))
    exact = largest_difference(cpu, gpu, pictures(images))
    torch.backends.cudnn.allow_tf32 = True
    record_property("scores and maps differ by", f"{exact:.1e}")
    record_property("with TF32", f"{largest_difference(cpu, gpu, pictures(images)):.1e}")
    assert exact < (2e-2 if name == "MKD" else PARTS)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("name", METHODS)
def test_mixed_precision_is_nearly_float32(
    name: str,
    precision: str,
    images: Path,
    small_models: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed, full = fit_and_test_again(small_models[name], precision, "gpu", images, tmp_path, monkeypatch)
    assert full["pixel_auroc"] == pytest.approx(mixed["pixel_auroc"], abs=0.01)
    assert full["image_auroc"] == pytest.approx(mixed["image_auroc"], abs=0.1)  # 2 of 20 pairs of images


@pytest.mark.parametrize("name", ["STFPM", "L2BT"])  # Dinomaly's hooks on gradients are beyond PyTorch 2.11's compiler
def test_a_compiled_loss_equals_the_loss(
    name: str, small_models: dict[str, dict[str, Any]], without_tf32: None
) -> None:
    method = made(name, small_models).cuda().eval()
    images = torch.rand(4, 3, 64, 64, device="cuda")
    features = method.describe(images)
    plain = float(method.training_loss(images, features, Others()))
    assert float(torch.compile(method.training_loss)(images, features, Others())) == pytest.approx(plain, rel=PARTS)


def lit_ad(*words: object) -> str:
    """Run a command, which must succeed, and return its output."""
    command = [sys.executable, "-m", "lit_ad", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def config(small_models: dict[str, dict[str, Any]], images: Path, tmp_path: Path) -> Path:
    """The configuration of a small STFPM that trains for two epochs."""
    file = tmp_path / "config.yaml"
    source = {"class_path": "MVTec", "init_args": {"root": str(images)}}
    trainer = {"max_epochs": 2, "accelerator": "gpu", "devices": 1, "default_root_dir": str(tmp_path / "run")}
    settings = {"model": small_models["STFPM"], "data": {"source": source, "batch_size": 4}, "trainer": trainer}
    file.write_text(yaml.safe_dump(settings))
    return file


def pooled(run: Path) -> dict[str, float]:
    row: dict[str, float] = json.loads((run / "metrics.json").read_text())["rows"]["pooled"]
    return row


@pytest.mark.parametrize(
    "devices", [1, pytest.param(2, marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"))]
)
def test_nccl(config: Path, tmp_path: Path, devices: int) -> None:
    """Progress bar, heatmaps and report are on, as by default. A test by one process gives the same figures."""
    printed = lit_ad("fit", "--config", config, "--trainer.strategy", "ddp", "--trainer.devices", devices)
    assert "distributed_backend=nccl" in printed
    best = tmp_path / "run/checkpoints/best.ckpt"
    lit_ad("test", "--config", config, "--ckpt_path", best, "--trainer.default_root_dir", tmp_path / "alone")
    one, many = pooled(tmp_path / "alone"), pooled(tmp_path / "run")
    assert many == pytest.approx(one, abs=1e-3)


def test_a_run_resumes_on_a_machine_without_a_gpu(config: Path, tmp_path: Path) -> None:
    lit_ad("fit", "--config", config)
    last = tmp_path / "run/checkpoints/last.ckpt"
    on_cpu = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", 3, "--trainer.default_root_dir", tmp_path / "cpu"]
    lit_ad("fit", "--config", config, "--ckpt_path", last, *on_cpu)
    state = torch.load(tmp_path / "cpu/checkpoints/last.ckpt", weights_only=True, map_location="cpu")
    assert state["epoch"] == 2 and state["global_step"] == 3 * (torch.load(last, weights_only=True)["global_step"] // 2)


def test_a_fit_tests_the_averaged_weights_of_its_file(config: Path, tmp_path: Path) -> None:
    """The test after a fit uses the weights in the file."""
    lit_ad("fit", "--config", config, "--trainer.callbacks", "EMAWeightAveraging")
    again = ["--ckpt_path", tmp_path / "run/checkpoints/best.ckpt", "--trainer.default_root_dir", tmp_path / "again"]
    lit_ad("test", "--config", config, *again)
    assert pooled(tmp_path / "again") == pytest.approx(pooled(tmp_path / "run"), abs=1e-3)  # cuDNN adds in any order


def test_memory_that_runs_out_is_an_error_in_one_line(config: Path) -> None:
    """The images are so large that no GPU has the memory for them."""
    command = [sys.executable, "-c", LITTLE_MEMORY, "fit", "--config", str(config), "--model.view.image_size", "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("lit-ad: the GPU's memory ran out"), done.stderr


LITTLE_MEMORY = """
import sys
import torch
from lit_ad.commands.main import main
torch.cuda.set_per_process_memory_fraction(2e-4)
sys.argv[0] = "lit-ad"
main()
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("device", ["torch", "cuda", "tensorrt"])
def test_an_exported_file_on_the_gpu(
    device: str,
    precision: Any,
    small_models: dict[str, dict[str, Any]],
    images: Path,
    tmp_path: Path,
    without_tf32: None,
) -> None:
    if device != "torch":
        runtime = pytest.importorskip("onnxruntime")
        if f"{device}executionprovider" not in {name.lower() for name in runtime.get_available_providers()}:
            pytest.skip("needs onnxruntime-gpu, and TensorRT")
    elif precision == "fp16":
        pytest.skip("files of torch are fp32")
    method = trained("STFPM", small_models, images, tmp_path, "gpu").cpu()
    file = tmp_path / ("model.pt2" if device == "torch" else "model.onnx")
    export(method, file, "torch" if device == "torch" else "onnx", precision, carried=pictures(images)[:3])
    checkpoint = Detector(make_inference_network(method), method.card)
    exported = Detector.load(file, device="cuda" if device == "torch" else device)
    assert largest_difference(checkpoint, exported, pictures(images)) < (PARTS if precision == "fp32" else 2e-2)
    if device == "tensorrt":
        assert list(tmp_path.glob("model.onnx.tensorrt/*/*.engine")), "an engine is kept beside the file"


def test_a_stream_holds_no_more_memory_than_its_first_images(
    small_models: dict[str, dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    method = trained("STFPM", small_models, images, tmp_path, "gpu")
    method.trainer.save_checkpoint(tmp_path / "model.ckpt")
    detector, files = Detector.load(tmp_path / "model.ckpt", device="cuda"), pictures(images)
    alone = [detector(file).score for file in files]
    list(detector.stream(files, batch_size=4))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    streamed = [found.score for found in detector.stream(files * 20, batch_size=4)]
    assert torch.cuda.memory_allocated() == before
    assert streamed == pytest.approx(alone * 20, rel=PARTS)
