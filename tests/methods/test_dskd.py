"""These tests compare DSKD with its formulas, computed by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.dskd import DSKD
from tests.judging import map_of


@pytest.fixture
def model(resnet_file: Path) -> DSKD:
    torch.manual_seed(0)
    return DSKD("resnet10t", (1, 2, 3), str(resnet_file), View(64)).eval()


def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def pyramids(model: DSKD, seen: torch.Tensor) -> list[list[np.ndarray]]:
    """Compute one minus the cosine over channels for both students: 2 x L x (B, h, w)."""
    encoded = model.encoder(seen)
    result = []
    for levels in (encoded, model.decoder(model.bottleneck(encoded))):
        pairs = zip(model.teacher(seen), levels, strict=True)
        arrays = [(t.double().numpy(), s.detach().double().numpy()) for t, s in pairs]
        norms = [np.linalg.norm(t, axis=1) * np.linalg.norm(s, axis=1) for t, s in arrays]
        result.append([1 - (t * s).sum(axis=1) / norm for (t, s), norm in zip(arrays, norms, strict=True)])
    return result


def test_the_decoder_depends_on_the_encoders_embedding_alone(model: DSKD) -> None:
    embedding = model.bottleneck(model.encoder(images()))
    assert embedding.shape == (3, 512, 2, 2)  # the side is a thirty-second of the image's side
    shapes = [level.shape for level in model.decoder(embedding)]
    assert shapes == [level.shape for level in model.teacher(images())]
    features = model.teacher(images())
    first = model.compare(images(), features)
    model.teacher.model = None  # the decoder must not use the teacher
    second = model.compare(images(), features)
    for one, other in zip(first.decoder, second.decoder, strict=True):
        assert torch.equal(one, other)


def test_the_loss_is_the_sum_over_levels_of_both_students(model: DSKD) -> None:
    expected = sum(float(level.mean()) for pyramid in pyramids(model, images()) for level in pyramid)
    loss = model.loss(model.compare(images(), model.describe(images())))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_decoders_loss_reaches_the_encoder(model: DSKD) -> None:
    model.train()
    disagreement = model.compare(images(), model.describe(images()))
    torch.stack([level.mean() for level in disagreement.decoder]).sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.encoder.parameters())


@pytest.mark.parametrize("fusion", ["product", "sum"])
def test_the_map_and_the_score_equal_the_formula(model: DSKD, fusion: str) -> None:
    model.fusion = fusion  # type: ignore[assignment]
    pixels = (255 * images()).to(torch.uint8)
    with torch.no_grad():
        prediction = model(pixels)
    both = [
        np.array([sum(cv2.resize(level, (64, 64)) for level in image) for image in zip(*pyramid, strict=True)])
        for pyramid in pyramids(model, pixels / 255)
    ]
    raw = both[0] * both[1] if fusion == "product" else both[0] + both[1]
    expected = [gaussian_filter(one, 4.0) for one in raw]
    np.testing.assert_allclose(prediction.anomaly_map[:, 0].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(prediction.score.numpy(), np.max(expected, axis=(1, 2)), rtol=1e-4)


def test_all_students_are_optimised_as_in_reverse_distillation(model: DSKD) -> None:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.005, (0.5, 0.999))
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_the_map_is_zero_where_the_encoder_equals_the_teacher(model: DSKD) -> None:
    model.encoder.load_state_dict(model.teacher.model.state_dict(prefix="model."))
    assert map_of(model.predict(images())).abs().max() < 1e-4


def test_taps_and_sizes_that_do_not_fit_are_refused(model: DSKD, resnet_file: Path) -> None:
    with pytest.raises(UserError, match=r"strides \[4, 16\]"):
        DSKD("resnet10t", (1, 3), str(resnet_file))
    with pytest.raises(UserError, match="a multiple of it"):
        model.compare(torch.rand(1, 3, 48, 48), model.teacher(torch.rand(1, 3, 48, 48)))
