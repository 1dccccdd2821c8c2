"""These tests compare Transformaly with the paper's formulas, and its Gaussians with scikit-learn."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from timm.models.vision_transformer import Attention, Block
from torch import Tensor

from lit_ad.batch import Batch
from lit_ad.data import AnomalyDataModule, Loading, OneClass
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.transformaly import TokenTeacher, Transformaly
from lit_ad.training import Calibration, FeatureCache
from tests.judging import predict_batch, scores_of, stacked


@pytest.fixture(scope="module")
def model(vit_file: Path) -> Transformaly:
    torch.manual_seed(0)
    return Transformaly("deit_tiny_patch16_224", str(vit_file)).eval()


def errors_of(model: Transformaly, images: Tensor) -> Tensor:
    """Compute the errors of images in [0, 1]: (B, 3, H, W) -> (B, L, N)."""
    return model.compare(images, model.teacher(images)).errors


def test_the_teacher_gives_the_tokens_of_every_block_and_the_embedding(
    model: Transformaly, imagenet: Callable[[Tensor], Tensor]
) -> None:
    images = torch.rand(2, 3, 32, 48)
    *tokens, embedding = model.teacher(images)
    assert [t.shape for t in tokens] == [(2, 1 + 2 * 3, 192)] * 13
    for block, before, after in zip(model.teacher.model.blocks, tokens[:-1], tokens[1:], strict=True):
        torch.testing.assert_close(block(before), after)
    torch.testing.assert_close(model.teacher.model.forward_features(imagenet(images))[:, 0], embedding)
    with pytest.raises(UserError, match="patches of 16 pixels"):
        model.teacher(torch.rand(1, 3, 40, 32))


def test_the_loss_is_a_mean_over_blocks_tokens_and_width(model: Transformaly) -> None:
    images = torch.rand(2, 3, 32, 32)
    *tokens, _ = features = model.teacher(images)
    expected = 0.0
    for i, student in enumerate(model.students):
        expected += (student(tokens[i]) - tokens[i + 1]).double().square().mean().item() / 12
    assert model.loss(model.compare(images, features)).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.compare(images, model.teacher(images)).errors.dtype == torch.float32


def test_the_loss_is_zero_where_the_students_equal_their_blocks(model: Transformaly) -> None:
    twin = copy.deepcopy(model)
    twin.students.load_state_dict(dict(model.teacher.model.blocks.named_parameters()))
    assert twin.loss(twin.compare(None, model.teacher(torch.rand(1, 3, 32, 32)))).item() == 0


def test_students_begin_at_random_and_blocks_2_to_11_count(model: Transformaly) -> None:
    for student, block in zip(model.students, model.teacher.model.blocks, strict=True):
        assert isinstance(student, Block) and isinstance(student.attn, Attention)
        assert [p.shape for p in student.parameters()] == [p.shape for p in block.parameters()]
        assert not torch.equal(student.attn.qkv.weight, block.attn.qkv.weight)
    assert model.first_block == 2 and len(model.token_mean) == 10  # blocks 2 to 11
    assert model.embedding_density.keep == 0.9 and model.error_density.keep == 1  # the share of the variance


def test_each_student_learns_from_its_own_error_alone(model: Transformaly) -> None:
    """The error of a student sends no gradient to another student or to the teacher."""
    errors_of(model, torch.rand(1, 3, 32, 32))[:, 5].sum().backward()
    touched = {
        name.split(".")[0] for name, p in model.students.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert touched == {"5"}
    assert all(p.grad is None for p in model.teacher.parameters())
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(
        map(id, model.students.parameters())
    )
    model.zero_grad()


def with_nominal(model: Transformaly, images: Tensor, batch: int) -> Transformaly:
    """Return a copy of the model that is calibrated on these training images."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.calibrate(((part, model.teacher(part)) for part in images.split(batch)), iter(()))
    return model


@torch.no_grad()
def test_the_scores_equal_scikit_learns_densities(model: Transformaly) -> None:
    contrast = torch.linspace(0.2, 2, 240).view(-1, 1, 1, 1)
    images = (0.5 + 0.2 * torch.randn(240, 3, 16, 16) * contrast).clamp(0, 1)
    train = (images[::2][:60].repeat(4, 1, 1, 1) + 0.002 * torch.randn(240, 3, 16, 16)).clamp(0, 1)
    test = images[1::2]
    fitted = with_nominal(model, train, 32)
    prediction = fitted.predict(test)

    def embeddings(x: Tensor) -> np.ndarray[Any, Any]:
        return np.asarray(model.teacher(x)[-1].double().numpy())

    def errors(x: Tensor) -> np.ndarray[Any, Any]:
        return errors_of(model, x)[:, 2:].mean(dim=2).double().numpy()

    pca = PCA(0.9, whiten=True, svd_solver="full").fit(embeddings(train))
    teacher = GaussianMixture(1, reg_covar=0.0).fit(pca.transform(embeddings(train)))
    blocks = GaussianMixture(1, reg_covar=0.0).fit(errors(train))
    a = -teacher.score_samples(pca.transform(embeddings(test)))
    b = -blocks.score_samples(errors(test))
    np.testing.assert_allclose(prediction.parts["teacher"].numpy(), a, rtol=1e-5)
    np.testing.assert_allclose(prediction.parts["blocks"].numpy(), b, rtol=1e-4)  # the errors themselves are in float32
    np.testing.assert_allclose(scores_of(prediction).numpy(), a + b, rtol=1e-4)
    for kind in ("teacher", "blocks"):
        fitted.scored_by = kind
        torch.testing.assert_close(fitted.predict(test).score, prediction.parts[kind])


@torch.no_grad()
def test_the_map_is_the_standardised_error_of_each_patch(model: Transformaly) -> None:
    train, test = torch.rand(8, 3, 32, 48), torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    fitted = with_nominal(model, train, 3)
    anomaly_map = fitted.predict(test.float() / 255).anomaly_map
    assert anomaly_map is not None
    assert anomaly_map.shape == (2, 1, 2, 3)
    nominal = errors_of(model, train)[:, 2:, 1:].double()
    mean, deviation = nominal.mean(dim=(0, 2)), nominal.std(dim=(0, 2), correction=0)
    found = errors_of(model, test / 255)[:, 2:, 1:].double()
    for y in range(2):
        for x in range(3):
            expected = ((found[:, :, 3 * y + x] - mean) / deviation).sum(dim=1)
            torch.testing.assert_close(anomaly_map[:, 0, y, x].double(), expected, rtol=1e-3, atol=1e-3)
    fitted.token_map = False
    assert fitted(test).anomaly_map is None


def test_a_cnn_and_a_wrong_first_block_are_refused(vit_file: Path, resnet_file: Path) -> None:
    with pytest.raises(UserError, match=r"needs a plain ViT.*resnet10t is a ResNet"):
        Transformaly("resnet10t", str(resnet_file))
    with pytest.raises(UserError, match="first_block must lie in 0 to 11"):
        Transformaly("deit_tiny_patch16_224", str(vit_file), first_block=12)


@pytest.fixture
def data(tmp_path: Path) -> AnomalyDataModule:
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "tones" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return AnomalyDataModule(
        OneClass(tmp_path / "tones", normal=["dark"]), View(16), batch_size=4, loading=Loading(num_workers=0)
    )


def trainer(tmp_path: Path, **kwargs: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    given = {"callbacks": [Calibration()], "enable_checkpointing": False, **quiet, **kwargs}
    return L.Trainer(default_root_dir=tmp_path, max_epochs=1, **given)


def small(vit_file: Path, **kwargs: Any) -> Transformaly:
    torch.manual_seed(0)
    return Transformaly("deit_tiny_patch16_224", str(vit_file), View(16), **kwargs)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_checkpoint_gives_the_scores_of_the_trained_model(
    vit_file: Path, data: AnomalyDataModule, tmp_path: Path, precision: Any
) -> None:
    model = small(vit_file, token_map=False)
    with pytest.raises(UserError, match="had none"):
        trainer(tmp_path).test(model, data, verbose=False)
    fitting = trainer(tmp_path, precision=precision)
    fitting.fit(model, data)
    assert model.error_density.fitted
    # 8 of the 10 images are for training: fewer than the blocks and the width
    before = torch.cat([scores_of(stacked(judgements)) for judgements in fitting.predict(model, data) or []])
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    again = small(vit_file, token_map=False)
    judged = trainer(tmp_path, precision=precision).predict(again, data, ckpt_path=tmp_path / "a.ckpt")
    after = torch.cat([scores_of(stacked(judgements)) for judgements in judged or []])
    assert torch.equal(before, after)
    assert before.isfinite().all()
    assert before[4:].min() > before[:4].max()  # light images have higher scores than dark images


def test_cached_features_fit_the_same_gaussians(vit_file: Path, data: AnomalyDataModule, tmp_path: Path) -> None:
    cached = AnomalyDataModule(data.source, data.view, batch_size=4, loading=Loading(num_workers=0))
    fitted = []
    for module, cache in ((data, FeatureCache(False)), (cached, FeatureCache(True, tmp_path / "cache", "float32"))):
        model = small(vit_file)
        trainer(tmp_path, callbacks=[cache, Calibration()]).fit(model, module)
        fitted.append(model)
    assert len(list((tmp_path / "cache").glob("*/about.json"))) == 2  # training and validation
    assert next(iter(cached.nominal_dataloader())).features is not None
    for one, other in zip(fitted[0].buffers(), fitted[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def test_the_nominal_dataloader_gives_every_training_image_once(data: AnomalyDataModule) -> None:
    data.setup()
    seen = [sample.image for batch in data.nominal_dataloader() for sample in batch.samples]
    assert seen == [sample.image for sample in data.splits.train]
    shares: list[Path] = []
    for rank in range(3):
        data.trainer = SimpleNamespace(
            strategy=SingleDeviceStrategy("cpu"), world_size=3, global_rank=rank, num_devices=1
        )  # type: ignore[assignment]
        shares += [sample.image for batch in data.nominal_dataloader() for sample in batch.samples]
        batches = list(data.nominal_dataloader())
        assert all(set(batch.index.remainder(3).tolist()) == {rank} for batch in batches)
    assert sorted(shares) == seen


def test_the_score_is_kept_with_padding_and_is_the_worst_of_tiles(
    model: Transformaly, batch_of: Callable[..., Batch]
) -> None:
    fitted = with_nominal(model, torch.rand(6, 3, 32, 32), 6)
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        padded = predict_batch(fitted, batch_of(pixels, boxes=[(0, 0, 20, 32)]))
        torch.testing.assert_close(padded.score, fitted(pixels).score)
        pixels = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
        fitted.view = View(None, tile=32, overlap=0, tile_batch=2)
        tiled = predict_batch(fitted, batch_of(pixels))
        whole = fitted(torch.cat([pixels[..., :32], pixels[..., 32:]]))
        torch.testing.assert_close(tiled.score, whole.score.amax()[None])
        assert set(tiled.parts) == {"teacher", "blocks", "both"}
        for name, score in tiled.parts.items():  # each part has the score of the worst tile
            torch.testing.assert_close(score, whole.parts[name].amax()[None])
        pair = predict_batch(fitted, batch_of(pixels.repeat(2, 1, 1, 1)))
        assert {len(score) for score in pair.parts.values()} == {2}
    assert isinstance(fitted.teacher, TokenTeacher)
