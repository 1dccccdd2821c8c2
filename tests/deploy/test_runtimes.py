"""Exported files where nothing else is, from many threads, and files that are none of ours."""

import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lit_ad
from lit_ad import Detector
from lit_ad.deploy.example import example
from lit_ad.deploy.export import SUFFIX, export
from lit_ad.deploy.runtimes import share_torch
from lit_ad.errors import UserError
from lit_ad.methods.stfpm import STFPM
from lit_ad.view import View

from .test_export import DECISION, pictures

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def files(small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """STFPM in every format, and an image beside them."""
    home = tmp_path_factory.mktemp("exported")
    arguments = {**small_models["STFPM"]["init_args"], "view": View(64, fit="pad")}
    method = STFPM(**arguments).eval().requires_grad_(False)
    method.decision = DECISION
    for format, suffix in SUFFIX.items():
        export(method, home / f"model{suffix}", format)  # type: ignore[arg-type]
    Image.fromarray(pictures(1)[0]).save(home / "image.png")
    return {format: home / f"model{suffix}" for format, suffix in SUFFIX.items()}


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


def test_a_stream_leaves_the_threads_of_torch_as_they_are(files: dict[str, Path]) -> None:
    detector, before = Detector.load(files["torch"]), torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        seen: list[int] = []
        shared = share_torch(lambda pixels: seen.append(torch.get_num_threads()) or detector.run(pixels), 2, "cpu")
        pixels = np.zeros((1, 3, 64, 64), np.uint8)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(shared, [pixels] * 4))
            assert set(seen) == {2}
        list(detector.stream(pictures(4)))
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (5, 5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("format", SUFFIX)
def test_the_example_says_what_the_detector_says(format: str, files: dict[str, Path]) -> None:
    detector = Detector.load(files[format])
    program, image = files[format].with_name(f"{format}_example.py"), files[format].with_name("image.png")
    program.write_text(example(files[format], detector.card))
    done = subprocess.run([sys.executable, program, image], capture_output=True, text=True, check=True)
    found = detector(image)
    verdict = "anomalous" if found.anomalous else "nominal"
    assert f"{verdict}, score {found.score:.6g}, p-value {found.p_value:.3g}" in done.stdout


@pytest.mark.parametrize("suffix", SUFFIX.values())
def test_what_is_no_exported_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_text("nothing")
    with pytest.raises(UserError, match=r"cannot be read by"):
        Detector.load(tmp_path / f"x{suffix}")


def test_another_ones_onnx(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UserError, match="was not exported by lit_ad"):
        Detector.load(tmp_path / "x.onnx")


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
def test_where_nothing_but_the_runtime_is(files: dict[str, Path], tmp_path: Path) -> None:
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
    (files["onnx"].with_name("example.py")).write_text(example(files["onnx"], Detector.load(files["onnx"]).card))
    done = subprocess.run(
        [python, files["onnx"].with_name("example.py"), image], env={}, capture_output=True, text=True, check=True
    )
    assert f"score {score:.4g}"[:-1] in done.stdout
