"""Images of a camera, with 12 bits and a region of interest, work from files to the exported detector."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad import Detector
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.deploy.differences import list_excesses, measure_differences
from lit_ad.deploy.example import make_example
from lit_ad.deploy.export import export
from lit_ad.errors import UserError
from lit_ad.evaluation import Evaluation
from lit_ad.evaluation.results import POOLED
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.methods.base import Method
from lit_ad.training import Calibration, FeatureCache

SIZE = (64, 72)
ROI = np.zeros(SIZE, bool)
ROI[8:56, 16:64] = True
ROI[8:24, 16:32] = False  # a corner that is in its box, and not in it


@pytest.fixture(scope="module")
def twelve_bits(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The striped images as 12 bits in 16-bit files, and the same images with noise outside the region of interest,
    which masks mark as a defect."""
    clean, dirty = (tmp_path_factory.mktemp(name) / "part" for name in ("clean", "dirty"))
    generator = np.random.default_rng(1)
    for path in sorted(images.rglob("*.png")):
        values = np.asarray(Image.open(path))
        for root in (clean, dirty):
            file = root / path.relative_to(images)
            file.parent.mkdir(parents=True, exist_ok=True)
            if "ground_truth" in path.parts:
                Image.fromarray(np.where(ROI, values, values if root == clean else 255 - values)).save(file)
            else:
                deep = (values[..., 0].astype(np.uint16) << 4) + 7
                noise = generator.integers(0, 65536, SIZE).astype(np.uint16)
                Image.fromarray(deep if root == clean else np.where(ROI, deep, noise)).save(file)
    return clean, dirty


@pytest.fixture(scope="module")
def roi_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roi") / "roi.png"
    Image.fromarray(ROI).save(path)
    return path


@pytest.fixture
def trained(resnet_file: Path, quiet_trainer: Any) -> Any:
    """trained(data, view, run directory): the trainer, the model and its data."""

    def train(root: Path, view: View, home: Path) -> tuple[L.Trainer, STFPM, AnomalyDataModule]:
        torch.manual_seed(0)
        model = STFPM("resnet10t", (1, 2), str(resnet_file), view, lr=0.05)
        data = AnomalyDataModule(MVTec(root), model.view, batch_size=4, loading=Loading(num_workers=0))
        callbacks = [Calibration(0.3), Evaluation(), FeatureCache(directory=home / "features")]
        trainer = quiet_trainer(home, *callbacks, enable_checkpointing=False)
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        trainer.save_checkpoint(home / "checkpoints/best.ckpt")
        return trainer, model, data

    return train


def evaluation(trainer: L.Trainer) -> Evaluation:
    return next(one for one in trainer.callbacks if isinstance(one, Evaluation))  # type: ignore[attr-defined]


@pytest.mark.parametrize("tile", [None, 32])
def test_a_defect_outside_the_region_changes_nothing(
    tile: int | None, twelve_bits: tuple[Path, Path], roi_file: Path, trained: Any, tmp_path: Path
) -> None:
    """It changes neither training nor scores, thresholds and metrics of images and pixels."""
    views = [View(64, roi=roi_file, window=(0, 4095), tile=tile)]
    views += [] if tile else [View(64, fit="pad", roi=(8, 32, 56, 64), window=(0, 4095))]
    for number, view in enumerate(views):
        found = []
        for root in twelve_bits:
            trainer, model, _ = trained(root, view, tmp_path / f"{number}-{root.parent.name}")
            results = evaluation(trainer).results
            assert results is not None and model.decision is not None
            assert results.rows[POOLED]["aupro_30"] > 0
            images = [(one.score, one.p_value, one.anomalous) for one in results.images]
            rows = {f"{name} {key}": repr(value) for name, row in results.rows.items() for key, value in row.items()}
            found.append((images, rows, model.decision.without_names().to_dict(), model.state_dict()))
        (*first, weights), (*second, others) = found
        for one, same in zip(first, second, strict=True):
            assert one == same
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_checkpoint_the_export_and_the_test_agree(
    twelve_bits: tuple[Path, Path], roi_file: Path, trained: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    clean, dirty = twelve_bits
    trainer, model, data = trained(clean, View(64, window="auto", roi=roi_file), tmp_path)
    assert isinstance(model.view.window, tuple) and data.view == model.view
    results = evaluation(trainer).results
    assert results is not None
    paths = [image.path for image in results.images]
    checkpoint = Detector.load(tmp_path)
    export(Method.load_from_checkpoint(tmp_path / "checkpoints/best.ckpt"), tmp_path / "model.onnx")
    exported = Detector.load(tmp_path / "model.onnx")
    assert exported.card.view == checkpoint.card.view == model.view
    assert not list_excesses(measure_differences(exported, checkpoint, paths), 1e-5)
    for path, expected in zip(paths, results.images, strict=True):
        for detector in (checkpoint, exported):
            one, other = detector(path), detector(dirty / Path(path).relative_to(clean))
            assert one.score == other.score == pytest.approx(expected.score, rel=1e-4)
            assert one.anomalous == expected.anomalous and one.p_value == pytest.approx(expected.p_value)
            assert one.anomaly_map is not None and other.anomaly_map is not None and one.mask is not None
            assert np.array_equal(one.anomaly_map, other.anomaly_map)
            assert (one.anomaly_map[~ROI] == one.anomaly_map[ROI].min()).all() and not one.mask[~ROI].any()
            assert one.regions == other.regions and sum(region.area for region in one.regions) == one.mask.sum()
    noise = np.random.default_rng(0).integers(0, 256, (16, 3, 64, 64)).astype(np.uint8)
    maps, scores = exported.network(noise)  # the graph itself leaves out what is outside
    assert maps is not None
    inside = model.view.inside((64, 64), (0, 0, 64, 64))
    assert np.array_equal(scores, maps[:, 0, inside].max(axis=1))
    assert (scores < maps.max(axis=(1, 2, 3))).any()
    assert "Needs numpy, pillow and onnxruntime." in make_example(tmp_path / "model.onnx", exported.card)


def test_an_automatic_window_comes_from_training_images_only(
    twelve_bits: tuple[Path, Path], resnet_file: Path, trained: Any, quiet_trainer: Any, tmp_path: Path
) -> None:
    """It is computed once and stays in the checkpoint, for a test with the same configuration and for a resumed run."""
    clean, _ = twelve_bits
    before = (read_image(clean / "test/good/000.png"), read_image(clean / "test/square/000.png"))
    assert max(image.max() for image in before) <= 16  # of 255
    _, model, data = trained(clean, View(64, window="auto"), tmp_path)
    low, high = window = model.view.levels or (0, 0)
    nominal = np.stack([np.asarray(Image.open(sample.image)) for sample in data.splits.train])
    assert low <= nominal.min() and high >= np.percentile(nominal, 99.9)
    seen = read_image(clean / "test/good/000.png", window)
    assert seen.max() > 180 and seen.std() > 30
    again = STFPM("resnet10t", (1, 2), str(resnet_file), View(64, window="auto"), lr=0.05)
    other = AnomalyDataModule(MVTec(clean), again.view, loading=Loading(num_workers=0), batch_size=4)
    trainer = quiet_trainer(tmp_path / "again", Calibration(), Evaluation(), enable_checkpointing=False)
    trainer.test(again, other, ckpt_path=tmp_path / "checkpoints/best.ckpt", verbose=False, weights_only=True)
    assert again.view == other.view == model.view
    other = AnomalyDataModule(MVTec(clean), View(64, window=(0, 4095)), loading=Loading(num_workers=0), batch_size=4)
    trainer.test(again, other, verbose=False)  # what was read with the window of one run is not shown to another
    earlier = next(iter(other.test_dataloader())).pixels
    trainer.test(again, other, ckpt_path=tmp_path / "checkpoints/best.ckpt", verbose=False, weights_only=True)
    assert other.view.window == window and not torch.equal(next(iter(other.test_dataloader())).pixels, earlier)
    fixed = STFPM("resnet10t", (1, 2), str(resnet_file), View(64, window=(0, 4095)), lr=0.05)
    with pytest.raises(UserError, match=r"trained with window \(.*\), not \(0, 4095\)"):
        trainer.test(fixed, other, ckpt_path=tmp_path / "checkpoints/best.ckpt", weights_only=True)


def test_files_that_do_not_fit_the_view_are_named(
    images: Path, twelve_bits: tuple[Path, Path], trained: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"000\.png has values of 8 bits, and view.window is for grey images"):
        trained(images, View(64, window="auto"), tmp_path)
    clean, _ = twelve_bits
    with pytest.raises(
        UserError, match=r"model.view does not fit 21 images: .*does not hold view.roi \[0, 0, 65, 72\]"
    ):
        trained(clean, View(64, roi=(0, 0, 65, 72)), tmp_path)
    samples = MVTec(clean).samples()
    with pytest.raises(UserError, match=r"000\.png: an image of 64x72 .* does not hold view.roi"):
        AnomalyDataset(samples, View(64, roi=(0, 0, 65, 72))).__getitem__(0)
