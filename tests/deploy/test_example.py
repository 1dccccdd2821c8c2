"""The program beside an exported file agrees with the detector, and does not import lit_ad."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lit_ad import Detector
from lit_ad.deploy.example import make_example, name_example
from lit_ad.deploy.export import SUFFIX, export
from lit_ad.deploy.exported_file import write_onnx
from lit_ad.detector.decision import Decision
from lit_ad.detector.held_out import HeldOutImages
from lit_ad.detector.pixel_rule import GivenCleanUp, PixelRule
from lit_ad.errors import NOT_FINITE, NotFiniteError, UserError
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View
from lit_ad.methods.network import make_inference_network
from lit_ad.methods.stfpm import STFPM
from tests.deploy.test_export import export_every_format, pictures

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def files(small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """STFPM in every format, and an image beside the files."""
    return export_every_format(small_models, tmp_path_factory.mktemp("exported"))[1]


@pytest.mark.parametrize("format", SUFFIX)
def test_the_example_agrees_with_the_detector(format: str, files: dict[str, Path]) -> None:
    detector = Detector.load(files[format])
    program, image = files[format].with_name(f"{format}_example.py"), files[format].with_name("image.png")
    program.write_text(make_example(files[format], detector.card))
    done = subprocess.run([sys.executable, program, image], capture_output=True, text=True, check=True)
    found = detector(image)
    verdict = "anomalous" if found.anomalous else "nominal"
    assert found.mask is not None
    marked = f", {found.mask.sum()} anomalous pixels"
    assert f"{verdict}, score {found.score:.6g}, p-value {found.p_value:.3g}{marked}" in done.stdout
    for number, size in enumerate(((7, 90), (700, 60))):
        thin = image.with_name(f"thin-{number}.png")
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(thin)
        done = subprocess.run([sys.executable, program, thin], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"{thin} is too small or too thin to be judged\n")


def test_example_and_detector_refuse_scores_that_are_not_finite(files: dict[str, Path], tmp_path: Path) -> None:
    model, broken, program = onnx.load(files["onnx"]), tmp_path / "broken.onnx", tmp_path / "example.py"
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weights) * np.float32(np.nan)
            weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    write_onnx(model, broken, Detector.load(files["onnx"]).card)
    image = files["onnx"].with_name("image.png")
    with pytest.raises(NotFiniteError, match=rf"^{re.escape(str(image))}: {NOT_FINITE}$"):
        Detector.load(broken)(image)
    program.write_text(make_example(broken, Detector.load(broken).card))
    done = run_alone(program, image)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{image}: {NOT_FINITE}\n")


@pytest.fixture(scope="module")
def onnx_of(
    small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[View], tuple[Path, Path]]:
    """onnx_of(view) exports an STFPM with that view and a clean-up of regions; it returns the file and its example."""

    def onnx_of(view: View) -> tuple[Path, Path]:
        images: list[Any] = pictures(1) if view.window is None else [np.zeros((70, 90), np.uint16)]
        home = tmp_path_factory.mktemp("with_view")
        method = STFPM(**{**small_models["STFPM"]["init_args"], "view": view}).eval().requires_grad_(False)
        seen = HeldOutImages(5)
        for found in Detector(make_inference_network(method), method.card)(images):
            seen.add("a", found.score, found.anomaly_map, found.roi)
        rule = PixelRule("region", 0.2, 5, GivenCleanUp(closing=1))
        decision = Decision(**seen.held, false_alarm=0.3, pixel_rule=rule)
        method.decision = decision.with_threshold(seen.held["pixels"]["a"].find_threshold(0.1), pixels=True)
        export(method, home / "model.onnx", "onnx")
        (home / "example.py").write_text(make_example(home / "model.onnx", Detector.load(home / "model.onnx").card))
        assert ("lit_ad " in (home / "example.py").read_text().splitlines()[0]) == (view.tile is not None)
        return home / "model.onnx", home / "example.py"

    return onnx_of


def run_alone(program: Path, *images: Path) -> "subprocess.CompletedProcess[str]":
    """Run an example where lit_ad cannot be imported."""
    (program.parent / "lit_ad.py").write_text("raise SystemExit('lit_ad was imported')")
    return subprocess.run([sys.executable, program, *images], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kind", "fit", "crop"), [("box", "pad", None), ("mask", "stretch", 48), ("rectangle", "pad", 56)]
)
def test_the_example_judges_only_the_region_of_interest(
    kind: str, fit: Any, crop: int | None, onnx_of: Callable[[View], tuple[Path, Path]], tmp_path: Path
) -> None:
    pixels = pictures(1)[0]
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[5:61, 3:40] = 255
    if kind == "mask":
        mask[35:, 3:26] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    model, program = onnx_of(
        View(64, fit=fit, crop=crop, roi=(5, 3, 61, 40) if kind == "box" else tmp_path / "mask.png")
    )
    images = [tmp_path / name for name in ("whole.png", "inside.png", "small.png")]
    for image, shown in zip(images, (pixels, np.where(mask[..., None] > 0, pixels, 0), pixels[:35]), strict=True):
        Image.fromarray(shown.astype(np.uint8)).save(image)
    one, other = Detector.load(model)(images[:2])
    assert one.score == other.score
    done = run_alone(program, *images)
    for image, line in zip(images, done.stdout.splitlines(), strict=False):
        assert line.startswith(f"{image}: ") and f"score {one.score:.5g}"[:-1] in line, done.stderr
        assert one.mask is not None and one.mask.any() and line.endswith(f", {one.mask.sum()} anomalous pixels")
    assert len(done.stdout.splitlines()) == 2 and done.returncode == 1
    assert str(images[2]) in done.stderr and "region of interest" in done.stderr


def test_the_example_applies_the_window(onnx_of: Callable[[View], tuple[Path, Path]], tmp_path: Path) -> None:
    model, program = onnx_of(View(64, window=(100, 3000)))
    deep = np.random.default_rng(0).integers(0, 4096, (70, 90)).astype(np.uint16)
    images = [tmp_path / name for name in ("deep.png", "deep.tif", "float.tif", "eight.png")]
    kinds: tuple[np.ndarray, ...] = (deep, deep, deep.astype(np.float32), deep.astype(np.uint8))
    for image, values in zip(images, kinds, strict=True):
        Image.fromarray(values).save(image)
    score = Detector.load(model)(images[0]).score
    done = run_alone(program, *images)
    assert [f"score {score:.5g}"[:-1] in line for line in done.stdout.splitlines()] == [True] * 3, done.stderr
    assert (
        done.returncode == 1
        and f"{images[3]} has values of 8 bits, but the window is for images of more bits" in done.stderr
    )


def test_each_program_is_named_after_its_file(files: dict[str, Path]) -> None:
    card = Detector.load(files["onnx"]).card
    for file in files.values():
        name = name_example(file)
        assert name == f"{file.name}.example.py"
        assert make_example(file, card).startswith(f'"""python {name} IMAGE...')


def test_with_tiles_the_program_calls_lit_ad(onnx_of: Callable[[View], tuple[Path, Path]], tmp_path: Path) -> None:
    model, program = onnx_of(View(64, tile=32, overlap=8))
    Image.fromarray(pictures(1)[0]).save(tmp_path / "image.png")
    found = Detector.load(model)(tmp_path / "image.png")
    done = subprocess.run([sys.executable, program, tmp_path / "image.png"], capture_output=True, text=True, check=True)
    assert f"score {found.score:.6g}, p-value {found.p_value:.3g}" in done.stdout


@pytest.mark.parametrize("view", [View(64), View(64, tile=32, overlap=8)], ids=["alone", "by lit_ad"])
def test_an_unreadable_image_ends_with_a_line_of_error(
    view: View, onnx_of: Callable[[View], tuple[Path, Path]], tmp_path: Path
) -> None:
    _, program = onnx_of(view)
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "none.png"):
        done = subprocess.run([sys.executable, program, tmp_path / name], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith(f"cannot read {tmp_path / name}: ")
        assert len(done.stderr.splitlines()) == 1


def test_the_example_has_lit_ads_limit_of_metadata(
    onnx_of: Callable[[View], tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits, defaults and messages are the same as when lit_ad reads the image."""
    program, image, notes = onnx_of(View(64))[1], tmp_path / "noted.png", PngImagePlugin.PngInfo()
    notes.add_text("log", "x" * 3 * 2**20, zip=True)
    Image.fromarray(pictures(1)[0]).save(image, pnginfo=notes)
    assert run_alone(program, image).stdout.startswith(f"{image}: ")
    for limit in ("2", "0.01", "much"):
        monkeypatch.setenv("LIT_AD_MAX_METADATA_MIB", limit)
        with pytest.raises(UserError) as refusal:
            read_image(image)
        done = run_alone(program, image)
        assert done.returncode == 1 and str(refusal.value).startswith(done.stderr.strip())
    monkeypatch.setenv("LIT_AD_MAX_METADATA_MIB", "4")
    assert run_alone(program, image).returncode == 0


def test_the_example_has_lit_ads_limit_of_pixels_in_place_of_pillows(
    onnx_of: Callable[[View], tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = tmp_path / "scan.png"
    Image.new("1", (13500, 13500)).save(scan)  # 182 megapixels: Pillow refuses 179
    _, program = onnx_of(View(64))
    done = run_alone(program, scan)
    assert done.stdout.startswith(f"{scan}: ") and "score" in done.stdout, done.stderr
    monkeypatch.setenv("LIT_AD_MAX_MEGAPIXELS", "100")
    done = run_alone(program, scan)
    said = f"{scan} has more pixels than the 100 million that LIT_AD_MAX_MEGAPIXELS allows"
    assert (done.returncode, done.stderr.strip()) == (1, said)
