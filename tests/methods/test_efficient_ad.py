"""These tests compare EfficientAD with the paper's formulas in NumPy."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lit_ad.batch import Others
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.efficient_ad import Autoencoder, Disagreement, EfficientAD, average_hardest, jitter, scale_map
from lit_ad.teachers.pdn import PDN
from lit_ad.training import Calibration
from tests.processes import run_processes

FLAT = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # quantiles


@pytest.fixture
def model(pdn_file: Path) -> EfficientAD:
    torch.manual_seed(0)
    return EfficientAD(str(pdn_file), width=1 / 16, jitter=0.0, dropout=0.0).eval()


def by_hand(values: Tensor) -> float:
    """Compute the mean of the values that reach their 0.999 quantile."""
    numbers = values.detach().double().numpy().ravel()
    return float(numbers[numbers >= np.quantile(numbers, 0.999)].mean())


@pytest.mark.parametrize("shape", [(1, 384, 56, 56), (3, 5, 7, 11), (1, 1, 1, 1001), (1, 1, 1, 2000), (1, 1, 1, 1)])
def test_the_mean_of_the_hardest_errors_equals_the_formula(shape: tuple[int, ...]) -> None:
    errors = torch.rand(shape, generator=torch.Generator().manual_seed(0)).square()
    assert average_hardest(errors, 0.999).item() == pytest.approx(by_hand(errors), rel=1e-6)


def test_only_the_hardest_errors_have_gradients() -> None:
    errors = torch.arange(5000.0).view(1, 2, 50, 50).requires_grad_()
    average_hardest(errors, 0.999).backward()
    assert errors.grad is not None
    expected = np.arange(5000) >= np.quantile(np.arange(5000), 0.999)
    np.testing.assert_allclose(errors.grad.flatten().numpy(), expected / expected.sum(), rtol=1e-6)


def test_the_mean_of_the_hardest_works_for_more_than_2_24_values() -> None:
    """A batch of 15 images of 256 pixels has more values; older versions of torch.quantile refuse that many values."""
    errors = torch.rand(15, 384, 56, 56, generator=torch.Generator().manual_seed(0))
    assert errors.numel() > 2**24
    assert average_hardest(errors, 0.999).item() == pytest.approx(by_hand(errors), rel=1e-6)


def mine(rank: int, store: Path, batches: list[Tensor]) -> None:
    """Compare the hardest errors of two processes with the hardest errors of one large batch."""
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for errors in batches:
        total = average_hardest(errors.chunk(2)[rank], 0.999, all_processes=True)
        dist.all_reduce(total)
        assert total.item() / 2 == pytest.approx(average_hardest(errors, 0.999).item(), rel=1e-6)
    dist.destroy_process_group()


def test_the_hardest_errors_are_found_over_all_processes(tmp_path: Path) -> None:
    """All of the hardest errors may lie in one process."""
    errors = torch.rand(4, 6, 50, 50, generator=torch.Generator().manual_seed(0))
    errors[:2] *= 3
    tied = (85 * errors).round() / 85  # with 256 different sizes, many errors equal the quantile
    for batch in (errors, tied):
        assert average_hardest(batch, 0.999).item() == pytest.approx(by_hand(batch), rel=1e-6)
    run_processes(mine, tmp_path / "store", [errors, tied])


def test_the_training_loss_equals_the_formula(model: EfficientAD) -> None:
    images, unrelated = torch.rand(2, 3, 256, 256), torch.rand(2, 3, 256, 256)
    model.teacher_mean.uniform_(-1, 1)
    model.teacher_deviation.uniform_(0.5, 2)
    features = model.describe(images)
    with torch.no_grad():
        loss = model.training_loss(images, features, Others(unrelated))
        without = model.training_loss(images, features, Others())
        validation = model.loss(model.compare(images, features))
        teacher = (features[0] - model.teacher_mean.view(1, -1, 1, 1)) / model.teacher_deviation.view(1, -1, 1, 1)
        normalised, other = model.teacher.normalize(images), model.teacher.normalize(unrelated)
        student, restored = model.student(normalised), model.autoencoder(normalised)
        penalty = model.student(other)[:, :384].double().square().mean().item()
    hard = by_hand((teacher - student[:, :384]).square())
    mean_squares = [(teacher - restored), (restored - student[:, 384:])]
    expected = hard + sum(difference.double().square().mean().item() for difference in mean_squares)
    assert without.item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(expected + penalty, rel=1e-5)
    assert validation.item() == pytest.approx(expected, rel=1e-5)


def test_errors_are_float32_under_mixed_precision(model: EfficientAD) -> None:
    images = torch.rand(1, 3, 256, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.student(model.teacher.normalize(images)).dtype == torch.bfloat16
        assert {errors.dtype for errors in model.compare(images, model.describe(images))} == {torch.float32}


def test_jitter_equals_torchvisions_functions() -> None:
    """The test compares each image with the one of three functions that was drawn."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    torch.manual_seed(0)
    images = torch.rand(24, 3, 8, 9)
    state = torch.random.get_rng_state()
    changed = jitter(images, 0.2)
    torch.random.set_rng_state(state)
    drawn = torch.rand(2, 24)
    kinds = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    seen = set()
    for image, result, factor, choice in zip(images, changed, drawn[0], drawn[1], strict=True):
        kind = kinds[int(3 * choice)]
        expected = kind(image, 0.8 + 0.4 * factor.item())
        # torchvision's weights of grey have four digits.
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-4)
        seen.add(kind)
    assert seen == set(kinds)
    assert not torch.equal(changed, images)
    torch.testing.assert_close(jitter(images, 0.0), images)


def test_both_autoencoder_terms_see_the_same_jittered_image(
    model: EfficientAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, other = torch.rand(1, 3, 256, 256), torch.rand(1, 3, 256, 256)
    monkeypatch.setattr("lit_ad.methods.efficient_ad.jitter", lambda given, most: other)
    with torch.no_grad():
        loss = model.training_loss(images, model.describe(images), Others())
        plain, jittered = (model.compare(these, model.describe(these)) for these in (images, other))
    expected = average_hardest(plain.student, 0.999) + jittered.autoencoder.mean() + jittered.student_autoencoder.mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("side", [256, 260, 320, 512])
def test_the_autoencoder_has_the_shape_of_the_teacher(side: int) -> None:
    sizes: list[tuple[int, ...]] = []
    network = Autoencoder(5, 1 / 32).eval()
    for layer in [network.encoder, *network.decoder, network.head]:
        layer.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    images = torch.rand(1, 3, side, 256)
    assert network(images).shape == PDN("small", 5, 1 / 32)(images).shape == (1, 5, -(-side // 4) - 8, 56)
    if side == 256:
        assert [size[0] for size in sizes] == [256, 3, 8, 15, 32, 63, 127, 56]


def test_the_autoencoder_has_the_layers_of_the_paper() -> None:
    network = Autoencoder(384)
    encoder = [(conv.in_channels, conv.out_channels) for conv in network.encoder if isinstance(conv, nn.Conv2d)]
    assert encoder == [(3, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64)]
    assert network.encoder(torch.rand(1, 3, 256, 256)).shape == (1, 64, 1, 1)
    assert isinstance(network.encoder[-1], nn.Conv2d)
    assert [conv.out_channels for conv in network.head if isinstance(conv, nn.Conv2d)] == [64, 384]
    assert sum(isinstance(layer, nn.Dropout) and layer.p == 0.2 for layer in network.modules()) == 6


def test_the_map_equals_the_formula(model: EfficientAD) -> None:
    generator = torch.Generator().manual_seed(0)
    errors = [torch.rand(2, 384, 56, 56, generator=generator) for _ in range(3)]
    model.quantiles = torch.tensor([[0.4, 0.6], [0.45, 0.5]])
    prediction = model.detect(Disagreement(*errors))
    student, both = errors[0].mean(dim=1, keepdim=True), errors[2].mean(dim=1, keepdim=True)
    inside = (0.1 * (student - 0.4) / (0.6 - 0.4) + 0.1 * (both - 0.45) / (0.5 - 0.45)) / 2
    assert prediction.anomaly_map is not None
    assert prediction.anomaly_map.shape == (2, 1, 64, 64)
    torch.testing.assert_close(prediction.anomaly_map[..., 4:-4, 4:-4], inside, rtol=1e-4, atol=1e-5)
    border = prediction.anomaly_map.clone()
    border[..., 4:-4, 4:-4] = 0
    assert not border.any()


def test_the_score_is_the_maximum_of_the_map_at_the_size_of_the_image(model: EfficientAD) -> None:
    model.quantiles = FLAT
    pixels = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        small = model.predict(pixels / 255).anomaly_map
        prediction = model(pixels)
    assert small is not None
    whole = interpolate(small, (256, 256), mode="bilinear")
    torch.testing.assert_close(prediction.anomaly_map, whole)
    torch.testing.assert_close(prediction.score, whole.amax(dim=(1, 2, 3)))


@pytest.mark.parametrize("centre", [(40, 40), (60, 130), (150, 72), (210, 210)])
@pytest.mark.parametrize("sides", [(256, 256), (256, 320)])
def test_a_planted_defect_is_found_at_its_place(
    model: EfficientAD, centre: tuple[int, int], sides: tuple[int, int]
) -> None:
    """The student has learned an even surface by heart, and the defect is a square. The centre of the map must lie
    within a cell (4 pixels) of the centre of the square. Nearer to the edge, patches that see the square would leave
    the image."""
    model.quantiles = FLAT
    plain = torch.full((1, 3, *sides), 128, dtype=torch.uint8)
    marked = plain.clone()
    marked[..., centre[0] - 4 : centre[0] + 4, centre[1] - 4 : centre[1] + 4] = 255
    with torch.no_grad():
        errors = (model.describe(marked / 255)[0] - model.describe(plain / 255)[0]).square()
        anomaly_map = model.detect(Disagreement(errors, errors, errors)).anomaly_map
    assert anomaly_map is not None
    found = interpolate(anomaly_map, sides, mode="bilinear")[0, 0].double()
    found = found * (found > 0.3 * found.max())
    for axis, place in enumerate(centre):
        pixels = torch.arange(sides[axis]).double() + 0.5
        assert (found.sum(1 - axis) @ pixels / found.sum()).item() == pytest.approx(place, abs=4)


def test_equal_quantiles_do_not_divide_by_zero() -> None:
    maps = torch.tensor([[[[0.5, 0.5], [0.5, 0.7]]]])
    same = torch.tensor(0.5)
    result = scale_map(maps, same, same)
    assert result.isfinite().all()
    assert (result == torch.tensor([[0, 0], [0, 1]])).logical_or(result > 0).all()
    assert result[0, 0, 0, 0] == 0


def test_prepare_computes_the_mean_and_deviation_of_teacher_features(model: EfficientAD) -> None:
    images = torch.rand(5, 3, 256, 260)
    features = model.describe(images)[0]
    model.prepare((part, [level]) for part, level in zip(images.split(2), features.split(2), strict=True))
    values = features.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.teacher_mean.double(), values.mean(dim=1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.teacher_deviation.double(), values.std(dim=1, correction=0), rtol=1e-4, atol=1e-6)
    standard = model.standardise_features([features]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(standard.std(dim=1, correction=0), torch.ones(384), rtol=1e-3, atol=1e-3)


def test_calibrate_computes_the_quantiles_of_held_out_maps(model: EfficientAD) -> None:
    images = torch.rand(3, 3, 256, 256)
    with torch.no_grad():
        model.calibrate(iter(()), ((part, model.describe(part)) for part in images.split(2)))
        maps = model.make_maps(model.compare(images, model.describe(images)))
    for row, anomaly_map in zip(model.quantiles, maps, strict=True):
        expected = np.quantile(anomaly_map.numpy(), [0.9, 0.995])
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-5)


def test_the_rate_falls_to_a_tenth_after_95_percent(model: EfficientAD, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "total_steps", lambda **_: 200)
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    assert isinstance(optimizer, torch.optim.Adam) and schedule["interval"] == "step"
    assert (optimizer.defaults["weight_decay"], optimizer.defaults["betas"]) == (1e-5, (0.9, 0.999))
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    assert rates == pytest.approx([1e-4] * 190 + [1e-5] * 10)


def test_small_images_and_an_untrained_model_are_refused(pdn_file: Path, model: EfficientAD) -> None:
    for view in (View(128), View((256, 255)), View(512, tile=128), View(512, crop=128)):
        with pytest.raises(UserError, match=r"needs 256 pixels a side or more, not .*: set model.view.image_size"):
            EfficientAD(str(pdn_file), width=1 / 16, view=view)
    assert EfficientAD(str(pdn_file), width=1 / 16, view=View(None, tile=256)).view.multiple == 4
    with pytest.raises(UserError, match="needs 256 pixels a side or more, not 252x300"):
        model(torch.zeros(1, 3, 252, 300, dtype=torch.uint8))
    with pytest.raises(UserError, match="has had none"):
        model.on_test_start()


@pytest.fixture
def surfaces(tmp_path: Path) -> Path:
    """Write a few images of 256 pixels, and photographs of other things."""
    generator = np.random.default_rng(0)
    for folder, count in (("part/train/good", 4), ("part/test/good", 1), ("others/deeper", 3)):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            pixels = generator.normal(120, 10, (256, 256, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def trainer(home: Path, **kwargs: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(
        **{"max_steps": 4, "max_epochs": -1, **quiet, **kwargs},
        default_root_dir=home,
        enable_checkpointing=False,
        callbacks=[Calibration()],
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_checkpoint_gives_the_scores_of_the_trained_model(pdn_file: Path, surfaces: Path, precision: Any) -> None:
    source = MVTec(surfaces / "part")
    model = EfficientAD(str(pdn_file), width=1 / 16, lr=1e-3)
    data = AnomalyDataModule(
        source, model.view, batch_size=3, loading=Loading(num_workers=0), unrelated=surfaces / "others"
    )
    fitting = trainer(surfaces, precision=precision)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*unrelated.*")
        fitting.fit(model, data)
    assert fitting.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)  # the last of 4 steps
    assert model.quantiles.isfinite().all()
    assert (model.teacher_deviation != 1).any()
    (before,) = fitting.predict(model, data) or []
    fitting.save_checkpoint(surfaces / "a.ckpt")
    state = torch.load(surfaces / "a.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith("teacher.")]
    again = EfficientAD.load_from_checkpoint(surfaces / "a.ckpt")
    (after,) = trainer(surfaces, precision=precision).predict(again, data) or []
    assert [judgement.score for judgement in before] == [judgement.score for judgement in after]
    assert before and all(judgement.finite for judgement in before)


def test_training_without_unrelated_images_gives_a_warning(pdn_file: Path, surfaces: Path) -> None:
    model = EfficientAD(str(pdn_file), width=1 / 16)
    data = AnomalyDataModule(MVTec(surfaces / "part"), model.view, batch_size=3, loading=Loading(num_workers=0))
    with pytest.warns(UserWarning, match=r"without unrelated images.*give data.unrelated"):
        trainer(surfaces, max_steps=1, limit_val_batches=0).fit(model, data)


def test_a_training_without_an_end_is_refused(pdn_file: Path, surfaces: Path) -> None:
    model = EfficientAD(str(pdn_file), width=1 / 16)
    data = AnomalyDataModule(MVTec(surfaces / "part"), model.view, batch_size=3, loading=Loading(num_workers=0))
    with pytest.raises(UserError, match=r"set trainer\.max_steps"):
        trainer(surfaces, max_steps=-1).fit(model, data)


def test_every_network_except_the_teacher_learns(model: EfficientAD) -> None:
    """A step against the gradient lowers the loss."""
    images, unrelated = torch.rand(1, 3, 256, 256), torch.rand(1, 3, 256, 256)
    features = model.describe(images)
    model.prepare([(images, features)])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = model.training_loss(images, features, Others(unrelated))
    loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert {id(p) for p in trained} == {id(p) for part in (model.student, model.autoencoder) for p in part.parameters()}
    steps = [parameter.grad for parameter in trained]
    size = sum(step.square().sum() for step in steps if step is not None)
    assert all(step is not None and step.any() for step in steps)
    with torch.no_grad():
        for parameter in trained:
            assert parameter.grad is not None
            parameter.sub_(0.01 * loss / size * parameter.grad)  # to first order, the step lowers the loss by 1 %
        assert model.training_loss(images, features, Others(unrelated)) < loss
