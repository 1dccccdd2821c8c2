"""A Detector gives the evaluation's scores and maps, from its file alone."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad import Detector, methods
from lit_ad.batch import Batch, Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Perlin
from lit_ad.detector.card import Card
from lit_ad.detector.decision import Decision
from lit_ad.detector.stream import WORKERS
from lit_ad.errors import NotFiniteError, TimeLimitError, UserError
from lit_ad.evaluation import Evaluation
from lit_ad.evaluation.results import Results
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network
from lit_ad.training import Calibration, FeatureCache
from tests.judging import original_map, predict_batch

VIEWS: dict[str, Callable[[int], View]] = {  # of the side that a method's small model is fit for
    "stretched": lambda side: View(side),
    "padded": lambda side: View(side, fit="pad", interpolation="bicubic"),
    "tiles": lambda side: View(side + side // 2, tile=side, overlap=side // 4, tile_batch=2),
}


@pytest.fixture(scope="module")
def runs(
    images: Path, small_models: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Any
) -> dict[tuple[str, str], Path]:
    """Every method trained for a step at every view, tested, and saved: RUN/checkpoints/best.ckpt."""
    made = {}
    for method in METHODS:
        for name, view in VIEWS.items():
            home = tmp_path_factory.mktemp(f"{method}-{name}")
            torch.manual_seed(0)
            given = small_models[method]["init_args"]
            arguments = {**given, "view": view(given["view"]["image_size"])}
            model: Method = getattr(methods, method)(**arguments)
            loading = Loading(num_workers=0)
            data = AnomalyDataModule(MVTec(images), model.view, 4, corrupt=Perlin(), loading=loading)
            callbacks = [Calibration(0.3), Evaluation(), FeatureCache()]
            trainer = quiet_trainer(home, *callbacks, limit_train_batches=1, enable_checkpointing=False)
            trainer.fit(model, data)
            trainer.test(model, data, verbose=False)
            trainer.save_checkpoint(home / "checkpoints/best.ckpt")
            made[method, name] = home
    return made


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_alone_gives_the_scores_of_the_test(
    method: str, name: str, runs: dict[tuple[str, str], Path]
) -> None:
    run = runs[method, name]
    detector, results = Detector.load(run), Results.load(run / "metrics.json")
    paths = [image.path for image in results.images]
    for found, expected in zip(detector(paths), results.images, strict=True):
        assert found.score == pytest.approx(expected.score, rel=1e-4)
        assert found.p_value == pytest.approx(expected.p_value)
        assert found.anomalous == expected.anomalous
        assert found.image.shape == (64, 72, 3)
        if found.anomaly_map is not None:
            assert found.anomaly_map.shape == (64, 72)
            assert found.mask is not None and results.pixel_threshold is not None
            assert np.array_equal(found.mask, found.anomaly_map > results.pixel_threshold)
            assert sum(region.area for region in found.regions) == found.mask.sum()
    assert results.false_alarm == 0.3


def test_one_image_a_list_and_a_stream_give_equal_results(runs: dict[tuple[str, str], Path], images: Path) -> None:
    detector = Detector.load(runs["STFPM", "stretched"] / "checkpoints/best.ckpt")
    paths = sorted((images / "test/square").iterdir())
    together = detector(paths)
    alone = [detector(path) for path in paths]
    streamed = detector(path for path in paths)
    assert not isinstance(streamed, list)
    for one, other, third in zip(together, alone, streamed, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert third.score == pytest.approx(other.score, rel=1e-5)
    batched = list(detector.stream(paths, batch_size=3))
    assert [one.score for one in batched] == pytest.approx([one.score for one in together], rel=1e-4)


def test_images_of_every_kind(runs: dict[tuple[str, str], Path], images: Path, tmp_path: Path) -> None:
    detector = Detector.load(runs["STFPM", "stretched"])
    path = images / "test/good/000.png"
    pixels = np.asarray(Image.open(path))
    expected = detector(path).score
    grey = pixels[..., 0]
    kinds: list[Any] = [str(path), Image.open(path), pixels, grey, grey[..., None], np.dstack([pixels, grey])]
    kinds += [grey.astype(np.uint16) * 257, grey / 255, (grey / 255).astype(np.float32), Image.fromarray(grey)]
    for kind in kinds:
        assert detector(kind).score == expected
    for wrong in (np.zeros((4, 4, 2), np.uint8), np.full((4, 4), 300.0), np.zeros((2, 4, 4, 3), np.uint8)):
        with pytest.raises(UserError, match=r"an image is a path|is no image"):
            detector(wrong)
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(UserError, match=r"cannot read .*x\.png"):
        detector(tmp_path / "x.png")


def test_files_that_are_no_detector_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory: it has neither"):
        Detector.load(tmp_path)
    with pytest.raises(UserError, match="there is no detector"):
        Detector.load(tmp_path / "x.ckpt")


def test_a_detector_prints_in_a_line(bright: Detector) -> None:
    assert str(bright) == repr(bright) == "Detector(bright, fp32, no threshold)"
    held = {"nut": np.array([100.0, 200.0, 240.0])}
    decision = Decision(held, held, held, false_alarm=0.01)
    decided = Detector(bright.network, replace(bright.card, decision=decision))
    assert str(decided) == "Detector(bright, fp32, nut, threshold 240 for 25 % false alarms)"
    by_folds = Detector(bright.network, replace(decided.card, decision=replace(decision, folds={"nut": (1, 1, 1)})))
    assert str(by_folds) == "Detector(bright, fp32, nut, threshold 240 for 25 % false alarms by 3 folds)"
    by_hand = Detector(bright.network, replace(bright.card, decision=decision.with_threshold(7.0)))
    assert str(by_hand) == "Detector(bright, fp32, nut, threshold 7 set by hand)"


def test_a_category_without_thresholds_is_refused(bright: Detector) -> None:
    held = {"a": np.arange(9.0), "b\nb": np.arange(9.0)}
    several = Detector(bright.network, replace(bright.card, decision=Decision(held, held, held, false_alarm=0.1)))
    pixels, error = np.zeros((16, 16, 3), np.uint8), r"category c is not one of the detector's: it has a, b\\nb"
    assert several(pixels, "a").category == "a" and several(pixels).category is None
    calls = (lambda: several(pixels, "c"), lambda: several([pixels], "c"), lambda: several.stream([pixels], "c"))
    for call in calls:
        with pytest.raises(UserError, match=error):
            call()
    assert bright(pixels, "c").category is None  # it has no thresholds at all


def test_arrays_of_opencv(bright: Detector) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    alpha = np.dstack([image, np.full((16, 16), 255, np.uint8)])
    for swapped in (
        image[..., ::-1],
        torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1),
        alpha[..., [2, 1, 0, 3]],
    ):
        assert np.array_equal(bright(swapped, bgr=True).image, bright(image).image)
    (streamed,) = bright.stream([image[..., ::-1]], bgr=True)
    (listed,) = bright([image[..., ::-1]], bgr=True)
    assert np.array_equal(streamed.image, image) and np.array_equal(listed.image, image)
    assert np.array_equal(bright(image[..., 0], bgr=True).image, bright(image[..., 0]).image)
    with pytest.raises(UserError, match="is no array or tensor, and bgr is for these alone: leave out bgr"):
        bright(Image.fromarray(image), bgr=True)


@pytest.fixture
def bright() -> Detector:
    """A detector whose score is the image's brightest value."""

    def run(pixels: Any) -> tuple[None, Any]:
        return None, pixels.max(axis=(1, 2, 3)).astype(np.float32)

    return Detector(run, Card("bright", View(8), None, 0.0, False))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["score", "map", "a tile"])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_image(value: float, where: str, tmp_path: Path) -> None:
    """Only images with a black pixel have such a score."""

    def run(pixels: Any) -> tuple[Any, Any]:
        black = (pixels == 0).any(axis=(1, 2, 3))
        maps = np.ones((len(pixels), 1, *pixels.shape[2:]), np.float32)
        scores = np.where(black, value, 1).astype(np.float32)
        if where == "map":
            maps[black, 0, 0, 0], scores[:] = value, 1
        return (maps if where == "map" else None), scores

    view = View(None, tile=4, tile_batch=1) if where == "a tile" else View(8)
    detector = Detector(run, Card("broken", view, None, 0.0, False))
    good, bad = frame(7), frame(7)
    bad[0, 0] = 0
    Image.fromarray(bad).save(tmp_path / "bad.png")
    assert detector(good).score == 1
    with pytest.raises(NotFiniteError, match=r"^the image: its score or anomaly map is NaN or infinite"):
        detector(bad)
    with pytest.raises(NotFiniteError, match=rf"^{re.escape(str(tmp_path / 'bad.png'))}: "):
        detector([good, tmp_path / "bad.png"])
    for batch_size in (1, 2, 4):
        with pytest.raises(NotFiniteError, match=r"^image 4: "):
            list(detector.stream([good, good, good, bad], batch_size=batch_size))


def frame(value: int) -> Any:
    return np.full((8, 8), value, np.uint8)


def test_a_camera_gets_each_answer_before_its_next_image(bright: Detector) -> None:
    answered: Queue[float] = Queue()

    def camera() -> Any:
        for value in range(1, 6):
            yield frame(value)
            assert answered.get(timeout=300) == value

    for found in bright(camera()):
        answered.put(found.score)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_a_stream_ends_with_its_images(bright: Detector, count: int, batch_size: int) -> None:
    found = bright.stream((frame(i) for i in range(count)), batch_size=batch_size)
    assert [one.score for one in found] == list(range(count))


def test_a_stream_takes_few_images_ahead_and_stops_when_it_is_left(bright: Detector) -> None:
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield frame(1)

    stream = bright.stream(endless())
    for _ in range(3):
        next(stream)
    time.sleep(0.3)
    assert len(taken) <= 3 + WORKERS + 2
    stream.close()
    time.sleep(0.3)
    before = len(taken)
    time.sleep(0.3)
    assert len(taken) == before


def test_an_error_in_a_stream_reaches_its_reader(bright: Detector, tmp_path: Path) -> None:
    def camera() -> Any:
        yield frame(7)
        raise ConnectionError("unplugged")

    stream = bright.stream(camera())
    assert next(stream).score == 7
    with pytest.raises(ConnectionError, match="unplugged"):
        next(stream)
    with pytest.raises(UserError, match=r"nowhere\.png"):
        list(bright.stream([tmp_path / "nowhere.png"]))


def test_inputs_that_are_no_image_are_refused_at_once(bright: Detector) -> None:
    """The error comes before the first verdict is asked for. test_inputs.py has the other kinds of input."""
    given: tuple[Any, ...] = (None, 7, {"a": frame(1)}, [frame(1), None], np.zeros((0, 0, 3), np.uint8))
    for wrong in given:
        with pytest.raises(UserError, match=r"the image|image 2"):
            bright(wrong)
    with pytest.raises(UserError, match="a stream needs several images"):
        bright.stream("part.png")
    for setting in ("batch_size", "timeout", "source_timeout"):
        with pytest.raises(UserError, match=f"{setting} is 0, but it must be above 0"):
            bright.stream([], **{setting: 0})  # type: ignore[arg-type]


def test_a_batch_of_tensors_is_a_list(bright: Detector) -> None:
    batch = torch.stack([torch.full((3, 9, 12), value, dtype=torch.uint8) for value in (5, 7)])
    assert [found.score for found in bright(batch)] == [5, 7]
    assert bright(batch[0]).score == 5 and bright(batch[0]).image.shape == (9, 12, 3)
    assert [found.score for found in bright.stream(batch, batch_size=2)] == [5, 7]


@pytest.mark.parametrize("size", [(1, 1), (5000, 2)])
def test_an_error_names_an_image_that_is_too_small(bright: Detector, size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "part.png")
    for image, name in ((pixels, "image 1"), (tmp_path / "part.png", tmp_path / "part.png")):
        with pytest.raises(
            UserError, match=rf"^{name}: the image has {size[0]}x{size[1]} pixels .* too small to judge"
        ):
            bright([image])


@pytest.mark.parametrize("stage", ["reading", "network", "source"])
def test_a_time_limit_names_the_step_that_hangs(
    stage: str, bright: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Event()
    monkeypatch.setattr("lit_ad.detector.stream.PATIENCE", 0.1)
    Image.fromarray(frame(3)).save(tmp_path / "part.png")

    def run(pixels: Any) -> Any:
        if stage == "network" and pixels.max() == 3:
            gate.wait(60)
        return bright.network(pixels)

    def camera() -> Any:
        yield frame(1)
        if stage == "source":
            gate.wait(60)
        yield tmp_path / "part.png"

    if stage == "reading":
        os.mkfifo(tmp_path / "fifo.png")
        (tmp_path / "part.png").unlink()
        (tmp_path / "part.png").symlink_to("fifo.png")
    messages = {
        "reading": f"reading {tmp_path}/part.png has taken more than 0.5 s",
        "network": f"the network, for {tmp_path}/part.png, has taken more than 0.5 s",
        "source": "waiting for the next image of the stream has taken more than 0.5 s",
    }
    found = Detector(run, bright.card).stream(camera(), timeout=0.5, source_timeout=0.5)
    assert next(found).score == 1
    with pytest.raises(TimeLimitError, match=messages[stage]):
        next(found)
    gate.set()
    if stage == "reading":
        (tmp_path / "fifo.png").write_bytes(b"")  # the reader goes on, and ends


def test_importing_the_detector_does_not_import_torch() -> None:
    code = "import sys, lit_ad; print([m for m in ('torch', 'lightning', 'timm', 'cv2', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "view",
    [View(64), View(64, fit="pad"), View(None), View(96, crop=64), View(None, tile=48, overlap=16)],
    ids=["stretched", "padded", "own size", "cropped", "tiles"],
)
@pytest.mark.parametrize("top", [0.0, 0.05])
def test_scores_equal_those_of_evaluation_to_the_last_digit(top: float, view: View, resnet_file: Path) -> None:
    """This holds for scores from the network's graph, and for scores from a padded image's content."""
    torch.manual_seed(0)
    model = STFPM("resnet10t", (1, 2), str(resnet_file), view.of_multiple(16)).eval().requires_grad_(False)
    model.top = top
    detector = Detector(make_inference_network(model), model.card)
    generator = np.random.default_rng(0)
    for size in ((64, 64), (60, 90), (81, 50)):
        image = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
        pixels, box = model.view(image)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        batch = Batch(tensor, torch.arange(1), [Sample(Path("0.png"), 0)], [size], [box])
        expected, found = predict_batch(model, batch), detector(image)
        assert expected.score is not None and found.anomaly_map is not None
        assert found.score == (expected.score.item() if top == 0 else pytest.approx(expected.score.item(), rel=1e-6))
        np.testing.assert_allclose(found.anomaly_map, original_map(expected, batch, 0), rtol=1e-5)
