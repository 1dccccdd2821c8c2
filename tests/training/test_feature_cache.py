"""With cached features, training, validation and statistics give the same results, the teacher runs once, and no
outdated feature is used."""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import albumentations as A
import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_ad.data import AnomalyDataModule, Loading, MVTec, Split
from lit_ad.errors import UserError
from lit_ad.features.layout import list_stores, read_runs
from lit_ad.files import cache_directory
from lit_ad.image.pixels import Pixels, Window, read_image
from lit_ad.image.view import View
from lit_ad.methods import L2BT, STFPM, Transformaly
from lit_ad.methods.base import Method
from lit_ad.teachers import Teacher
from lit_ad.training import Calibration, FeatureCache, feature_cache

VIT = "deit_tiny_patch16_224"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for i in range(10):
        path = tmp_path / f"part/train/good/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    (tmp_path / "part/test/good").mkdir(parents=True)
    shutil.copy(path, tmp_path / "part/test/good/0.png")
    return tmp_path / "part"


class Usage(NamedTuple):
    """The free bytes of a disk."""

    free: int


class Record(L.Callback):
    """Record the losses of every step and every validation, and how often the teacher ran in each stage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, teacher: type[Teacher]) -> None:
        self.losses: list[float] = []
        self.taught: list[str] = []
        self.decoded: list[str] = []
        self.stage = "fill"
        forward = teacher.forward

        def teach(teacher: Teacher, images: Tensor) -> list[Tensor]:
            self.taught.append(self.stage)
            return forward(teacher, images)

        def decode(path: Path, window: Window | None) -> Pixels:
            self.decoded.append(self.stage)
            return read_image(path, window)

        monkeypatch.setattr(teacher, "forward", teach)
        monkeypatch.setattr("lit_ad.data.dataset.read_image", decode)

    def on_train_batch_start(self, *_: Any) -> None:
        self.stage = "train"

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_validation_start(self, *_: Any) -> None:
        self.stage = "val"

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))

    def on_test_start(self, *_: Any) -> None:
        self.stage = "test"


def fit(
    model: Method,
    part: Path,
    home: Path,
    *callbacks: L.Callback,
    epochs: int = 3,
    batch_size: int = 4,
    data: AnomalyDataModule | None = None,
    **options: Any,
) -> Record:
    data = data or AnomalyDataModule(MVTec(part), model.view, batch_size, loading=Loading(num_workers=0))
    with pytest.MonkeyPatch.context() as monkeypatch:
        record = Record(monkeypatch, type(model.teacher))
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[*callbacks, record],
            default_root_dir=home,
            **options,
        )
        trainer.fit(model, datamodule=data)
    return record


def method(kind: str, resnet_file: Path, vit_file: Path, view: View = View(32)) -> Method:
    torch.manual_seed(0)
    if kind == "STFPM":
        return STFPM("resnet10t", (1, 2), str(resnet_file), view, lr=0.1)
    return L2BT(VIT, (1, 3), str(vit_file), view)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [("STFPM", "float32", 1e-5), ("L2BT", "float32", 1e-5), ("L2BT", "float16", 1e-3), ("STFPM", "float16", 2e-3)],
)
def test_losses_with_cached_features_equal_losses_without_the_cache(
    kind: str, dtype: Any, tolerance: float, part: Path, tmp_path: Path, resnet_file: Path, vit_file: Path
) -> None:
    plain = fit(method(kind, resnet_file, vit_file), part, tmp_path, FeatureCache(False, tmp_path / "features"))
    assert len(plain.losses) == 3 * (2 + 1) and plain.taught == ["train", "train", "val"] * 3
    assert not (tmp_path / "features").exists()
    for run in range(2):
        cache = FeatureCache(directory=tmp_path / "features", dtype=dtype)
        kept = fit(method(kind, resnet_file, vit_file), part, tmp_path, cache)
        np.testing.assert_allclose(kept.losses, plain.losses, rtol=tolerance)
        # The calls: one image, two batches of training, one batch of validation.
        assert kept.taught == ([] if run else ["fill"] * 4)
        if run:  # training reads no image where the method needs no pixels, but validation reads images
            assert len(kept.decoded) == (2 if kind == "L2BT" else 10)
    assert plain.losses[-2] < plain.losses[0]


class Louder(L2BT):
    """A method whose frozen part changes the features of its teacher."""

    def describe(self, images: Tensor) -> list[Tensor]:
        return [2 * level for level in super().describe(images)]


def test_a_changed_file_or_setting_gives_new_features(part: Path, tmp_path: Path, vit_file: Path) -> None:
    def run(view: View = View(32), dtype: Any = "float16", kind: type[L2BT] = L2BT, **options: Any) -> int:
        cache = FeatureCache(True, tmp_path / "features", dtype)
        return len(fit(kind(VIT, (1, 3), str(vit_file), view), part, tmp_path, cache, epochs=1, **options).taught)

    assert run() == 4
    assert run() == 0
    files = sorted((part / "train/good").iterdir())
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # the file has the same bytes but a new time
    assert run() == 4 and run() == 0
    assert run(View(32, interpolation="bicubic")) == 4 and run(View((32, 48))) == 4 and run(View(32, fit="pad")) == 4
    assert run(dtype="bfloat16") == 4
    assert run(kind=Louder) == 4 and run(kind=Louder) == 0
    assert run(precision="bf16-mixed") == 4
    assert run(batch_size=3) == 0  # the features do not depend on the batch size


def test_other_weights_and_other_taps_give_new_features(part: Path, tmp_path: Path, vit_file: Path) -> None:
    state = torch.load(vit_file, weights_only=True)
    torch.save({key: tensor + 0.01 for key, tensor in state.items()}, tmp_path / "other.pt")
    for weights, taps, runs in ((vit_file, (1, 3), 4), (tmp_path / "other.pt", (1, 3), 4), (vit_file, (2, 3), 4)):
        model = L2BT(VIT, taps, str(weights), View(32))
        assert len(fit(model, part, tmp_path, FeatureCache(True, tmp_path / "features"), epochs=1).taught) == runs


def test_features_of_tiles_are_cached(part: Path, tmp_path: Path, vit_file: Path) -> None:
    losses = []
    for enabled, tile_batch in ((False, 8), (True, 8), (True, 2)):
        model = method("L2BT", vit_file, vit_file, View(None, tile=32, tile_batch=tile_batch))
        record = fit(model, part, tmp_path, FeatureCache(enabled, tmp_path / "features", "float32"))
        losses.append(record.losses)
        if enabled:
            assert record.taught.count("train") == 0 and record.decoded.count("train") == 0
        if enabled and tile_batch == 8:
            assert len(record.decoded) == 8 + 2  # each image is read once for all its tiles
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)
    assert "fill" not in record.taught  # the number of tiles that run at once changes no feature


def test_tokens_are_cached_and_give_the_same_gaussians(part: Path, tmp_path: Path, vit_file: Path) -> None:
    """Transformaly's teacher gives tokens, and its Gaussians need all training images."""
    losses, scores = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = Transformaly(VIT, str(vit_file), View(32))
        cache = FeatureCache(enabled, tmp_path / "features", "float32")
        record = fit(model, part, tmp_path, cache, Calibration(false_alarm=0.5), epochs=1)
        losses.append(record.losses)
        assert model.decision is not None
        scores.append(model.decision.scores["part"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-2)
    assert set(record.taught) == {"fill"}


def test_features_of_randomly_changed_images_cannot_be_cached(part: Path, tmp_path: Path, vit_file: Path) -> None:
    def start(view: View = View(32), enabled: bool = True, **kwargs: Any) -> None:
        model = method("L2BT", vit_file, vit_file, view)
        cache = FeatureCache(enabled, tmp_path / "features")
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(accelerator="cpu", fast_dev_run=True, callbacks=[cache], **options)
        loading = Loading(num_workers=0, train_tiles=kwargs.pop("train_tiles", "all"))
        trainer.fit(model, AnomalyDataModule(MVTec(part), model.view, 4, loading=loading, **kwargs))

    flip = [A.HorizontalFlip(p=0.5)]
    with pytest.raises(UserError, match=r"cache.enabled .* but data.augment changes the image in every epoch"):
        start(augment=flip)
    with pytest.raises(UserError, match=r"data.loading.train_tiles: random changes the image"):
        start(View(None, tile=32), train_tiles="random")
    start(enabled=False, augment=flip)
    start(train_tiles="random")  # there are no tiles, so nothing is random
    assert not (tmp_path / "features").exists()  # a fast run writes no cache


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the lines that the cache prints."""
    lines: list[str] = []
    monkeypatch.setattr(feature_cache, "rank_zero_info", lines.append)
    return lines


def test_the_number_and_size_of_cached_features_are_printed(
    part: Path, tmp_path: Path, vit_file: Path, said: list[str]
) -> None:
    home = tmp_path / "features"
    for _ in range(2):  # 10 images with two taps of 2 x 2 patches of 192 numbers
        fit(method("L2BT", vit_file, vit_file), part, tmp_path, FeatureCache(directory=home), epochs=2)
        assert said.pop() == (
            f"Features of 10 images are cached in {home}, 30 KiB (float16); `lit-ad cache` lists and clears them"
        )
    assert not said
    assert [[run for run, _ in read_runs(store)] for store in list_stores(home)] == 2 * [[str(tmp_path)]]


class NoTeacher(STFPM):
    def teachers(self) -> dict[str, Teacher]:
        return {}


@pytest.mark.parametrize(
    ("view", "data", "trainer", "reason"),
    [
        (View(32), {"augment": [A.HorizontalFlip(p=0.5)]}, {}, "data.augment changes the images in every epoch"),
        (
            View(None, tile=32),
            {"loading": Loading(train_tiles="random", num_workers=0)},
            {},
            "data.loading.train_tiles: random changes the images",
        ),
        (View(None), {}, {}, "each image has its own size"),
        (View(32), {}, {"epochs": 1}, "training uses each image less than twice"),
        (View(32), {}, {"epochs": -1, "max_steps": 3}, "training uses each image less than twice"),
        (View(32), {}, {"epochs": 3, "limit_train_batches": 1}, "training uses each image less than twice"),
    ],
)
def test_features_are_not_cached_where_training_would_not_use_them_twice(
    view: View,
    data: dict[str, Any],
    trainer: dict[str, Any],
    reason: str,
    part: Path,
    tmp_path: Path,
    vit_file: Path,
    said: list[str],
) -> None:
    model = method("L2BT", vit_file, vit_file, view)
    module = AnomalyDataModule(MVTec(part), model.view, 4, **{"loading": Loading(num_workers=0), **data})
    record = fit(model, part, tmp_path, FeatureCache(directory=tmp_path / "features"), data=module, **trainer)
    assert [line.startswith(f"Features are not cached: {reason}") for line in said] == [True]
    assert record.taught.count("train") > 0 and not (tmp_path / "features").exists()


def test_features_are_cached_where_the_steps_use_each_image_twice(
    part: Path, tmp_path: Path, vit_file: Path, said: list[str]
) -> None:
    cache = FeatureCache(directory=tmp_path / "features")
    fit(method("L2BT", vit_file, vit_file), part, tmp_path, cache, epochs=-1, max_steps=4)
    assert said[0].startswith("Features of 10 images are cached in")


@pytest.mark.parametrize("folds", [2, "leave-one-out"])
def test_features_are_cached_where_the_trainings_of_folds_use_each_image_twice(
    folds: Any, part: Path, tmp_path: Path, vit_file: Path, said: list[str]
) -> None:
    model = method("L2BT", vit_file, vit_file)
    split = Split(folds=folds, fold=0)
    module = AnomalyDataModule(MVTec(part), model.view, 4, split=split, loading=Loading(num_workers=0))
    fit(model, part, tmp_path, FeatureCache(directory=tmp_path / "features"), data=module, epochs=1)
    assert said[0].startswith("Features of 10 images are cached in")


def test_a_method_without_a_teacher_caches_no_features(
    part: Path, tmp_path: Path, resnet_file: Path, said: list[str]
) -> None:
    model = NoTeacher("resnet10t", (1, 2), str(resnet_file), View(32))
    fit(model, part, tmp_path, FeatureCache(directory=tmp_path / "features"))
    assert said == ["Features are not cached: NoTeacher has no teacher"]


@pytest.mark.parametrize("scarce", ["disk", "memory", "directory"])
def test_features_are_not_cached_where_disk_memory_or_directory_do_not_allow_it(
    scarce: str, monkeypatch: pytest.MonkeyPatch, part: Path, tmp_path: Path, vit_file: Path, said: list[str]
) -> None:
    """10 images with two taps of 4 tokens of 192 numbers in half precision need 30 KiB."""

    def start(enabled: Any = "auto") -> Record:
        model = method("L2BT", vit_file, vit_file)
        return fit(model, part, tmp_path, FeatureCache(enabled, tmp_path / "features"), epochs=2)

    if scarce == "directory":
        (tmp_path / "features").write_text("not a folder")
        reason = f"cannot write to {tmp_path / 'features'}: File exists"
    elif scarce == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(50 * 2**10))
        reason = f"the cache needs 30 KiB, more than half of the free disk, 50 KiB in {tmp_path / 'features'}"
    else:
        monkeypatch.setattr(feature_cache, "available_memory", lambda: 50 * 2**10)
        reason = "the cache needs 30 KiB, more than half of this machine's memory"
    assert start().taught == ["fill"] + ["train", "train", "val"] * 2
    assert len(said) == 1 and said[0].startswith(f"Features are not cached: {reason}")
    if scarce == "directory":
        return
    assert not list((tmp_path / "features").iterdir())
    assert start(True).taught == ["fill"] * 4  # the user can still demand the cache
    said.clear()
    # The cache exists already.
    assert start().taught == [] and said[0].startswith("Features of 10 images are cached in")


def test_existing_caches_count_for_the_limit_of_half_the_disk(
    monkeypatch: pytest.MonkeyPatch, part: Path, tmp_path: Path, vit_file: Path, said: list[str]
) -> None:
    """The new cache needs 30 KiB beside the existing caches."""
    earlier = tmp_path / "features" / ("0" * 24) / "0.npy"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(bytes(2**20))
    (tmp_path / "features/mine").mkdir()
    (tmp_path / "features/mine/photograph.jpg").write_bytes(bytes(2**20))  # this folder is no cache

    def start(free: int) -> None:
        said.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free))
        fit(method("L2BT", vit_file, vit_file), part, tmp_path, FeatureCache(directory=tmp_path / "features"), epochs=2)

    start(2**20 + 50 * 2**10)
    assert said[0].startswith(
        "Features are not cached: the cache needs 30 KiB; with 1.0 MiB of existing caches that is more than half of "
        f"the free disk, 2.0 MiB in {tmp_path / 'features'}: free space with `lit-ad cache clear`, or "
    )
    assert sorted((tmp_path / "features").iterdir()) == [earlier.parent, tmp_path / "features/mine"]
    start(2**20 + 70 * 2**10)
    assert said[0].startswith("Features of 10 images are cached in")


def test_a_run_goes_on_without_a_cache_where_features_cannot_be_stored(
    part: Path, tmp_path: Path, vit_file: Path, said: list[str]
) -> None:
    class Huge(L2BT):
        def describe(self, images: Tensor) -> list[Tensor]:
            return [1e6 * level for level in super().describe(images)]

    def start(enabled: Any) -> Record:
        model = Huge(VIT, (1, 3), str(vit_file), View(32))
        return fit(model, part, tmp_path, FeatureCache(enabled, tmp_path / "features"), epochs=2)

    assert start("auto").taught.count("train") == 4
    assert "are too large for float16: set cache.dtype to bfloat16" in said[1]
    with pytest.raises(UserError, match="are too large for float16"):
        start(True)


def test_the_cache_is_in_the_cache_directory_of_the_user(
    monkeypatch: pytest.MonkeyPatch, part: Path, tmp_path: Path, vit_file: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    fit(method("L2BT", vit_file, vit_file), part, tmp_path, FeatureCache(True), epochs=1)
    # One store for training and one for validation.
    assert len(list((tmp_path / "home/lit_ad/features").glob("*/about.json"))) == 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache/lit_ad"


@pytest.mark.parametrize("enabled", [True, False])
def test_one_datamodule_serves_several_methods_in_turn(
    enabled: bool, part: Path, tmp_path: Path, resnet_file: Path, vit_file: Path
) -> None:
    """A method does not get the features of the method before, and gets the pixels that the method before did not
    need."""

    def others() -> list[Method]:
        torch.manual_seed(0)
        return [L2BT(VIT, (2, 3), str(vit_file), View(32)), STFPM("resnet10t", (1, 2), str(resnet_file), View(32))]

    expected = [fit(model, part, tmp_path, epochs=1).losses for model in others()]
    first = method("L2BT", resnet_file, vit_file)
    data = AnomalyDataModule(MVTec(part), first.view, 4, loading=Loading(num_workers=0))
    for model, losses in zip(others(), expected, strict=True):
        fit(first, part, tmp_path, FeatureCache(True, tmp_path / "features", "float32"), epochs=1, data=data)
        cache = FeatureCache(enabled, tmp_path / "features", "float32")
        record = fit(model, part, tmp_path, cache, epochs=1, data=data)
        np.testing.assert_allclose(record.losses, losses, rtol=1e-5)


class Hasty(L2BT):
    """A method that makes the training loader early to count steps, and then keeps that loader."""

    def configure_optimizers(self) -> Any:
        assert self.total_steps(why="is of no matter here") > 0
        return super().configure_optimizers()

    def on_fit_start(self) -> None:
        pass


def test_a_training_loader_made_before_the_features_is_an_error(part: Path, tmp_path: Path, vit_file: Path) -> None:
    def start(kind: type[L2BT], enabled: bool) -> Record:
        model = kind(VIT, (1, 3), str(vit_file), View(32))
        return fit(model, part, tmp_path, FeatureCache(enabled, tmp_path / "features"), epochs=1)

    class Patient(Hasty):
        on_fit_start = L2BT.on_fit_start

    with pytest.raises(RuntimeError, match="the train loader was made before its features were cached"):
        start(Hasty, True)
    assert start(Hasty, False).taught.count("train") == 2
    assert start(Patient, True).taught.count("train") == 0
