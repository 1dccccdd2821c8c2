"""MKD: the tests compute the loss by hand, compare the layers of cloners with the paper, and compare saliencies with
gradients of one image at a time."""

import copy
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from lit_ad.batch import Batch
from lit_ad.detector.scoring import Judgement
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods import MKD
from lit_ad.methods.mkd import POOL, Cloner, GuidedBackprop, plan_stages
from lit_ad.methods.network import as_images
from lit_ad.teachers import Backbone
from tests.judging import map_of, predict_batch, scores_of, stacked
from tests.methods.training import loader

Normalise = Callable[[Tensor], Tensor]
MODES = ("gradients", "smooth_grad", "guided_backprop")


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the first three blocks of a VGG-11 with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg11.pt"
    torch.save(Backbone("vgg11", (0, 1, 2)).model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vgg(vgg_file: Path) -> MKD:
    torch.manual_seed(0)
    return lively(MKD("vgg11", (0, 1, 2), str(vgg_file), copies=3, noise=0.3))


def lively(model: MKD) -> MKD:
    """Put the model into eval mode, with running statistics and scales that are not the identity."""
    for module in model.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return model.eval()


def pixels_of(n: int, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def images_of(n: int, side: int = 32) -> Tensor:
    return as_images(pixels_of(n, side))


# The cloners.


def test_the_small_cloner_of_vgg16_has_the_layers_of_the_paper() -> None:
    stages = plan_stages([128, 256, 512, 512], [4, 8, 16, 32])
    text = ",".join("M" if width == POOL else str(width) for stage in stages for width in stage)
    assert text == "16,16,M,16,128,M,16,16,256,M,16,16,512,M,16,16,512,M"


def test_the_small_cloner_fits_the_levels_of_other_sources() -> None:
    # The levels of a ResNet.
    assert plan_stages([64, 128], [4, 8]) == [[16, 16, POOL, 16, 64, POOL], [16, 16, 128, POOL]]
    assert plan_stages([24], [16])[0] == [16, 16, POOL, 16, 16, POOL, 16, 16, 16, POOL, 16, 16, 24, POOL]
    # Two of the outputs have the same stride.
    assert plan_stages([8, 9, 10], [1, 2, 2]) == [[16, 8], [16, 9, POOL], [16, 16, 10]]
    outputs = Cloner([8, 9, 10], [1, 2, 4])(torch.randn(2, 3, 16, 16))
    assert [tuple(o.shape) for o in outputs] == [(2, 8, 16, 16), (2, 9, 8, 8), (2, 10, 4, 4)]


def test_the_small_cloner_has_a_norm_after_each_convolution_except_before_a_pool() -> None:
    stage = Cloner([128, 256], [4, 8]).stages[0]
    assert isinstance(stage, nn.Sequential)
    kinds = " ".join(type(layer).__name__.removesuffix("2d") for layer in stage)
    assert kinds == "Conv BatchNorm ReLU Conv ReLU MaxPool Conv BatchNorm ReLU Conv ReLU MaxPool"
    for layer in stage:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            # The bound of Xavier's uniform distribution.
            bound = (6 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
            assert 0.9 * bound < layer.weight.detach().abs().max().item() <= bound


@pytest.mark.parametrize("cloner", ["small", "equal"])
@pytest.mark.parametrize("pool", [False, True])
def test_the_outputs_of_source_and_cloner_can_be_compared(cloner: str, pool: bool, resnet_file: Path) -> None:
    images = images_of(2)
    model = MKD("resnet10t", (2, 1), str(resnet_file), pool=pool, cloner=cloner).eval()  # type: ignore[arg-type]
    assert model.teacher.taps == (1, 2)
    assert model.loss(model.compare(images, model.teacher(images))).item() > 0.1
    if cloner == "equal":  # with the weights of its source, the cloner has no loss
        model.student.load_state_dict(model.teacher.model.state_dict(prefix="model."))
        assert model.loss(model.compare(images, model.teacher(images))).item() == pytest.approx(0, abs=1e-6)


# The loss.


def by_hand(model: MKD, seen: Tensor, weight: float) -> list[float]:
    """Compute the losses of the images under a small cloner, image by image in float64."""
    losses = []
    for image in seen:
        source = model.teacher.model
        teachers = source.forward_intermediates(image[None], indices=list(model.teacher.taps), intermediates_only=True)
        if model.teacher.name == "vgg11":
            teachers = [nn.functional.max_pool2d(t, 2) for t in teachers]
        total = 0.0
        for t, s in zip(teachers, model.student(image[None]), strict=True):
            a, b = t.detach().double().numpy().ravel(), s.detach().double().numpy().ravel()
            total += 1 - a @ b / np.sqrt((a @ a) * (b @ b)) + weight * np.mean((a - b) ** 2)
        losses.append(float(total))
    return losses


def test_the_loss_and_the_score_equal_the_formula(vgg: MKD, resnet_file: Path, imagenet: Normalise) -> None:
    pixels, images = pixels_of(3), pixels_of(3) / 255
    expected = by_hand(vgg, images, 0.5)  # images are scaled to [0, 1] and not normalised
    assert vgg.loss(vgg.compare(images, vgg.teacher(images))).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert vgg(pixels).score.tolist() == pytest.approx(expected, rel=1e-5)
    assert vgg.compare(images, vgg.teacher(images)).tolist() == pytest.approx(expected, rel=1e-5)
    plain = MKD("resnet10t", (1, 2), str(resnet_file), value_weight=0.01, saliency=None).eval()
    prediction = plain(pixels)
    assert prediction.anomaly_map is None
    assert prediction.score.tolist() == pytest.approx(by_hand(plain, images, 0.01), rel=1e-5)
    direction = MKD("resnet10t", (1, 2), str(resnet_file), direction_only=True, saliency=None, normalize=True).eval()
    assert direction(pixels).score.tolist() == pytest.approx(by_hand(direction, imagenet(images), 0.0), rel=1e-5)


@pytest.mark.parametrize("cloner", ["small", "equal"])
@pytest.mark.parametrize("normalize", [False, True])
def test_source_and_cloner_get_the_same_images(
    cloner: str, normalize: bool, resnet_file: Path, imagenet: Normalise
) -> None:
    model = MKD("resnet10t", (1, 2), str(resnet_file), normalize=normalize, cloner=cloner).eval()  # type: ignore[arg-type]
    seen: list[Tensor] = []
    inner = model.student.model if isinstance(model.student, Backbone) else model.student
    assert isinstance(inner, nn.Module)
    for network in (model.teacher.model, inner):
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = images_of(2)
    model.compare(images, model.teacher(images))
    assert len(seen) == 2
    for given in seen:
        torch.testing.assert_close(given, imagenet(images) if normalize else images)


def test_normalised_features_have_another_cache_key(resnet_file: Path) -> None:
    plain, normalised = (MKD("resnet10t", (1,), str(resnet_file), normalize=normalize) for normalize in (False, True))
    assert plain.teacher.identity != normalised.teacher.identity
    assert plain.teacher.fingerprint == normalised.teacher.fingerprint


def test_only_the_outputs_of_a_vgg_are_taken_after_a_pool(vgg: MKD, resnet_file: Path) -> None:
    resnet, pooled = (MKD("resnet10t", (1, 2), str(resnet_file), pool=pool) for pool in (None, True))
    assert [model.teacher.strides for model in (vgg, resnet, pooled)] == [[2, 4, 8], [4, 8], [8, 16]]
    sides = [level.shape[-1] for level in pooled.teacher(images_of(1))]
    assert [4 * side for side in sides] == [2 * level.shape[-1] for level in resnet.teacher(images_of(1))]
    assert pooled.teacher.identity != resnet.teacher.identity  # their features have different keys in the cache


def test_discrepancies_are_float32_under_autocast(vgg: MKD) -> None:
    images = images_of(2)
    with torch.autocast("cpu", torch.bfloat16):
        features = vgg.teacher(images)
        loss = vgg.compare(images, features)
        prediction = vgg(pixels_of(2))
    assert (features[0].dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(prediction, vgg(pixels_of(2)))  # saliency is computed in float32 throughout


def test_training_lowers_the_loss_and_leaves_the_source_unchanged(resnet_file: Path) -> None:
    torch.manual_seed(0)
    model = MKD("resnet10t", (1, 2), str(resnet_file)).train()
    images = images_of(4)
    features = model.teacher(images)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 1e-3
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.student.parameters()}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.loss(model.compare(images, features))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None for p in model.teacher.parameters())


# The saliencies.


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.where(ctx.saved_tensors[0] > 0, gradient.clamp(min=0), 0.0)


class Guided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        passed: Tensor = GuidedReLU.apply(x)
        return passed


def guided_twin(model: MKD) -> MKD:
    """Copy the model and replace the ReLU modules of its cloner; the source keeps its ReLU modules."""
    twin = copy.deepcopy(model)
    for module in list(twin.student.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Guided())
    return twin


def one_gradient(model: MKD, image: Tensor) -> Tensor:
    """Compute d loss / d image of one image in [0, 1] by `backward`: (3, H, W) -> (3, H, W)."""
    image = image[None].clone().requires_grad_()
    model.loss(model.compare(image, model.teacher(image))).backward()
    model.zero_grad()
    assert image.grad is not None
    return image.grad[0]


def reference(model: MKD, image: Tensor, mode: str) -> Tensor:
    """Compute the map of one image before the blur: (3, H, W) -> (H, W)."""
    if mode == "guided_backprop":
        return clipped(one_gradient(guided_twin(model), image))
    if mode == "gradients":
        return clipped(one_gradient(model, image))
    total = torch.zeros(image.shape[1:])
    for i in range(model.copies):  # the authors average copies after taking absolute values and clipping
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(i))
        total += clipped(one_gradient(model, image + (model.noise / float(image.max() - image.min())) ** 2 * noise))
    return total / model.copies


def clipped(gradient: Tensor) -> Tensor:
    """Sum absolute values over channels and clip: (3, H, W) -> (H, W)."""
    saliency = gradient.abs().sum(0)
    return saliency.clamp(max=float(np.quantile(saliency.double().numpy(), 0.99)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["vgg11 small", "resnet10t equal"])
def test_the_saliency_of_a_batch_equals_the_saliencies_of_its_images(
    mode: str, source: str, vgg: MKD, resnet_file: Path
) -> None:
    if source == "vgg11 small":
        model = vgg
    else:
        torch.manual_seed(1)
        model = lively(MKD("resnet10t", (1, 2), str(resnet_file), cloner="equal", copies=2, noise=0.3))
    model.saliency = mode  # type: ignore[assignment]
    images = images_of(4)
    _, saliency = model.differentiate(images)
    expected = torch.stack([reference(model, image, mode)[None] for image in images])
    # The last bit of a noisy pixel can switch a ReLU, which changes the gradient of the pixels that the ReLU sees.
    most, all_of_them = (0.9, 0.02) if mode == "smooth_grad" else (1.0, 1e-5)
    apart = ((saliency - expected).abs() / expected.max()).flatten()
    assert float(apart.quantile(most)) < 1e-5 and float(apart.max()) < all_of_them
    pixels = pixels_of(4)
    together, alone = model(pixels), [model(image[None]) for image in pixels]
    maps = torch.cat([p.anomaly_map for p in alone])
    assert float((together.anomaly_map - maps).abs().max() / maps.max()) < all_of_them
    torch.testing.assert_close(together.score, torch.cat([p.score for p in alone]), rtol=1e-5, atol=0)
    backwards, flipped = model(pixels.flip(0)), together.anomaly_map.flip(0)
    torch.testing.assert_close(backwards.anomaly_map, flipped, rtol=1e-4, atol=all_of_them * float(maps.max()))
    model.saliency = "gradients"


def test_the_map_is_the_clipped_and_blurred_gradient(vgg: MKD) -> None:
    images = images_of(2)
    prediction = vgg(pixels_of(2))
    for image, found in zip(images, prediction.anomaly_map, strict=True):
        raw = one_gradient(vgg, image).abs().sum(0).double().numpy()
        expected = gaussian_filter(np.minimum(raw, np.quantile(raw, 0.99)), 4)
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_maps_of_scale_image_equal_the_formula_of_the_authors(mode: str, vgg: MKD) -> None:
    """The map of each copy is scaled to 0 to 1, and so is their mean, before the blur."""
    model = copy.deepcopy(vgg)
    model.saliency, model.map_scale = mode, "image"  # type: ignore[assignment]

    def unit(values: np.ndarray) -> np.ndarray:
        return np.asarray((values - values.min()) / (values.max() - values.min()))

    for image, found in zip(images_of(2), model(pixels_of(2)).anomaly_map, strict=True):
        copies = [image]
        if mode == "smooth_grad":
            noise = [torch.randn(image.shape, generator=torch.Generator().manual_seed(i)) for i in range(3)]
            copies = [image + (0.3 / float(image.max() - image.min())) ** 2 * one for one in noise]
        source = guided_twin(vgg) if mode == "guided_backprop" else vgg
        raw = [unit(clipped(one_gradient(source, one)).double().numpy()) for one in copies]
        expected = gaussian_filter(unit(np.mean(raw, axis=0)), 4)
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-3)
    # The score of an image is its loss, without a scale.
    torch.testing.assert_close(model(pixels_of(2)).score, vgg(pixels_of(2)).score)
    # An even image has a map without a range.
    assert model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).anomaly_map.isfinite().all()


def test_the_noise_has_the_deviation_of_the_authors_formula(resnet_file: Path) -> None:
    model = MKD("resnet10t", (1,), str(resnet_file), saliency="smooth_grad", copies=1)
    assert model.noise == 0.05 and MKD("resnet10t", (1,), str(resnet_file)).copies == 50
    seen: list[Tensor] = []
    model.teacher.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    images = torch.rand(3, 3, 64, 64) * torch.tensor([1.0, 0.5, 0.01]).view(3, 1, 1, 1)
    model.differentiate(images)
    added = (seen[1] - images).std(dim=(1, 2, 3))
    span = images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))
    torch.testing.assert_close(added[:2], (0.05 / span[:2]) ** 2, rtol=0.05, atol=0)
    assert added[2] == pytest.approx(1, rel=0.05)  # an even image has no range, so the noise has an upper limit


def test_the_saliency_is_the_gradient_of_the_score(vgg: MKD) -> None:
    images = images_of(2)
    _, gradient = vgg.compute_gradient(images)
    step = 2e-3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    rise = scores_of(vgg.predict(images + step)) - scores_of(vgg.predict(images - step))
    expected = 2 * (gradient * step).flatten(1).sum(1)
    torch.testing.assert_close(rise, expected, rtol=0.02, atol=0)


def test_guided_backprop_changes_neither_later_gradients_nor_other_threads(vgg: MKD) -> None:
    images = images_of(2)
    _, plain = vgg.compute_gradient(images)
    elsewhere: list[Tensor] = []
    guiding = copy.deepcopy(vgg)
    guiding.saliency = "guided_backprop"
    _, guided = guiding.compute_gradient(images)
    with GuidedBackprop():
        thread = threading.Thread(target=lambda: elsewhere.append(vgg.compute_gradient(images)[1]))
        thread.start()
        thread.join()
    assert not torch.allclose(guided, plain, rtol=0.1)
    torch.testing.assert_close(elsewhere[0], plain)
    torch.testing.assert_close(vgg.compute_gradient(images)[1], plain)
    assert not any(module._forward_hooks for module in vgg.modules())


def test_a_model_in_training_mode_detects_as_in_eval_mode(vgg: MKD) -> None:
    model = copy.deepcopy(vgg)
    expected = model(pixels_of(3))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.student.state_dict().items()}
    torch.testing.assert_close(model(pixels_of(3)), expected)
    assert model.student.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.student.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# Under the Trainer.

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Keep(L.Callback):
    def __init__(self) -> None:
        self.seen: dict[str, list[list[Judgement]]] = {"validate": [], "test": []}

    def on_validation_batch_end(self, trainer, module, outputs, *_) -> None:  # type: ignore[no-untyped-def]
        self.seen["validate"].append(outputs)

    def on_test_batch_end(self, trainer, module, outputs, *_) -> None:  # type: ignore[no-untyped-def]
        self.seen["test"].append(outputs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_saliencies_in_the_trainers_inference_mode_equal_those_outside(
    mode: str, precision: Any, vgg: MKD, tmp_path: Path, batch_of: Callable[..., Batch]
) -> None:
    model = copy.deepcopy(vgg)
    model.saliency = mode  # type: ignore[assignment]
    pixels = [pixels_of(2, 16), pixels_of(3, 16)]
    data = loader([batch_of(p) for p in pixels])
    keep = Keep()
    trainer = L.Trainer(
        max_epochs=1, logger=False, callbacks=[keep], precision=precision, default_root_dir=tmp_path, **QUIET
    )
    trainer.fit(model.train(), data, data)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    trainer.test(model, data, verbose=False)
    (predicted,) = trainer.predict(model, loader([batch_of(pixels[1])])) or []
    model.float().eval()
    expected = model(pixels[1])
    # Mixed precision computes saliency in float32. Weights in half precision change the result slightly.
    tolerance: dict[str, Any] = {}
    if precision == "bf16-true":
        tolerance = {"rtol": 0.05, "atol": 0.1 * float(expected.anomaly_map.max())}
    for judgements in (keep.seen["validate"][-1], keep.seen["test"][-1], predicted):
        prediction = stacked(judgements)
        torch.testing.assert_close(prediction.anomaly_map, expected.anomaly_map, **tolerance)
        torch.testing.assert_close(prediction.score, expected.score, **tolerance)


def test_the_score_of_an_image_is_its_loss_also_with_padding_and_tiles(
    vgg: MKD, batch_of: Callable[..., Batch]
) -> None:
    padded = batch_of(pixels_of(2), boxes=[(0, 0, 20, 32), (0, 0, 32, 32)])
    torch.testing.assert_close(predict_batch(vgg, padded).score, vgg(pixels_of(2)).score)
    pixels = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    model = copy.deepcopy(vgg)
    model.view = View(None, tile=16, overlap=0, tile_batch=4)
    tiled = predict_batch(model, batch_of(pixels))
    scores = [
        float(vgg(image[None, :, y : y + 16, x : x + 16]).score)
        for image in pixels
        for y in (0, 16)
        for x in (0, 16, 32)
    ]
    assert scores_of(tiled).tolist() == pytest.approx([max(scores[:6]), max(scores[6:])], rel=1e-5)
    assert map_of(tiled).shape == (2, 1, 32, 48)


def test_the_teacher_does_not_run_where_features_are_cached(
    vgg: MKD, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch_of: Callable[..., Batch]
) -> None:
    pixels = pixels_of(2, 16)
    features = [level.half() for level in vgg.teacher(as_images(pixels))]
    model, twin = copy.deepcopy(vgg).train(), copy.deepcopy(vgg).train()
    expected = twin.loss(twin.compare(as_images(pixels), [level.float() for level in features])).item()
    monkeypatch.setattr(type(model.teacher), "forward", lambda *_: pytest.fail("the teacher ran"))
    data = loader([batch_of(pixels, features=features)])
    trainer = L.Trainer(max_epochs=1, logger=False, default_root_dir=tmp_path, **QUIET)
    trainer.fit(model, data)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected)


PROCESSES = """
import sys, torch, lightning as L
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from lit_ad.methods import MKD
from tests.methods.conftest import batch_of_pixels

pixels = torch.randint(0, 256, (4, 2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

class Batches(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return batch_of_pixels(pixels[i])

class Compare(L.Callback):  # runs in the processes, as the Trainer does
    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx):
        single = module.eval()(pixels[2 * batch_idx + trainer.global_rank])
        maps = torch.stack([torch.from_numpy(judgement.network_map) for judgement in outputs])[:, None]
        torch.testing.assert_close(maps, single.anomaly_map)
        torch.testing.assert_close(torch.tensor([judgement.score for judgement in outputs]), single.score)
        Path(sys.argv[3], f"equal {trainer.global_rank} {batch_idx}").touch()
    def on_fit_end(self, trainer, module):
        weights = torch.cat([p.detach().flatten() for p in module.student.parameters()])
        mine, theirs = trainer.strategy.all_gather(weights)
        assert torch.equal(mine, theirs)

torch.manual_seed(0)
model = MKD("resnet10t", (1,), sys.argv[1], saliency=sys.argv[2], copies=2)
data = DataLoader(Batches(), batch_size=None)
trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, logger=False,
    enable_model_summary=False, enable_checkpointing=False, default_root_dir=sys.argv[3],
    callbacks=[Compare()])
trainer.fit(model, data, data)
trainer.test(model, data, verbose=False)
"""


def test_two_processes_have_equal_weights_and_the_results_of_one_process(resnet_file: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    run = subprocess.run(
        [sys.executable, str(script), str(resnet_file), "smooth_grad", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    done = sorted(file.name for file in tmp_path.glob("equal *"))
    assert done == ["equal 0 0", "equal 0 1", "equal 1 0", "equal 1 1"]


# Errors, and the weights of ../shared.


def test_wrong_sizes_backbones_and_taps_are_refused(vgg: MKD, vit_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"stride 8.*\(30, 32\).*model.view.image_size"):
        vgg(torch.zeros(1, 3, 30, 32, dtype=torch.uint8))
    assert vgg.view.multiple == 8
    with pytest.raises(UserError, match="convolutional"):
        MKD("deit_tiny_patch16_224", (1,), str(vit_file))
    monkeypatch.setattr("lit_ad.teachers.backbone.load_weights", lambda *_: None)
    with pytest.raises(UserError, match="tap 5 of vgg11 is its last pool already"):
        MKD("vgg11", (3, 5))


@pytest.mark.parametrize("config", ["mkd", "mkd_cifar10", "mkd_vgg16_blocks1-3", "mkd_cifar10_vgg16_blocks1-3"])
def test_the_arguments_in_configs_fit_the_signature_of_mkd(config: str) -> None:
    model = yaml.safe_load((Path(__file__).parents[2] / f"configs/{config}.yaml").read_text())["model"]
    assert model["class_path"] == "lit_ad.methods.MKD"
    inspect.signature(MKD).bind(**model["init_args"])


def test_the_cut_vgg16_of_the_shared_folder_is_a_source(shared: Path) -> None:
    model = MKD("vgg16", (0, 1, 2), str(shared / "weights/vgg16_blocks1-3.safetensors")).eval()
    widths = [m.out_channels for m in model.student.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [16, 64, 16, 128, 16, 16, 256]
    prediction = model(pixels_of(1))
    assert prediction.anomaly_map.shape == (1, 1, 32, 32)
    assert float(prediction.anomaly_map.min()) >= 0
