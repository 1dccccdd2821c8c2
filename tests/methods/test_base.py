"""The base class: pixels to floats, padding never scored, tiles, each network runs once, checkpoints are detectors."""

import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils.data import DataLoader

from lit_ad import methods
from lit_ad.batch import Batch, Prediction, Sample
from lit_ad.checkpoint import read_checkpoint
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods import MKD, STFPM
from lit_ad.methods import __all__ as ALL_METHODS
from lit_ad.methods.base import Method
from lit_ad.methods.maps import upsample
from lit_ad.teachers import Teacher
from lit_ad.training import Calibration
from tests.judging import original_map, predict_batch, stacked

Batches = Callable[..., Batch]

METHODS = [
    name for name in ALL_METHODS if name != "EfficientAD"
]  # whose images are of 256: see tests/deploy/test_detector.py


class Brightness(Method):
    """Anomalous is what is bright: a map that is easy to follow."""

    def __init__(self, weights: str, view: View = View(None)) -> None:
        super().__init__(view)
        self.teacher = Teacher("resnet10t", (1,), weights)

    def compare(self, images: Tensor, features: list[Tensor]) -> Tensor:
        return images

    def loss(self, disagreement: Tensor) -> Tensor:
        return disagreement.mean()

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(disagreement.mean(dim=1, keepdim=True).float())


@pytest.fixture
def brightness(resnet_file: Path) -> Brightness:
    return Brightness(str(resnet_file))


def random_pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def trainer_in(folder: Path, **more: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, **{"enable_checkpointing": False, **quiet, **more})


class Keep(L.Callback):
    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def on_validation_batch_end(self, trainer: Any, model: Any, outputs: Any, *_: Any) -> None:
        self.outputs.append(outputs)


def validated(model: Method, batches: list[Batch]) -> tuple[list[Any], float]:
    """What validation_step says of each batch, and val/loss, by a Trainer."""
    keep = Keep()
    trainer = trainer_in(Path(), callbacks=[keep])
    trainer.validate(model, DataLoader(batches, batch_size=None), verbose=False)
    predictions = [stacked(judgements) for judgements in keep.outputs]
    return predictions, trainer.callback_metrics["val/loss"].item()


# Pixels.


def test_networks_get_images_in_0_to_1(brightness: Brightness, batch_of: Batches) -> None:
    pixels = random_pixels(2, 3, 32, 32)
    seen: list[Tensor] = []
    brightness.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    expected = pixels.float().div(255).mean(dim=1, keepdim=True)
    torch.testing.assert_close(brightness(pixels).anomaly_map, expected)
    torch.testing.assert_close(predict_batch(brightness, batch_of(pixels)).anomaly_map, expected)
    brightness.view = View(None, tile=32, overlap=0)  # and so does every tile
    torch.testing.assert_close(predict_batch(brightness, batch_of(pixels)).anomaly_map, expected)
    assert len(seen) == 4
    for images in [seen[0], seen[1], torch.cat(seen[2:])]:
        assert images.dtype == torch.float32
        torch.testing.assert_close(images, pixels / 255)


def test_padding_is_never_scored(brightness: Brightness, batch_of: Batches) -> None:
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, 20:] = 255  # below the content of the first image
    pixels[:, :, 3, 4] = 51
    batch = batch_of(pixels, boxes=[(0, 0, 20, 32), (0, 0, 32, 32)])
    assert predict_batch(brightness, batch).score.tolist() == pytest.approx([0.2, 1.0])
    brightness.view = View(None, tile=16, overlap=4)
    assert predict_batch(brightness, batch).score.tolist() == pytest.approx([0.2, 1.0])


class Coarse(Brightness):
    """A map of a quarter of the input's size, as features of a network give it."""

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(avg_pool2d(disagreement.mean(dim=1, keepdim=True).float(), 4))


def test_a_score_is_the_maximum_at_the_networks_input_size(resnet_file: Path, batch_of: Batches) -> None:
    """Padded or not: of one spot, two images with the same surroundings have the same score."""
    model = Coarse(str(resnet_file))
    pixels = torch.zeros(2, 3, 48, 32, dtype=torch.uint8)
    pixels[:, :, 8:12, 12:16] = 255  # one cell of the map
    pixels[1, :, 36:] = 255  # padding
    small = avg_pool2d(pixels.float().mean(dim=1, keepdim=True) / 255, 4)
    large = interpolate(small, size=(48, 32), mode="bilinear", align_corners=False)
    batch = batch_of(pixels, boxes=[(0, 0, 48, 32), (0, 0, 34, 32)])
    peak = large[0].max()
    assert 0.7 < peak < 0.8  # and 1 at the map's own size
    for prediction in (model(pixels), predict_batch(model, batch)):
        torch.testing.assert_close(prediction.anomaly_map, large)
        assert prediction.score[0] == prediction.anomaly_map[0].max() == peak
    assert predict_batch(model, batch).score.tolist() == [peak, peak]
    assert model(pixels).score[1] == 1  # which is not told of padding
    model.view = View(None, tile=16, overlap=0)
    tiled = predict_batch(model, batch)
    assert torch.equal(tiled.score, torch.stack([of.max() for of in tiled.anomaly_map]))
    assert tiled.score.max() < 0.9


def test_images_of_other_sizes_in_the_batch_are_not_seen(brightness: Brightness, batch_of: Batches) -> None:
    pixels = random_pixels(2, 3, 40, 32)
    batch = replace(batch_of(pixels, boxes=[(0, 0, 20, 28), (0, 0, 40, 32)]), canvases=[(24, 32), (40, 32)])
    seen: list[Tensor] = []
    brightness.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses: list[tuple[Tensor, int]] = []
    prediction = predict_batch(brightness, batch, losses)
    assert [tuple(images.shape) for images in seen] == [(1, 3, 24, 32), (1, 3, 40, 32)]
    assert [(float(loss), n) for loss, n in losses] == [(float(images.mean()), 1) for images in seen]
    alone = pixels[:1, :, :20, :28].float().mean(dim=1) / 255
    assert prediction.score[0].item() == pytest.approx(alone.max().item())
    assert prediction.anomaly_map.shape == (2, 1, 40, 32)
    assert not prediction.anomaly_map[0, :, 24:].any()  # nothing was there
    batch.sizes[0] = (20, 28)
    np.testing.assert_allclose(original_map(prediction, batch, 0), alone[0].numpy(), rtol=1e-6)


def test_what_a_view_crops_is_not_scored(resnet_file: Path) -> None:
    """The box of the content reaches beyond the input."""
    model = Brightness(str(resnet_file), View(32, crop=16))
    image = np.zeros((32, 32, 3), np.uint8)
    image[9, 9], image[0, 0] = 51, 255
    pixels, box = model.view(image)
    batch = Batch(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.arange(1), [], [(32, 32)], [box])
    batch.samples.append(Sample(Path("0.png"), 0))
    prediction = predict_batch(model, batch)
    assert prediction.score.tolist() == pytest.approx([0.2])
    whole = original_map(prediction, batch, 0)
    assert whole.shape == (32, 32) and np.unravel_index(whole.argmax(), whole.shape) == (9, 9)
    assert np.array_equal(np.nonzero(whole), [[9], [9]])


def test_tiles_give_what_the_whole_image_gives(brightness: Brightness, batch_of: Batches) -> None:
    pixels = random_pixels(2, 3, 50, 70)
    whole = predict_batch(brightness, batch_of(pixels))
    brightness.view = View(None, tile=16, overlap=4, tile_batch=3)
    tiled = predict_batch(brightness, batch_of(pixels))
    torch.testing.assert_close(tiled.anomaly_map, whole.anomaly_map)
    torch.testing.assert_close(tiled.score, whole.score)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_tile_that_is_not_finite_is_not_lost_among_others(resnet_file: Path, batch_of: Batches, value: float) -> None:
    class Scores(Brightness):
        def detect(self, disagreement: Tensor) -> Prediction:
            score = disagreement.flatten(1).amax(dim=1)
            broken = torch.where(score > 0.9, value, score)
            return Prediction(None, score, {"part": broken}) if self.in_part else Prediction(None, broken)

    for in_part in (False, True):
        model = Scores(str(resnet_file), View(None, tile=16, tile_batch=1)).eval()
        model.in_part = in_part
        pixels = torch.full((1, 3, 32, 32), 20, dtype=torch.uint8)
        assert [judgement.finite for judgement in model.judge(batch_of(pixels))] == [True]
        pixels[..., 0, 0] = 255
        assert [judgement.finite for judgement in model.judge(batch_of(pixels))] == [False]


def test_selecting_keeps_everything_together(batch_of: Batches) -> None:
    batch = batch_of(random_pixels(3, 3, 2, 2), features=[torch.arange(3.0).view(3, 1, 1, 1)])
    batch = replace(batch, masks=[None, torch.ones(2, 2), None], unrelated=random_pixels(3, 3, 2, 2))
    chosen = batch.select([False, True, True])
    assert (len(chosen), [s.image.name for s in chosen.samples]) == (2, ["1.png", "2.png"])
    assert chosen.index.tolist() == [1, 2]
    assert torch.equal(chosen.pixels, batch.pixels[1:])
    assert torch.equal(chosen.unrelated, batch.unrelated[1:])
    assert (len(chosen.sizes), len(chosen.boxes), len(chosen.masks)) == (2, 2, 2)
    assert chosen.masks[0] is batch.masks[1]
    assert chosen.features[0].flatten().tolist() == [1.0, 2.0]


def test_validation_loss_counts_each_image_once(brightness: Brightness, batch_of: Batches) -> None:
    batches = [batch_of(random_pixels(3, 3, 16, 16)), batch_of(random_pixels(1, 3, 16, 16) // 4)]
    (prediction, other), loss = validated(brightness, batches)
    assert (len(prediction.score), len(other.score)) == (3, 1)
    assert loss == pytest.approx(float(torch.cat([batch.pixels for batch in batches]).float().mean()) / 255)


# Every method, trained.


def made(name: str, small_models: dict[str, dict[str, Any]], view: View = View(64), **more: Any) -> Method:
    torch.manual_seed(0)
    given = {**small_models[name]["init_args"], "view": view, **more}
    return getattr(methods, name)(**given)


@pytest.fixture(scope="module")
def data(images: Path) -> AnomalyDataModule:
    return AnomalyDataModule(MVTec(images), View(64), batch_size=4, eval_batch_size=2, num_workers=0)


@pytest.fixture(scope="module")
def trained(
    small_models: dict[str, dict[str, Any]], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Method, Path]]:
    """Each method after an epoch, in eval mode, and its checkpoint."""
    found = {}
    for name in METHODS:
        folder, model = tmp_path_factory.mktemp("run"), made(name, small_models)
        trainer = trainer_in(folder, max_epochs=1, callbacks=[Calibration(0.2)])
        trainer.fit(model, AnomalyDataModule(MVTec(images), model.view, batch_size=4, num_workers=0))
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
        found[name] = model.eval(), folder / "checkpoints" / "last.ckpt"
    return found


@pytest.fixture
def run(trained: dict[str, tuple[Method, Path]], resnet_file: Path, tmp_path: Path) -> Path:
    """A checkpoint of STFPM, and its teacher's weights beside the run: the checkpoint knows them by another place."""
    shutil.copy(resnet_file, tmp_path / "moved.pt")
    checkpoint = read_checkpoint(trained["STFPM"][1])
    checkpoint["hyper_parameters"]["weights"] = str(tmp_path / "away" / "moved.pt")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def assert_same(one: Prediction, other: Prediction) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_validation_gives_what_separate_calls_give(
    name: str, trained: dict[str, tuple[Method, Path]], batch_of: Batches
) -> None:
    model = trained[name][0]
    pixels = [random_pixels(3, 3, 64, 64), random_pixels(1, 3, 64, 64)]
    predictions, loss = validated(model, [batch_of(p) for p in pixels])
    losses = []
    for prediction, images in zip(predictions, [p / 255 for p in pixels], strict=True):
        n = len(images)
        assert (prediction.score.shape, prediction.anomaly_map.shape[:2]) == ((n,), (n, 1))
        with torch.no_grad():
            features = model.describe(images)
            losses += [model.loss(model.compare(images, features)).item()] * n
            detected = model.detect(model.compare(images, features))
            # MKD's map takes gradients, and is not made by detect.
            anomaly_map = (model.predict(images) if name == "MKD" else detected).anomaly_map
            anomaly_map = upsample(anomaly_map, (64, 64))  # scores are those of the network's input size
        torch.testing.assert_close(prediction.anomaly_map, anomaly_map)
        score = model.score(anomaly_map) if detected.score is None else detected.score
        torch.testing.assert_close(prediction.score, score)
        torch.testing.assert_close(prediction.parts, detected.parts)
    assert loss == pytest.approx(sum(losses) / 4, rel=1e-5)


STUDENTS = {
    "STFPM": ["student"],
    "L2BT": ["forward_student", "backward_student"],
    "Transformaly": [f"students.{block}" for block in range(12)],
    "ReverseDistillation": ["bottleneck", "decoder"],
    "Dinomaly": ["bottleneck", *(f"decoder.{block}" for block in range(8))],
}


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("cached", [False, True])
def test_in_validation_each_network_runs_once_per_batch(
    name: str, cached: bool, trained: dict[str, tuple[Method, Path]], batch_of: Batches
) -> None:
    model = trained[name][0]
    networks = {of: model.get_submodule(of) for of in ["teacher", *STUDENTS[name]]}
    ran: Counter[str] = Counter()
    hooks = [network.register_forward_hook(lambda *_, of=of: ran.update([of])) for of, network in networks.items()]
    pixels = [random_pixels(2, 3, 64, 64) for _ in range(3)]
    features = [model.describe(p / 255) if cached else None for p in pixels]
    ran.clear()
    batches = [batch_of(p, features=f) for p, f in zip(pixels, features, strict=True)]
    predictions, loss = validated(model, batches)
    for hook in hooks:
        hook.remove()
    assert math.isfinite(loss) and all(p.score.isfinite().all() for p in predictions)
    assert ran == {of: 3 for of in networks if not (cached and of == "teacher")}


@pytest.mark.parametrize("name", METHODS)
def test_a_forgotten_eval_changes_nothing(
    name: str, trained: dict[str, tuple[Method, Path]], batch_of: Batches
) -> None:
    """A detector evaluates as in eval mode, and leaves every part in the mode it was in."""
    model, pixels = trained[name][0], random_pixels(3, 3, 64, 64)
    expected = model(pixels), predict_batch(model, batch_of(pixels))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.train()
    modes = [part.training for part in model.modules()]
    assert any(modes)
    for _ in range(2):
        assert_same(model(pixels), expected[0])
        assert_same(predict_batch(model, batch_of(pixels)), expected[1])
    assert [part.training for part in model.modules()] == modes
    model.eval()
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items() if tensor.isfinite().all()
    )


# A checkpoint is a detector.


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_is_a_detector(name: str, trained: dict[str, tuple[Method, Path]]) -> None:
    (model, path), pixels = trained[name], random_pixels(2, 3, 64, 64)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"]
    assert not any(key.startswith("teacher.") for key in checkpoint["state_dict"])
    assert checkpoint["lit_ad"]["teachers"]["teacher"]["fingerprint"] == model.teacher.fingerprint
    expected = model(pixels)
    assert expected.score.isfinite().all() and expected.anomaly_map.isfinite().all()
    for loader in (Method, type(model)):
        again = loader.load_from_checkpoint(path)
        assert type(again) is type(model)
        assert not any(module.training for module in again.modules())
        assert again.view == model.view and again.view.image_size == 64
        assert again.decision is not None and again.decision.false_alarm == 0.2
        assert again.decision.to_dict() == model.decision.to_dict()
        assert_same(again(pixels), expected)


def test_a_test_restores_the_decision(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    model, path = trained["STFPM"]
    other = made("STFPM", small_models)
    other.student.load_state_dict({name: tensor * 0 for name, tensor in other.student.state_dict().items()})
    trainer_in(Path()).test(other, data, ckpt_path=path, verbose=False)
    assert other.decision is not None and other.decision.to_dict() == model.decision.to_dict()
    pixels = random_pixels(1, 3, 64, 64)
    assert_same(other.eval()(pixels), model(pixels))


@pytest.mark.parametrize("beside", ["checkpoints", "."])
def test_weights_that_were_moved_beside_the_checkpoint(
    beside: str, run: Path, trained: dict[str, tuple[Method, Path]]
) -> None:
    shutil.move(run.parents[2] / "moved.pt", run.parents[1] / beside / "moved.pt")
    pixels = random_pixels(1, 3, 64, 64)
    assert_same(STFPM.load_from_checkpoint(run)(pixels), trained["STFPM"][0](pixels))


def test_weights_that_are_nowhere(run: Path, trained: dict[str, tuple[Method, Path]]) -> None:
    with pytest.raises(UserError) as caught:
        Method.load_from_checkpoint(run)
    root = run.parents[2]
    for place in ("away/moved.pt", "run/checkpoints/moved.pt", "run/moved.pt"):
        assert str(root / place) in str(caught.value)
    assert "`weights`" in str(caught.value)  # which is the remedy
    pixels = random_pixels(1, 3, 64, 64)
    again = Method.load_from_checkpoint(run, weights=root / "moved.pt")
    assert_same(again(pixels), trained["STFPM"][0](pixels))


def test_other_weights_are_refused(run: Path, resnet_file: Path, tmp_path: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    doubled = {key: tensor * 2 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save(doubled, tmp_path / "b.pt")
    own, other = (Teacher("resnet10t", (1, 2, 3), str(file)).fingerprint for file in (resnet_file, tmp_path / "b.pt"))
    said = f"trained with weights of resnet10t {own}, but the model has {other}: give model.weights as in training"
    with pytest.raises(UserError, match=said):
        STFPM.load_from_checkpoint(run, weights=tmp_path / "b.pt")
    torch.save(doubled, run.parent / "moved.pt")  # another file of that name, beside the checkpoint
    with pytest.raises(UserError, match=said):
        Method.load_from_checkpoint(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "resnet18"}, "the teacher resnet10t, but the model has resnet18: give model.backbone"),
        ({"taps": [1, 2]}, r"taps of resnet10t \[1, 2, 3\], but the model has \[1, 2\]: give model.taps"),
        ({"taps": [2, 1, 3]}, r"taps of resnet10t \[1, 2, 3\], but the model has \[2, 1, 3\]: give model.taps"),
    ],
)
def test_another_teacher_is_not_taken_for_other_weights(
    change: dict[str, Any], said: str, run: Path, resnet_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "resnet18.pt"
    torch.save(timm.create_model("resnet18").state_dict(), other)
    weights = other if "backbone" in change else resnet_file
    with pytest.raises(UserError, match=f"this checkpoint was trained with {said} as in training"):
        STFPM.load_from_checkpoint(run, weights=weights, **change)


def test_another_methods_checkpoint_is_refused(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    path = trained["STFPM"][1]
    with pytest.raises(UserError, match=r"last\.ckpt is a checkpoint of STFPM, not of MKD"):
        MKD.load_from_checkpoint(path)
    said = r"of lit_ad\.methods\.stfpm\.STFPM, not of lit_ad\.methods\.mkd\.MKD"
    with pytest.raises(UserError, match=said):
        trainer_in(Path()).test(made("MKD", small_models), data, ckpt_path=path, verbose=False)


def test_other_networks_are_refused(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    path = trained["MKD"][1]
    message = r"has other networks than the model \(student\..*: model.cloner small, not equal"
    with pytest.raises(UserError, match=message):
        MKD.load_from_checkpoint(path, cloner="equal")
    arguments = small_models["MKD"]["init_args"]
    other = MKD(**{**arguments, "view": View(**arguments["view"]), "cloner": "equal"})
    with pytest.raises(UserError, match=message):
        trainer_in(Path()).test(other, data, ckpt_path=path, verbose=False)


def test_another_view_is_refused(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    model, path = trained["STFPM"]
    for view, said in (
        (View(32), "trained at image_size 64, not 32: leave model.view"),
        (View(64, fit="pad", tile=32), "trained at fit stretch, not pad, tile None, not 32: leave model.view"),
    ):
        other = made("STFPM", small_models, view)
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(UserError, match=said):
            trainer_in(Path()).test(other, data, ckpt_path=path, verbose=False)
        assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
        with pytest.raises(UserError, match=said):
            Method.load_from_checkpoint(path, view=view)
    faster = made("STFPM", small_models, View(64, tile_batch=3))  # which changes no number
    trainer_in(Path()).test(faster, data, ckpt_path=path, verbose=False)
    loaded = Method.load_from_checkpoint(path, view=View(64, tile_batch=3))
    assert faster.view.tile_batch == loaded.view.tile_batch == 3
    pixels = random_pixels(1, 3, 64, 64)
    assert_same(loaded(pixels), model(pixels))
    assert_same(faster.eval()(pixels), model(pixels))


def test_a_checkpoint_for_a_device_that_is_not_there(run: Path) -> None:
    with pytest.raises(UserError, match=r"there is no device 'gpu' for PyTorch on this machine, only cpu"):
        Method.load_from_checkpoint(run, "gpu")


def test_a_class_of_ones_own(brightness: Brightness, tmp_path: Path) -> None:
    """It is loaded where it is imported already."""
    trainer = trainer_in(tmp_path)
    trainer.strategy.connect(brightness)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert read_checkpoint(tmp_path / "own.ckpt")["lit_ad"]["method"].endswith("test_base.Brightness")
    pixels = random_pixels(1, 3, 32, 32)
    assert_same(Method.load_from_checkpoint(tmp_path / "own.ckpt")(pixels), brightness(pixels))


def test_a_checkpoint_imports_no_code(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outsider.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = read_checkpoint(run)
    for name, said in (
        ("outsider.Thing", "of outsider.Thing, which is not known here: import outsider first"),
        ("shutil.rmtree", "of shutil.rmtree, which is not known here$"),  # imported, but no method
        ("lit_ad.methods.base.qualified_name", "which is not known here$"),
        ("lit_ad.methods.gone.Gone", "of lit_ad.methods.gone.Gone, which is not known here"),
        ("", "of no method of lit_ad, which is not known here$"),
    ):
        checkpoint["lit_ad"]["method"] = name
        torch.save(checkpoint, run)
        with pytest.raises(UserError, match=said):
            Method.load_from_checkpoint(run)
    assert "outsider" not in sys.modules and not (tmp_path / "ran").exists()
    del checkpoint["lit_ad"]  # of another program on Lightning
    torch.save(checkpoint, run)
    with pytest.raises(UserError, match="no method of lit_ad"):
        Method.load_from_checkpoint(run)
