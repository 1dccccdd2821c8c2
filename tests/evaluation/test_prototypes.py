"""Pictures of INP-Former's prototypes, of a model with the weights it begins with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.evaluation import PrototypePictures
from lit_ad.image.view import View
from lit_ad.methods import STFPM, INPFormer


def run_test(model: Any, images: Path, home: Path, quiet_trainer: Any) -> None:
    data = AnomalyDataModule(MVTec(images), model.view, batch_size=4, loading=Loading(num_workers=0))
    quiet_trainer(home, PrototypePictures(height=64)).test(model, data, verbose=False)


def test_every_test_image_has_a_picture_of_its_nearest_prototypes(
    images: Path, vit_file: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    torch.manual_seed(0)
    model = INPFormer("deit_tiny_patch16_224", str(vit_file), View(64, fit="pad"))
    run_test(model, images, tmp_path, quiet_trainer)
    files = sorted(path.relative_to(tmp_path / "prototypes") for path in (tmp_path / "prototypes").rglob("*.png"))
    assert len(files) == 9 and Path("stripes/square/000.png") in files
    picture = np.asarray(Image.open(tmp_path / "prototypes/stripes/square/000.png"))
    assert picture.shape[1] == 2 * 72 + 4  # the content's proportions, without padding


def test_the_nearest_prototype_has_the_largest_cosine(vit_file: Path) -> None:
    torch.manual_seed(0)
    model = INPFormer("deit_tiny_patch16_224", str(vit_file), View(64), prototypes=3).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
    nearest = model.find_nearest_prototypes(pixels)
    with torch.no_grad():
        disagreement = model.compare(pixels / 255, model.describe(pixels / 255))
    for i in range(2):
        cosines = torch.stack(
            [torch.cosine_similarity(disagreement.patches[i], token[None]) for token in disagreement.prototypes[i]]
        )
        assert torch.equal(nearest[i].flatten(), cosines.argmax(dim=0))
    assert nearest.shape == (2, 4, 5)


def test_other_methods_are_refused(images: Path, resnet_file: Path, tmp_path: Path, quiet_trainer: Any) -> None:
    with pytest.raises(UserError, match="PrototypePictures shows prototypes of INPFormer, and STFPM has none"):
        run_test(STFPM("resnet10t", weights=str(resnet_file), view=View(64)), images, tmp_path, quiet_trainer)
    assert not (tmp_path / "prototypes").exists()


def test_tiles_are_refused(images: Path, vit_file: Path, tmp_path: Path, quiet_trainer: Any) -> None:
    model = INPFormer("deit_tiny_patch16_224", str(vit_file), View(64, tile=32))
    with pytest.raises(UserError, match=r"leave out model\.view\.tile"):
        run_test(model, images, tmp_path, quiet_trainer)
