"""Transformaly against the paper's formulas by hand, and its Gaussians against scikit-learn."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

from lit_ad.batch import Batch, Tiling
from lit_ad.data import AnomalyDataModule, OneClass
from lit_ad.gaussian import Moments
from lit_ad.methods.transformaly import TokenTeacher, Transformaly


@pytest.fixture(scope="module")
def model(vit_file: Path) -> Transformaly:
    torch.manual_seed(0)
    return Transformaly("deit_tiny_patch16_224", str(vit_file)).eval()


def test_the_teacher_tells_every_step(model: Transformaly) -> None:
    images = torch.randn(2, 3, 32, 48)
    *tokens, embedding = model.teacher(images)
    assert [t.shape for t in tokens] == [(2, 1 + 2 * 3, 192)] * 13
    for block, before, after in zip(model.teacher.model.blocks, tokens[:-1], tokens[1:], strict=True):
        torch.testing.assert_close(block(before), after)
    torch.testing.assert_close(model.teacher.model.forward_features(images)[:, 0], embedding)
    with pytest.raises(ValueError, match="patches of 16 pixels"):
        model.teacher(torch.randn(1, 3, 40, 32))


def test_the_loss_is_a_mean_over_blocks_tokens_and_width(model: Transformaly) -> None:
    images = torch.randn(2, 3, 32, 32)
    *tokens, _ = features = model.teacher(images)
    expected = 0.0
    for i, student in enumerate(model.students):
        expected += (student(tokens[i]) - tokens[i + 1]).double().square().mean().item() / 12
    assert model.loss(images, features).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.errors(model.teacher(images)).dtype == torch.float32


def test_students_that_are_their_blocks_make_no_error(model: Transformaly) -> None:
    twin = copy.deepcopy(model)
    twin.students.load_state_dict(dict(model.teacher.model.blocks.named_parameters()))
    assert twin.loss(torch.empty(0), model.teacher(torch.randn(1, 3, 32, 32))).item() == 0


def test_blocks_learn_alone(model: Transformaly) -> None:
    """A student's error sends no gradient to any other student, nor to the teacher."""
    model.errors(model.teacher(torch.randn(1, 3, 32, 32)))[:, 5].sum().backward()
    touched = {
        name.split(".")[0] for name, p in model.students.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert touched == {"5"}
    assert all(p.grad is None for p in model.teacher.parameters())
    optimizer = model.configure_optimizers()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(
        map(id, model.students.parameters())
    )
    model.zero_grad()


def with_nominal(model: Transformaly, images: Tensor, batch: int) -> Transformaly:
    """A copy whose training images are these."""
    model = copy.deepcopy(model)
    model.nominal = lambda: ((part, model.teacher(part)) for part in images.split(batch))  # type: ignore[method-assign]
    with torch.no_grad():
        model.fit_densities()
    return model


@torch.no_grad()
def test_scores_are_scikit_learns(model: Transformaly) -> None:
    images = torch.randn(240, 3, 16, 16) * torch.linspace(0.2, 2, 240).view(-1, 1, 1, 1)
    train, test = images[::2][:60].repeat(4, 1, 1, 1) + 0.01 * torch.randn(240, 3, 16, 16), images[1::2]
    fitted = with_nominal(model, train, 32)
    prediction = fitted(test)

    def embeddings(x: Tensor) -> np.ndarray[Any, Any]:
        return model.teacher(x)[-1].double().numpy()

    def errors(x: Tensor) -> np.ndarray[Any, Any]:
        return model.errors(model.teacher(x))[:, 2:].mean(dim=2).double().numpy()

    pca = PCA(0.9, whiten=True, svd_solver="full").fit(embeddings(train))
    teacher = GaussianMixture(1, reg_covar=0.0).fit(pca.transform(embeddings(train)))
    blocks = GaussianMixture(1, reg_covar=0.0).fit(errors(train))
    a = -teacher.score_samples(pca.transform(embeddings(test)))
    b = -blocks.score_samples(errors(test))
    assert prediction.parts is not None
    np.testing.assert_allclose(prediction.parts["teacher"].numpy(), a, rtol=1e-5)
    np.testing.assert_allclose(prediction.parts["blocks"].numpy(), b, rtol=1e-4)  # errors themselves are float32
    np.testing.assert_allclose(prediction.score.numpy(), a + b, rtol=1e-4)
    for kind in ("teacher", "blocks"):
        fitted.scored_by = kind  # type: ignore[assignment]
        torch.testing.assert_close(fitted(test).score, prediction.parts[kind])


@torch.no_grad()
def test_the_map_is_the_standardised_error_of_each_patch(model: Transformaly) -> None:
    train, test = torch.randn(8, 3, 32, 48), torch.randn(2, 3, 32, 48)
    fitted = with_nominal(model, train, 3)
    anomaly_map = fitted(test).anomaly_map
    assert anomaly_map is not None
    assert anomaly_map.shape == (2, 1, 2, 3)
    nominal = model.errors(model.teacher(train))[:, 2:, 1:].double()
    mean, deviation = nominal.mean(dim=(0, 2)), nominal.std(dim=(0, 2), correction=0)
    found = model.errors(model.teacher(test))[:, 2:, 1:].double()
    for y in range(2):
        for x in range(3):
            expected = ((found[:, :, 3 * y + x] - mean) / deviation).sum(dim=1)
            torch.testing.assert_close(anomaly_map[:, 0, y, x].double(), expected, rtol=1e-3, atol=1e-3)
    fitted.token_map = False
    assert fitted(test).anomaly_map is None


def test_processes_fit_the_gaussians_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of two shares, merged as all_reduce does it, are those of the whole."""
    vectors = torch.randn(9, 4, dtype=torch.float64) + 3
    shares = [Moments(4), Moments(4)]
    shares[0].update(vectors[:7])
    shares[1].update(vectors[7:])
    sums = [torch.cat([m.mean * m.count, torch.tensor([m.count], dtype=torch.float64)]) for m in shares]
    mean = vectors.mean(dim=0)
    scatters = [m.scatter + m.count * torch.outer(m.mean - mean, m.mean - mean) for m in shares]
    answers = iter([sum(sums), sum(scatters)])
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.copy_(next(answers)))
    shares[0].reduce(torch.device("cpu"))
    assert shares[0].count == 9
    torch.testing.assert_close(shares[0].mean, mean)
    torch.testing.assert_close(shares[0].covariance(), torch.from_numpy(np.cov(vectors.T.numpy(), bias=True)))


def test_errors_for_the_user(vit_file: Path, resnet_file: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a plain ViT.*resnet10t is a ResNet"):
        Transformaly("resnet10t", str(resnet_file))
    with pytest.raises(ValueError, match="first_block must lie in 0 to 11"):
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
    return AnomalyDataModule(OneClass(tmp_path / "tones", normal=["dark"]), image_size=16, batch_size=4, num_workers=0)


def trainer(tmp_path: Path, **kwargs: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, max_epochs=1, **{**quiet, "enable_checkpointing": False, **kwargs})


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_checkpoint_is_enough(vit_file: Path, data: AnomalyDataModule, tmp_path: Path, precision: Any) -> None:
    torch.manual_seed(0)
    model = Transformaly("deit_tiny_patch16_224", str(vit_file), token_map=False)
    with pytest.raises(ValueError, match="had none"):
        trainer(tmp_path).test(model, data, verbose=False)
    fitting = trainer(tmp_path, precision=precision)
    fitting.fit(model, data)
    assert model.error_density.fitted
    # 8 training images of the 10, fewer than the blocks and the width
    before = torch.cat([p.score for p in fitting.predict(model, data)])
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    again = Transformaly("deit_tiny_patch16_224", str(vit_file), token_map=False)
    after = torch.cat(
        [p.score for p in trainer(tmp_path, precision=precision).predict(again, data, ckpt_path=tmp_path / "a.ckpt")]
    )
    assert torch.equal(before, after)
    assert before.isfinite().all()
    assert before[4:].min() > before[:4].max()  # light ones are not dark


def test_cached_features_fit_the_same_gaussians(vit_file: Path, data: AnomalyDataModule, tmp_path: Path) -> None:
    cached = AnomalyDataModule(
        data.source, 16, batch_size=4, num_workers=0, cache_features=True, cache_dir=tmp_path, cache_dtype="float32"
    )
    fitted = []
    for module in (data, cached):
        torch.manual_seed(0)
        model = Transformaly("deit_tiny_patch16_224", str(vit_file))
        trainer(tmp_path).fit(model, module)
        fitted.append(model)
    assert list(tmp_path.glob("*/about.json"))
    for one, other in zip(fitted[0].buffers(), fitted[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def test_the_pass_sees_every_training_image_once(model: Transformaly, data: AnomalyDataModule) -> None:
    seen: list[str] = []
    model = copy.deepcopy(model)
    data.setup()
    for batch in data.nominal_dataloader():
        seen += batch.path
    assert seen == [str(s.image) for s in data.listed["train"]]
    shares: list[str] = []
    for rank in range(3):
        data.trainer = SimpleNamespace(world_size=3, global_rank=rank, lightning_module=model, num_devices=1)  # type: ignore[assignment]
        shares += [path for batch in data.nominal_dataloader() for path in batch.path]
        batches = list(data.nominal_dataloader())
        assert all(set(batch.index.remainder(3).tolist()) == {rank} for batch in batches)
    assert sorted(shares) == seen


def test_padding_and_tiles_keep_the_images_own_score(model: Transformaly) -> None:
    fitted = with_nominal(model, torch.randn(6, 3, 32, 32), 6)
    images = torch.randn(1, 3, 32, 32)
    batch = Batch(images, torch.zeros(1), torch.zeros(1), ["x"], [""], ["good"], [(20, 32)], [(0, 0, 20, 32)])
    with torch.no_grad():
        torch.testing.assert_close(fitted.predict_batch(batch).score, fitted(images).score)
        pixels = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
        tiled = fitted.predict_batch(replace(batch, image=pixels, box=[(0, 0, 32, 64)], tiling=Tiling(32, 0, 2)))
        tiles = torch.cat([fitted.teacher.normalize(pixels[..., :32]), fitted.teacher.normalize(pixels[..., 32:])])
        whole = fitted(tiles)
        torch.testing.assert_close(tiled.score, whole.score.amax()[None])
        assert tiled.parts is not None and whole.parts is not None
        assert set(tiled.parts) == {"teacher", "blocks", "both"}
        for name, score in tiled.parts.items():  # each the worst tile's
            torch.testing.assert_close(score, whole.parts[name].amax()[None])
        pair = replace(batch, image=pixels.repeat(2, 1, 1, 1), box=[(0, 0, 32, 64)] * 2, tiling=Tiling(32, 0, 2))
        assert {len(score) for score in (fitted.predict_batch(pair).parts or {}).values()} == {2}
    assert isinstance(fitted.teacher, TokenTeacher)
