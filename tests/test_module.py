"""The base class: pixels to floats, padding never scored, tiles, repeats dropped, the teacher's fingerprint."""

from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

from lit_ad.batch import Batch, Prediction, Tiling
from lit_ad.methods import STFPM
from lit_ad.module import AnomalyModule
from lit_ad.teachers import Teacher


class Brightness(AnomalyModule):
    """Anomalous is what is bright: a map that is easy to follow."""

    def loss(self, images: Tensor, features: list[Tensor]) -> Tensor:
        return images.mean()

    def detect(self, images: Tensor, features: list[Tensor]) -> Prediction:
        anomaly_map = images.mean(dim=1, keepdim=True).float()
        return Prediction(anomaly_map, self.score(anomaly_map))


@pytest.fixture
def module(resnet_file: Path) -> Brightness:
    return Brightness(Teacher("resnet10t", (1,), str(resnet_file)))


def batch_of(images: Tensor, **more: object) -> Batch:
    n, _, height, width = images.shape
    return Batch(
        image=images,
        label=torch.zeros(n, dtype=torch.long),
        index=torch.arange(n),
        path=[f"{i}.png" for i in range(n)],
        category=[""] * n,
        defect=["good"] * n,
        size=[(height, width)] * n,
        box=[(0, 0, height, width)] * n,
        **more,  # type: ignore[arg-type]
    )


def test_pixels_are_normalised_on_the_device(module: Brightness) -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    moved = module.on_after_batch_transfer(batch_of(pixels), 0)
    torch.testing.assert_close(moved.image, module.teacher.normalize(pixels))
    tiled = module.on_after_batch_transfer(batch_of(pixels, tiling=Tiling(16, 4, 2)), 0)
    assert tiled.image.dtype == torch.uint8  # normalised tile by tile


def test_padding_is_never_scored(module: Brightness) -> None:
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, 20:] = 9.0  # below the content of the first image
    images[:, :, 3, 4] = 1.0
    batch = replace(batch_of(images), box=[(0, 0, 20, 32), (0, 0, 32, 32)])
    assert module.predict_batch(batch).score.tolist() == [1.0, 9.0]


def test_tiles_give_what_the_whole_image_gives(module: Brightness) -> None:
    pixels = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)
    whole = module.predict_batch(module.on_after_batch_transfer(batch_of(pixels), 0))
    tiled = module.predict_batch(batch_of(pixels, tiling=Tiling(16, 4, 3)))
    torch.testing.assert_close(tiled.anomaly_map, whole.anomaly_map)
    torch.testing.assert_close(tiled.score, whole.score)


def test_selecting_keeps_everything_together() -> None:
    batch = batch_of(torch.arange(3 * 12.0).view(3, 3, 2, 2), mask=[None, torch.ones(2, 2), None])
    batch.features = [torch.arange(3.0).view(3, 1, 1, 1)]
    chosen = batch.select([False, True, True])
    assert (len(chosen), chosen.path, chosen.index.tolist()) == (2, ["1.png", "2.png"], [1, 2])
    assert torch.equal(chosen.image, batch.image[1:])
    assert chosen.mask is not None
    assert chosen.mask[0] is batch.mask[1]
    assert chosen.features[0].flatten().tolist() == [1.0, 2.0]


def test_checkpoint_holds_no_teacher_and_refuses_another(resnet_file: Path, tmp_path: Path) -> None:
    model = STFPM("resnet10t", (1, 2), str(resnet_file))
    trainer = L.Trainer(logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert not any(key.startswith("teacher") for key in checkpoint["state_dict"])
    assert checkpoint["teacher"]["fingerprint"] == model.teacher.fingerprint

    state = torch.load(resnet_file, weights_only=True)
    torch.save(
        {key: tensor * 2 if tensor.is_floating_point() else tensor for key, tensor in state.items()}, tmp_path / "b.pt"
    )
    again = STFPM.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)  # its arguments are in there too
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again.eval()(images).score, model.eval()(images).score)
    with pytest.raises(ValueError, match="trained with the teacher resnet10t"):
        STFPM.load_from_checkpoint(tmp_path / "a.ckpt", weights=str(tmp_path / "b.pt"), weights_only=True)
