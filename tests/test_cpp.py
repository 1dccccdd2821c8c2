"""The program of examples/cpp is built, and agrees with `Detector` on 20 images.

The tests need CMake, a C++ compiler, OpenCV, nlohmann's JSON and the headers of ONNX Runtime; `.ci/cpp.sh` installs
them. The library of ONNX Runtime is that of the Python package, so that both programs run the same network.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lit_ad import Detector
from lit_ad.deploy.export import export
from lit_ad.deploy.exported_file import rewrite
from lit_ad.deploy.self_check import make_check
from lit_ad.detector.card import Card
from lit_ad.detector.decision import Decision
from lit_ad.detector.exported import load_exported
from lit_ad.detector.nominal_pixels import NominalPixels
from lit_ad.detector.pixel_rule import GivenCleanUp, PixelRule
from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View
from tests.deploy.test_export import made

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "examples" / "cpp"
HEADERS = [
    Path(folder)
    for folder in (
        Path(os.environ.get("ONNXRUNTIME_ROOT", "nowhere"), "include"),
        *("/usr/local/include/onnxruntime", "/usr/include/onnxruntime"),
    )
]
SCORES = {"a": np.array([0.1, 0.2, 0.35]), "b": np.array([0.05, 3.0])}
MAXIMA = {"a": np.array([0.6, 0.7, 0.8]), "b": np.array([0.5, 0.65])}
DECISION = Decision(SCORES, MAXIMA, SCORES, 0.3)
IN_REGIONS = replace(
    DECISION,
    maxima=dict.fromkeys("ab", np.array([2.0])),
    medians=dict.fromkeys("ab", np.array([0.1])),
    peaks=dict.fromkeys("ab", np.array([1.4])),
    pixel_rule=PixelRule("region", area=60),
)
PIXELS = NominalPixels.from_image(np.linspace(0, 1.2, 1000, dtype=np.float32))
CLEANED = replace(
    IN_REGIONS,
    pixels={"a": PIXELS, "b": PIXELS},
    grains={"a": [40.0], "b": [40.0]},  # type: ignore[dict-item]
    pixel_rule=PixelRule("region", 0.1, 60, GivenCleanUp(closing=2)),
)
SHAPE = (90, 100)  # height and width of the images for views with a region of interest

Judge = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Build the program of examples/cpp. judge(*words) runs it with these arguments."""
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").is_file()), None)
    if headers is None:
        pytest.skip("the headers of ONNX Runtime are not installed")
    for program in ("cmake", "c++", "pkg-config"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    for library in ("opencv4", "nlohmann_json", "zlib"):
        if subprocess.run(["pkg-config", "--exists", library], check=False).returncode:
            pytest.skip(f"the library {library} is not installed")
    home = tmp_path_factory.mktemp("cpp")
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (home / "runtime/lib").mkdir(parents=True)
    (home / "runtime/include").symlink_to(headers)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (home / "runtime/lib" / name).symlink_to(runtime)
    commands: tuple[list[str | Path], ...] = (
        ["cmake", "-S", SOURCE, "-B", home / "build", f"-DONNXRUNTIME_ROOT={home / 'runtime'}"],
        ["cmake", "--build", home / "build"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()

    def judge(*words: object) -> "subprocess.CompletedProcess[str]":
        command = [str(word) for word in (home / "build" / "judge", *words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return judge


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write 20 images of several file formats, depths, orientations and sizes."""
    home, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)

    def picture(height: int, width: int, channels: int = 3) -> Any:
        noise = cv2.GaussianBlur(generator.normal(size=(height, width, channels)).astype(np.float32), (0, 0), 2)
        noise = noise.reshape(height, width, channels).squeeze()
        return Image.fromarray(np.rint(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8))

    for orientation, name in ((3, "turned.jpg"), (6, "right.jpg"), (8, "left.png")):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(120, 90).save(home / name, exif=exif.tobytes())
    picture(203, 311).save(home / "half.jpg", quality=90)  # colours at half the resolution, the default of JPEG
    picture(480, 640).save(home / "full.jpg", quality=85, subsampling=0)
    picture(255, 254).save(home / "progressive.jpg", progressive=True)
    picture(256, 256, 1).save(home / "grey.jpg")
    picture(64, 64).save(home / "as_it_is.png")
    picture(90, 90).quantize(17).save(home / "palette.png")
    Image.merge("RGBA", [*picture(100, 110).split(), picture(100, 110, 1)]).save(home / "transparent.png")
    picture(90, 90, 1).convert("1").save(home / "bits.png")
    picture(*SHAPE).save(home / "colours.tif", compression="tiff_lzw")
    picture(*SHAPE).save(home / "colours.bmp")
    picture(*SHAPE, 1).save(home / "grey.pgm")
    deep = generator.integers(0, 65536, SHAPE)
    Image.fromarray(deep.astype(np.uint16)).save(home / "deep.png")
    Image.fromarray((deep / 65535).astype(np.float32)).save(home / "floats.tif")
    cv2.imwrite(str(home / "deep_colours.png"), generator.integers(0, 65536, (*SHAPE, 3)).astype(np.uint16))
    picture(600, 12).save(home / "high.png")
    picture(9, 300).save(home / "wide.png")
    picture(1100, 1500).save(home / "large.jpg")
    return sorted(home.iterdir())


@pytest.fixture(scope="module")
def file(
    small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, dict[str, Any], dict[str, Any]], Path]:
    """file(method, view, card) exports a method with 64 x 64 pixels of input, and changes its view and card."""
    home = tmp_path_factory.mktemp("models")
    cards: dict[str, Card] = {}

    def file(name: str, view: dict[str, Any], changes: dict[str, Any]) -> Path:
        base, output = home / f"{name}.onnx", home / f"other-{len(list(home.iterdir()))}.onnx"
        if name not in cards:
            method = made(name, small_models)
            method.decision = DECISION
            cards[name] = export(method, base)
        rewrite(base, output, replace(cards[name], view=View(**{"image_size": 64, **view}), **changes))
        return output

    return file


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, pixels = tmp_path_factory.mktemp("mask") / "mask.png", np.zeros(SHAPE, np.uint8)
    pixels[5:61, 3:77] = 255
    pixels[35:, 3:26] = 0
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("method", "view", "changes"),
    [
        ("STFPM", {}, {}),
        ("STFPM", {"fit": "pad"}, {"top": 0.02}),
        ("STFPM", {"fit": "pad"}, {"decision": IN_REGIONS}),
        ("STFPM", {"fit": "pad"}, {"decision": CLEANED}),
        ("STFPM", {"fit": "pad", "roi": "mask"}, {"decision": CLEANED}),
        ("STFPM", {"image_size": (80, 72), "interpolation": "bicubic", "crop": 64}, {"map_scored": False}),
        ("STFPM", {"image_size": (50, 60), "fit": "pad", "interpolation": "bicubic", "multiple": 64}, {}),
        ("STFPM", {"fit": "pad", "roi": (5, 3, 61, 40)}, {}),
        ("STFPM", {"fit": "pad", "roi": "mask"}, {"top": 0.02}),
        ("STFPM", {"image_size": 80, "crop": 64, "roi": "mask"}, {}),
        ("STFPM", {"window": (100, 3000)}, {}),
        ("STFPM", {"image_size": 150, "fit": "pad", "tile": 64, "overlap": 16, "tile_batch": 3}, {"top": 0.02}),
        ("STFPM", {"image_size": 100, "tile": 64, "roi": "mask"}, {"map_scored": False}),
        ("MKD", {}, {}),
        ("MKD", {"image_size": None, "tile": 64}, {}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_it_agrees_with_the_detector(
    method: str,
    view: dict[str, Any],
    changes: dict[str, Any],
    judge: Judge,
    file: Callable[..., Path],
    images: list[Path],
    mask: Path,
    tmp_path: Path,
) -> None:
    """The network's inputs are equal bit for bit, and both refuse the same images."""
    model = file(method, {**view, "roi": mask} if view.get("roi") == "mask" else view, changes)
    detector = Detector.load(model)
    done = judge(model, *images, "--category", "b", "--maps", tmp_path, "--seen", tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == list(map(str, images)), done.stderr
    judged, areas = 0, set[int]()
    for image, line in zip(images, lines, strict=True):
        found = None
        with suppress(UserError):
            found = detector(image, "b")
        if found is None:
            assert set(line) == {"image", "error"} and line["error"].startswith(str(image)), line
            continue
        assert "error" not in line, line
        judged += 1
        seen = np.asarray(Image.open(tmp_path / f"{image.name}.png"))
        np.testing.assert_array_equal(seen, detector.card.view(read_image(image, detector.card.view.levels))[0])
        assert line["score"] == pytest.approx(found.score, rel=1e-6)
        assert (line["p_value"], line["anomalous"], line["category"]) == (found.p_value, found.anomalous, "b")
        assert line["threshold"] == DECISION.threshold("b")
        assert (line["size"]["height"], line["size"]["width"]) == found.image.shape[:2]
        areas.update(region.area for region in found.regions)
        regions = [(list(region.box), region.area) for region in found.regions]
        assert [(region["box"], region["area"]) for region in line["regions"]] == regions
        written = tmp_path / f"{image.name}.tiff"
        assert written.exists() == (found.anomaly_map is not None)
        if found.anomaly_map is not None:
            values = np.asarray(Image.open(written))
            np.testing.assert_allclose(values, found.anomaly_map, atol=1e-6 * np.abs(found.anomaly_map).max())
    few = bool({"roi", "window"} & set(view))  # only a few images fit such a view
    assert judged >= 18 if not few else judged >= 2
    if changes.get("decision") is IN_REGIONS:
        assert len(areas) > 1 and min(areas) >= 60
    assert done.returncode == (0 if judged == len(images) else 1)


def test_a_category_without_thresholds_is_refused(judge: Judge, file: Callable[..., Path], images: list[Path]) -> None:
    done = judge(file("STFPM", {}, {}), images[0], "--category", "c")
    told = "judge: category c is not one of the detector's: it has a, b\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def test_a_bad_image_gets_a_line_with_the_error_and_others_are_judged(
    judge: Judge, file: Callable[..., Path], images: list[Path], tmp_path: Path
) -> None:
    jpeg = next(image for image in images if image.name == "half.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "text.png").write_text("no image")
    page = Image.new("RGB", (90, 90))
    page.convert("CMYK").save(tmp_path / "inks.jpg")
    page.convert("RGBA").save(tmp_path / "transparent.tif")
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    page.save(tmp_path / "other.webp")
    page.resize((90, 7)).save(tmp_path / "thin.png")
    names = {
        "none.png": "no such file",
        "cut.jpg": "truncated",
        "text.png": "no PNG",
        "inks.jpg": "CMYK",
        "transparent.tif": "four channels",
        "pages.tif": "several pages",
        "other.webp": "no PNG",
        "thin.png": "too thin",
    }
    done = judge(file("STFPM", {}, {}), *(tmp_path / name for name in names), images[0])
    *refused, last = (json.loads(line) for line in done.stdout.splitlines())
    for (name, reason), line in zip(names.items(), refused, strict=True):
        assert line["image"] == str(tmp_path / name) and reason in line["error"] and name in line["error"]
    assert last["image"] == str(images[0]) and "score" in last and done.returncode == 1


@pytest.mark.parametrize(("change", "code"), [(0.0, 0), (0.002, 0), (0.02, 2)])
def test_it_refuses_a_runtime_with_other_results(
    change: float, code: int, judge: Judge, file: Callable[..., Path], images: list[Path], tmp_path: Path
) -> None:
    """Scores or maps that differ from the checkpoint's by more than five times the tolerance are refused."""
    model, pixels = file("STFPM", {}, {}), [read_image(image) for image in images[:3]]
    loaded = load_exported(model)
    check = make_check(loaded.network, loaded.card, pixels, 1e-3)
    assert check.maps is not None
    for other in (
        replace(check, scores=tuple(score * (1 + change) for score in check.scores)),
        replace(check, maps=check.maps * np.float32(1 + change)),
    ):
        rewrite(model, tmp_path / "other.onnx", loaded.card, other.to_text())
        done = judge(tmp_path / "other.onnx", images[0])
        assert (done.returncode, len(done.stdout.splitlines())) == (code, int(not code))
        assert len(done.stderr.splitlines()) == int(bool(change)) and ("the tolerance" in done.stderr) == bool(change)


def test_a_file_that_is_not_lit_ads_ends_with_a_line_of_error(
    judge: Judge, file: Callable[..., Path], images: list[Path], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(file("STFPM", {}, {}))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    for words, reason in (
        ([tmp_path / "none.onnx", images[0]], "none.onnx"),
        ([tmp_path / "text.onnx", images[0]], "cannot be read by ONNX Runtime"),
        ([tmp_path / "other.onnx", images[0]], "other.onnx was not exported by lit_ad"),
        ([tmp_path / "other.onnx"], "give an exported file and at least one image"),
        ([tmp_path / "other.onnx", images[0], "--threads", "0"], "--threads is 0"),
        ([tmp_path / "other.onnx", images[0], "--colour", "red"], "--colour is unknown"),
        ([tmp_path / "other.onnx", images[0], images[0], "--maps", tmp_path], "two images have the name"),
    ):
        done = judge(*words)
        assert (done.returncode, done.stdout) == (2, "") and reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
