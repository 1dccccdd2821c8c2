"""The base class converts pixels to floats, never scores padding, joins tiles, and runs each network once."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from lit_ad.batch import Batch, Prediction, Sample
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.maps import upsample
from tests.judging import map_of, original_map, predict_batch, scores_of, stacked
from tests.methods.training import METHODS, Brightness, assert_same, loader, random_pixels, trainer_in

Batches = Callable[..., Batch]


@pytest.fixture
def brightness(resnet_file: Path) -> Brightness:
    return Brightness(str(resnet_file))


class Keep(L.Callback):
    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def on_validation_batch_end(self, trainer: Any, model: Any, outputs: Any, *_: Any) -> None:
        self.outputs.append(outputs)


def validated(model: Method, batches: list[Batch]) -> tuple[list[Any], float]:
    """Return what validation_step returns for each batch, and val/loss, from a Trainer."""
    keep = Keep()
    trainer = trainer_in(Path(), callbacks=[keep])
    trainer.validate(model, loader(batches), verbose=False)
    predictions = [stacked(judgements) for judgements in keep.outputs]
    return predictions, trainer.callback_metrics["val/loss"].item()


# Pixels.


def test_networks_get_images_with_values_from_0_to_1(brightness: Brightness, batch_of: Batches) -> None:
    pixels = random_pixels(2, 3, 32, 32)
    seen: list[Tensor] = []
    brightness.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    expected = pixels.float().div(255).mean(dim=1, keepdim=True)
    torch.testing.assert_close(brightness(pixels).anomaly_map, expected)
    torch.testing.assert_close(predict_batch(brightness, batch_of(pixels)).anomaly_map, expected)
    brightness.view = View(None, tile=32, overlap=0)  # every tile has these values too
    torch.testing.assert_close(predict_batch(brightness, batch_of(pixels)).anomaly_map, expected)
    assert len(seen) == 4
    for images in [seen[0], seen[1], torch.cat(seen[2:])]:
        assert images.dtype == torch.float32
        torch.testing.assert_close(images, pixels / 255)


def test_padding_is_never_scored(brightness: Brightness, batch_of: Batches) -> None:
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, 20:] = 255  # the padding below the content of the first image
    pixels[:, :, 3, 4] = 51
    batch = batch_of(pixels, boxes=[(0, 0, 20, 32), (0, 0, 32, 32)])
    assert scores_of(predict_batch(brightness, batch)).tolist() == pytest.approx([0.2, 1.0])
    brightness.view = View(None, tile=16, overlap=4)
    assert scores_of(predict_batch(brightness, batch)).tolist() == pytest.approx([0.2, 1.0])


class Coarse(Brightness):
    """A method whose map has a quarter of the input's size, like features of a network."""

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(avg_pool2d(disagreement.mean(dim=1, keepdim=True).float(), 4))


def test_a_score_is_the_maximum_at_the_networks_input_size(resnet_file: Path, batch_of: Batches) -> None:
    """Two images with the same spot and the same surroundings have the same score, with and without padding."""
    model = Coarse(str(resnet_file))
    pixels = torch.zeros(2, 3, 48, 32, dtype=torch.uint8)
    pixels[:, :, 8:12, 12:16] = 255  # one cell of the map
    pixels[1, :, 36:] = 255  # padding
    small = avg_pool2d(pixels.float().mean(dim=1, keepdim=True) / 255, 4)
    large = interpolate(small, size=(48, 32), mode="bilinear", align_corners=False)
    batch = batch_of(pixels, boxes=[(0, 0, 48, 32), (0, 0, 34, 32)])
    peak = large[0].max()
    assert 0.7 < peak < 0.8  # at its own size, the map has the maximum 1
    for prediction in (model(pixels), predict_batch(model, batch)):
        torch.testing.assert_close(prediction.anomaly_map, large)
        assert scores_of(prediction)[0] == map_of(prediction)[0].max() == peak
    assert scores_of(predict_batch(model, batch)).tolist() == [peak, peak]
    assert model(pixels).score[1] == 1  # the method itself does not know of the padding
    model.view = View(None, tile=16, overlap=0)
    tiled = predict_batch(model, batch)
    assert torch.equal(scores_of(tiled), torch.stack([of.max() for of in map_of(tiled)]))
    assert scores_of(tiled).max() < 0.9


def test_padding_to_the_largest_image_of_a_batch_is_not_seen(brightness: Brightness, batch_of: Batches) -> None:
    pixels = random_pixels(2, 3, 40, 32)
    batch = replace(batch_of(pixels, boxes=[(0, 0, 20, 28), (0, 0, 40, 32)]), canvases=[(24, 32), (40, 32)])
    seen: list[Tensor] = []
    brightness.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses: list[tuple[Tensor, int]] = []
    prediction = predict_batch(brightness, batch, losses)
    assert [tuple(images.shape) for images in seen] == [(1, 3, 24, 32), (1, 3, 40, 32)]
    assert [(float(loss), n) for loss, n in losses] == [(float(images.mean()), 1) for images in seen]
    alone = pixels[:1, :, :20, :28].float().mean(dim=1) / 255
    assert scores_of(prediction)[0].item() == pytest.approx(alone.max().item())
    assert map_of(prediction).shape == (2, 1, 40, 32)
    assert not map_of(prediction)[0, :, 24:].any()  # the image has no pixels there
    batch.sizes[0] = (20, 28)
    np.testing.assert_allclose(original_map(prediction, batch, 0), alone[0].numpy(), rtol=1e-6)


def test_pixels_that_the_view_crops_are_not_scored(resnet_file: Path) -> None:
    """The box of the content reaches outside of the input."""
    model = Brightness(str(resnet_file), View(32, crop=16))
    image = np.zeros((32, 32, 3), np.uint8)
    image[9, 9], image[0, 0] = 51, 255
    pixels, box = model.view(image)
    batch = Batch(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.arange(1), [], [(32, 32)], [box])
    batch.samples.append(Sample(Path("0.png"), 0))
    prediction = predict_batch(model, batch)
    assert scores_of(prediction).tolist() == pytest.approx([0.2])
    whole = original_map(prediction, batch, 0)
    assert whole.shape == (32, 32) and np.unravel_index(whole.argmax(), whole.shape) == (9, 9)
    assert np.array_equal(np.nonzero(whole), [[9], [9]])


def test_tiles_give_the_map_and_score_of_the_whole_image(brightness: Brightness, batch_of: Batches) -> None:
    pixels = random_pixels(2, 3, 50, 70)
    whole = predict_batch(brightness, batch_of(pixels))
    brightness.view = View(None, tile=16, overlap=4, tile_batch=3)
    tiled = predict_batch(brightness, batch_of(pixels))
    torch.testing.assert_close(tiled.anomaly_map, whole.anomaly_map)
    torch.testing.assert_close(tiled.score, whole.score)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_tile_with_a_score_that_is_not_finite_marks_its_image(
    resnet_file: Path, batch_of: Batches, value: float
) -> None:
    class Scores(Brightness):
        in_part = False

        def detect(self, disagreement: Tensor) -> Prediction:
            score = disagreement.flatten(1).amax(dim=1)
            broken = torch.where(score > 0.9, value, score)
            return Prediction(None, score, {"part": broken}) if self.in_part else Prediction(None, broken)

    for in_part in (False, True):
        model = Scores(str(resnet_file), View(None, tile=16, tile_batch=1)).eval()
        model.in_part = in_part
        pixels = torch.full((1, 3, 32, 32), 20, dtype=torch.uint8)
        assert [judgement.finite for judgement in model.judge(batch_of(pixels))] == [True]
        pixels[..., 0, 0] = 255
        assert [judgement.finite for judgement in model.judge(batch_of(pixels))] == [False]


def test_validation_loss_counts_each_image_once(brightness: Brightness, batch_of: Batches) -> None:
    batches = [batch_of(random_pixels(3, 3, 16, 16)), batch_of(random_pixels(1, 3, 16, 16) // 4)]
    (prediction, other), loss = validated(brightness, batches)
    assert (len(prediction.score), len(other.score)) == (3, 1)
    pixels = torch.cat([batch.pixels for batch in batches if batch.pixels is not None])
    assert loss == pytest.approx(float(pixels.float().mean()) / 255)


# Every method, trained.


@pytest.mark.parametrize("name", METHODS)
def test_validation_gives_the_same_results_as_separate_calls(
    name: str, trained: dict[str, tuple[Method, Path]], batch_of: Batches
) -> None:
    model = trained[name][0]
    pixels = [random_pixels(3, 3, 64, 64), random_pixels(1, 3, 64, 64)]
    predictions, loss = validated(model, [batch_of(p) for p in pixels])
    losses = []
    for prediction, images in zip(predictions, [p / 255 for p in pixels], strict=True):
        n = len(images)
        assert (prediction.score.shape, prediction.anomaly_map.shape[:2]) == ((n,), (n, 1))
        with torch.no_grad():
            features = model.describe(images)
            losses += [model.loss(model.compare(images, features)).item()] * n
            detected = model.detect(model.compare(images, features))
            # MKD's map needs gradients, and `detect` does not make it.
            anomaly_map = map_of(model.predict(images) if name == "MKD" else detected)
            anomaly_map = upsample(anomaly_map, (64, 64))  # scores are computed at the input size of the network
        torch.testing.assert_close(prediction.anomaly_map, anomaly_map)
        score = model.score(anomaly_map) if detected.score is None else detected.score
        torch.testing.assert_close(prediction.score, score)
        torch.testing.assert_close(prediction.parts, detected.parts)
    assert loss == pytest.approx(sum(losses) / 4, rel=1e-5)


STUDENTS = {
    "STFPM": ["student"],
    "L2BT": ["forward_student", "backward_student"],
    "Transformaly": [f"students.{block}" for block in range(12)],
    "ReverseDistillation": ["bottleneck", "decoder"],
    "Dinomaly": ["bottleneck", *(f"decoder.{block}" for block in range(8))],
    "INPFormer": ["extractor", "bottleneck", *(f"decoder.{block}" for block in range(8))],
}


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("cached", [False, True])
def test_in_validation_each_network_runs_once_per_batch(
    name: str, cached: bool, trained: dict[str, tuple[Method, Path]], batch_of: Batches
) -> None:
    model = trained[name][0]
    networks = {of: model.get_submodule(of) for of in ["teacher", *STUDENTS[name]]}
    ran: Counter[str] = Counter()
    hooks = [network.register_forward_hook(lambda *_, of=of: ran.update([of])) for of, network in networks.items()]
    pixels = [random_pixels(2, 3, 64, 64) for _ in range(3)]
    features = [model.describe(p / 255) if cached else None for p in pixels]
    ran.clear()
    batches = [batch_of(p, features=f) for p, f in zip(pixels, features, strict=True)]
    predictions, loss = validated(model, batches)
    for hook in hooks:
        hook.remove()
    assert math.isfinite(loss) and all(p.score.isfinite().all() for p in predictions)
    assert ran == {of: 3 for of in networks if not (cached and of == "teacher")}


@pytest.mark.parametrize("name", METHODS)
def test_a_model_in_training_mode_gives_the_results_of_eval_mode(
    name: str, trained: dict[str, tuple[Method, Path]], batch_of: Batches
) -> None:
    """A detector evaluates in eval mode. Afterwards every part has its earlier mode again."""
    model, pixels = trained[name][0], random_pixels(3, 3, 64, 64)
    expected = model(pixels), predict_batch(model, batch_of(pixels))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.train()
    modes = [part.training for part in model.modules()]
    assert any(modes)
    for _ in range(2):
        assert_same(model(pixels), expected[0])
        assert_same(predict_batch(model, batch_of(pixels)), expected[1])
    assert [part.training for part in model.modules()] == modes
    model.eval()
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items() if tensor.isfinite().all()
    )
