"""Exported files run with nothing but their runtime, and from many threads; other files are refused."""

import shutil
import subprocess
import sys
import threading
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lit_ad
from lit_ad import Detector
from lit_ad.deploy.example import make_example
from lit_ad.deploy.export import SUFFIX
from lit_ad.detector import onnx_runtime, openvino_runtime, runtimes, torch_export
from lit_ad.detector.card import Card
from lit_ad.errors import UserError
from lit_ad.methods import torch_runtime
from tests.deploy.test_export import pictures

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.mark.parametrize("format", SUFFIX)
def test_calls_from_many_threads(format: str, files: dict[str, Path]) -> None:
    detector, images = Detector.load(files[format]), pictures(8)
    alone = [detector(image).score for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert [found.score for found in pool.map(detector, images)] == alone
    for size in (1, 3):  # each of whose threads computes with a part of the cores, and so sums in another order
        streamed = list(detector.stream(images * 4, batch_size=size))
        assert [found.score for found in streamed] == pytest.approx(alone * 4, rel=1e-5)


JUDGED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lit_ad import Detector

detector, image = Detector.load(sys.argv[1]), Path(sys.argv[2])
with ThreadPoolExecutor(8) as pool:
    scores = [found.score for found in pool.map(detector, [image] * 16)]
scores += [found.score for found in detector.stream([image] * 16)]
assert max(scores) - min(scores) < 1e-5 * max(scores), scores
print(len(scores))
"""


@pytest.mark.slow  # half an hour on two cores
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("format", [*SUFFIX, "checkpoint"])
def test_no_process_hangs_at_its_first_images(format: str, files: dict[str, Path]) -> None:
    """200 processes judge from many threads right after loading. Without the warm-up, 6 of OpenVINO's hung."""
    for _ in range(200):
        command = [sys.executable, "-c", JUDGED, *map(str, (files[format], files["onnx"].with_name("image.png")))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.stdout == "32\n", done.stderr


@pytest.mark.parametrize(("format", "networks"), [("onnx", 2), ("openvino", 2), ("torch", 1), ("checkpoint", 1)])
def test_every_network_is_warmed_up_before_it_is_shared(
    format: str, networks: int, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loading thread warms it up. ONNX Runtime and OpenVINO have a second network for several callers."""
    inputs: list[tuple[str, tuple[int, ...]]] = []

    def noting_warm_up(run: Any, card: Card) -> Any:
        def noting(pixels: Any) -> Any:
            inputs.append((threading.current_thread().name, pixels.shape))
            return run(pixels)

        original(noting, card)
        return run

    original = runtimes.warm_up
    for module in (onnx_runtime, openvino_runtime, torch_export, torch_runtime):
        monkeypatch.setattr(module, "warm_up", noting_warm_up)
    detector = Detector.load(files[format])
    once = (threading.current_thread().name, (1, 3, 64, 64))
    assert inputs == [once]
    assert detector.shared is detector.shared
    assert inputs == [once] * networks


@pytest.mark.parametrize("format", SUFFIX)
def test_a_folder_may_have_any_name(format: str, files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "r\udcfcn"
    folder.mkdir()
    for file in files[format].parent.glob(f"{files[format].stem}.*"):
        shutil.copy(file, folder)
    image = np.zeros((64, 64, 3), np.uint8)
    renamed, detector = (Detector.load(file) for file in (folder / files[format].name, files[format]))
    assert renamed(image).score == detector(image).score
    assert renamed.shared(image).score == pytest.approx(detector(image).score)


@pytest.mark.parametrize("suffix", SUFFIX.values())
def test_files_that_are_no_exported_file_are_refused(suffix: str, tmp_path: Path) -> None:
    for content in ("nothing", ""):
        (tmp_path / f"x{suffix}").write_text(content)
        with pytest.raises(
            UserError,
            match=rf"x{suffix} (was not exported by lit_ad, or is damaged|is damaged|needs its weights, x.bin)",
        ):
            Detector.load(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.bin", "model.pt2"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_file_is_refused(name: str, place: float, files: dict[str, Path], tmp_path: Path) -> None:
    for suffix in {Path(name).suffix, ".bin", ".xml"} if name[-4:] in (".xml", ".bin") else {Path(name).suffix}:
        shutil.copy(files["onnx"].with_name(f"model{suffix}"), tmp_path)
    suffix = ".xml" if name == "model.bin" else Path(name).suffix
    Detector.load(tmp_path / f"model{suffix}")
    content = bytearray((tmp_path / name).read_bytes())
    at = int(place * len(content))
    content[at] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.* is damaged"):
        Detector.load(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_missing_device_is_refused(format: str, device: str, files: dict[str, Path]) -> None:
    if format == "onnx" and "CUDAExecutionProvider" in onnxruntime.get_available_providers() and device == "cuda:99":
        pytest.skip("this ONNX Runtime looks for the GPU itself")
    with pytest.raises(UserError, match=rf"there is no device '{device}' for .* on this machine, only (?i:cpu)"):
        Detector.load(files[format], device=device)
    if format == "openvino":
        assert Detector.load(files[format], device="AUTO")(pictures(1)[0]).score > 0


# In seconds of the processor, which other processes do not lengthen.
TIMED = """
import sys, time
start = time.process_time()
from lit_ad import Detector
imported = time.process_time()
detector = Detector.load(sys.argv[1])
loaded = time.process_time()
print(imported - start, loaded - imported, detector(sys.argv[2]).score)
print(sorted({"torch", "lightning", "timm", "albumentations", "cv2", "scipy"} & set(sys.modules)))
"""


@pytest.mark.slow  # installs from a package index
def test_an_exported_file_needs_only_its_runtime(files: dict[str, Path], tmp_path: Path) -> None:
    """NumPy, Pillow and ONNX Runtime are enough, and both importing and loading take less than a second."""
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "pillow", "onnxruntime"], check=True)
    package, image = Path(lit_ad.__file__).parents[1], files["onnx"].with_name("image.png")
    found = []
    for _ in range(3):  # the first one compiles the packages
        done = subprocess.run(
            [python, "-c", TIMED, files["onnx"], image],
            env={"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        imported, loaded, score = map(float, done.stdout.splitlines()[0].split())
        assert done.stdout.splitlines()[1] == "[]"
        assert score == pytest.approx(Detector.load(files["onnx"])(image).score, rel=1e-5)
        found.append((imported, loaded))
    imported, loaded = np.min(found, axis=0)
    assert imported < 1 and loaded < 1
    (files["onnx"].with_name("example.py")).write_text(make_example(files["onnx"], Detector.load(files["onnx"]).card))
    done = subprocess.run(
        [python, files["onnx"].with_name("example.py"), image], env={}, capture_output=True, text=True, check=True
    )
    assert f"score {score:.4g}"[:-1] in done.stdout
