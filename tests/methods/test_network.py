"""A method as an inference network: pixels go in, arrays come out. A wrong output is an error of the method's
author."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lit_ad.batch import Prediction
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.methods.network import (
    as_images,
    eval_mode,
    make_inference_network,
    make_network,
    select_region,
    upsample_maps,
)
from tests.methods.training import Brightness

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8)


@pytest.fixture
def method(resnet_file: Path) -> STFPM:
    torch.manual_seed(0)
    return STFPM("resnet10t", (1, 2), str(resnet_file), View(64)).eval()


def test_the_inference_network_gives_the_map_of_its_method(method: STFPM) -> None:
    """The input is uint8, and the arrays of the output have no gradients."""
    found = make_inference_network(method)(PIXELS)
    with torch.no_grad():
        expected = method(torch.from_numpy(PIXELS)).anomaly_map
    assert found.score is None and expected is not None
    torch.testing.assert_close(torch.as_tensor(found.anomaly_map), expected)
    assert not torch.as_tensor(found.anomaly_map).requires_grad


def test_given_features_replace_the_teacher_and_losses_are_recorded(method: STFPM) -> None:
    images = as_images(torch.from_numpy(PIXELS))
    features = method.describe(images)
    ran: list[Any] = []
    method.teacher.register_forward_hook(lambda *_: ran.append(1))
    losses: list[tuple[Tensor, int]] = []
    found = make_network(method, features, losses)(torch.from_numpy(PIXELS))[0]
    assert not ran
    ((loss, count),) = losses
    assert count == 2
    torch.testing.assert_close(loss, method.loss(method.compare(images, features)))
    np.testing.assert_array_equal(found, make_network(method)(PIXELS)[0])


class Scores(Brightness):
    """A method that gives a map, a part, and a score whose shape the test sets."""

    map_scored = False
    shape: tuple[int, ...] = (2,)

    def detect(self, disagreement: Tensor) -> Prediction:
        score = disagreement.flatten(1).mean(dim=1)
        return Prediction(disagreement[:, :1, ::2, ::2], score.view(self.shape), {"mean": 2 * score})


def test_scores_and_parts_have_one_value_for_each_image(resnet_file: Path) -> None:
    method = Scores(str(resnet_file))
    output = make_network(method)(PIXELS)
    mean = PIXELS.reshape(2, -1).mean(axis=1) / 255
    np.testing.assert_allclose(output[1], mean, rtol=1e-5)
    np.testing.assert_allclose(output[2]["mean"], 2 * mean, rtol=1e-5)
    assert output[0].shape == (2, 1, 64, 64) and output[0].dtype == np.float32
    method.shape = (2, 1)
    with pytest.raises(ValueError, match=r"Scores gave scores of shape \(2, 1\) for 2 images"):
        make_network(method)(PIXELS)


def test_map_scored_must_agree_with_the_output_of_detect(resnet_file: Path) -> None:
    method = Scores(str(resnet_file))
    method.map_scored = True
    with pytest.raises(ValueError, match=r"Scores\.map_scored is True, but `detect` returns a score"):
        make_network(method)(PIXELS)
    own = Brightness(str(resnet_file))
    own.map_scored = False
    with pytest.raises(ValueError, match=r"Brightness\.map_scored is False, but `detect` returns no score"):
        own(torch.from_numpy(PIXELS))


def test_maps_are_enlarged_to_the_size_of_the_input(method: STFPM) -> None:
    """The resize is bilinear. A prediction without a map stays unchanged."""
    small = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    large = upsample_maps(method, Prediction(small), torch.zeros(1, 3, 4, 8)).anomaly_map
    assert large is not None and large.shape == (1, 1, 4, 8)
    assert large[0, 0, 0, 0] == 0 and large[0, 0, -1, -1] == 3
    assert large[0, 0, 0].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    none = Prediction(None, torch.zeros(1))
    assert upsample_maps(method, none, torch.zeros(1, 3, 4, 8)) is none


def test_eval_mode_restores_the_mode_of_each_part_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(1)))
    model[1].eval()
    modes = [part.training for part in model.modules()]
    assert modes == [True, True, False, False]
    seen: list[bool] = []

    def fail() -> None:
        with eval_mode(model):
            seen.extend(part.training for part in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [False] * 4
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("tile", [None, 32])
def test_only_the_pixels_of_a_map_inside_the_mask_of_the_region_count(tile: int | None, tmp_path: Path) -> None:
    """Where tiles run alone, their place in the mask is not known, so the whole tile counts."""
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 16:48] = 255
    mask[8, 16] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    view = View(32, roi=str(tmp_path / "mask.png"), tile=tile)
    maps = torch.arange(2 * 32 * 32.0).view(2, 1, 32, 32)
    kept = select_region(maps, view)
    if tile is not None:
        assert kept is maps
        return
    # The box of the mask fills the input; only its corner lies outside of the mask.
    places = [place for place in range(32 * 32) if place != 0]
    assert kept.shape == (2, 1, 1, len(places))
    assert kept[0, 0, 0].tolist() == places
    assert select_region(maps, View(32)) is maps
    # The view cuts out a box before, so the whole map counts.
    assert select_region(maps, View(32, roi=(8, 16, 40, 48))) is maps
