"""A checkpoint is a detector: it is loaded completely, or it is refused in one line that names the difference."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from lit_ad import Detector
from lit_ad.checkpoint import read_checkpoint
from lit_ad.data import AnomalyDataModule
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods import MKD, STFPM
from lit_ad.methods.base import Method
from lit_ad.methods.detector_file import read_record, write_record
from lit_ad.teachers import Teacher
from lit_ad.teachers.weights import fingerprint
from tests.methods.training import METHODS, Brightness, assert_same, made, random_pixels, trainer_in


@pytest.fixture
def run(trained: dict[str, tuple[Method, Path]], resnet_file: Path, tmp_path: Path) -> Path:
    """Make a checkpoint of STFPM that names another place of its teacher's weights; the weights lie beside the run."""
    shutil.copy(resnet_file, tmp_path / "moved.pt")
    checkpoint = read_checkpoint(trained["STFPM"][1])
    checkpoint["hyper_parameters"]["weights"] = str(tmp_path / "away" / "moved.pt")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_loads_as_the_same_detector(name: str, trained: dict[str, tuple[Method, Path]]) -> None:
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
        assert again.decision is not None and model.decision is not None and again.decision.false_alarm == 0.2
        assert again.decision.to_dict() == model.decision.to_dict()
        assert_same(again(pixels), expected)


def test_a_test_loads_the_decision_of_the_checkpoint(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    model, path = trained["STFPM"]
    other = made("STFPM", small_models)
    assert isinstance(other, STFPM)
    other.student.load_state_dict({name: tensor * 0 for name, tensor in other.student.state_dict().items()})
    trainer_in(Path()).test(other, data, ckpt_path=path, verbose=False)
    assert other.decision is not None and model.decision is not None
    assert other.decision.to_dict() == model.decision.to_dict()
    pixels = random_pixels(1, 3, 64, 64)
    assert_same(other.eval()(pixels), model(pixels))


@pytest.mark.parametrize("beside", ["checkpoints", "."])
def test_moved_weights_are_found_beside_the_checkpoint(
    beside: str, run: Path, trained: dict[str, tuple[Method, Path]]
) -> None:
    shutil.move(run.parents[2] / "moved.pt", run.parents[1] / beside / "moved.pt")
    pixels = random_pixels(1, 3, 64, 64)
    assert_same(STFPM.load_from_checkpoint(run)(pixels), trained["STFPM"][0](pixels))


def test_missing_weights_are_an_error_that_lists_the_places(run: Path, trained: dict[str, tuple[Method, Path]]) -> None:
    with pytest.raises(UserError) as caught:
        Method.load_from_checkpoint(run)
    root = run.parents[2]
    for place in ("away/moved.pt", "run/checkpoints/moved.pt", "run/moved.pt"):
        assert str(root / place) in str(caught.value)
    assert "`weights`" in str(caught.value)  # the error names this argument as the remedy
    pixels = random_pixels(1, 3, 64, 64)
    again = Method.load_from_checkpoint(run, weights=root / "moved.pt")
    assert_same(again(pixels), trained["STFPM"][0](pixels))


def test_weights_with_another_fingerprint_are_refused(run: Path, resnet_file: Path, tmp_path: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    doubled = {key: tensor * 2 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save(doubled, tmp_path / "b.pt")
    own, other = (Teacher("resnet10t", (1, 2, 3), str(file)).fingerprint for file in (resnet_file, tmp_path / "b.pt"))
    said = f"trained with weights of resnet10t {own}, but the model has {other}: give model.weights as in training"
    with pytest.raises(UserError, match=said):
        STFPM.load_from_checkpoint(run, weights=tmp_path / "b.pt")
    torch.save(doubled, run.parent / "moved.pt")  # this file has the same name and lies beside the checkpoint
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
def test_another_teacher_or_other_taps_are_named_in_the_error(
    change: dict[str, Any], said: str, run: Path, resnet_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "resnet18.pt"
    torch.save(timm.create_model("resnet18").state_dict(), other)
    weights = other if "backbone" in change else resnet_file
    with pytest.raises(UserError, match=f"^{run} was trained with {said} as in training"):
        STFPM.load_from_checkpoint(run, weights=weights, **change)


def test_a_checkpoint_of_another_method_is_refused(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    path = trained["STFPM"][1]
    with pytest.raises(UserError, match=r"last\.ckpt is a checkpoint of STFPM, not of MKD"):
        MKD.load_from_checkpoint(path)
    said = r"of lit_ad\.methods\.stfpm\.STFPM, not of lit_ad\.methods\.mkd\.MKD"
    with pytest.raises(UserError, match=said):
        trainer_in(Path()).test(made("MKD", small_models), data, ckpt_path=path, verbose=False)


def test_a_checkpoint_with_other_networks_is_refused(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    path = trained["MKD"][1]
    message = r"^/.*ckpt has other networks than MKD here \(student\..*: model.cloner small, not equal"
    with pytest.raises(UserError, match=message):
        MKD.load_from_checkpoint(path, cloner="equal")
    arguments = small_models["MKD"]["init_args"]
    other = MKD(**{**arguments, "view": View(**arguments["view"]), "cloner": "equal"})
    with pytest.raises(UserError, match=message):
        trainer_in(Path()).test(other, data, ckpt_path=path, verbose=False)


def test_a_view_that_changes_scores_is_refused(
    trained: dict[str, tuple[Method, Path]], small_models: dict[str, dict[str, Any]], data: AnomalyDataModule
) -> None:
    model, path = trained["STFPM"]
    for view, said in (
        (View(32), "trained with image_size 64, not 32: give model.view"),
        (View(64, fit="pad", tile=32), "trained with fit stretch, not pad, tile None, not 32: give model.view"),
    ):
        other = made("STFPM", small_models, view)
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(UserError, match=said):
            trainer_in(Path()).test(other, data, ckpt_path=path, verbose=False)
        assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
        with pytest.raises(UserError, match=said):
            Method.load_from_checkpoint(path, view=view)
    faster = made("STFPM", small_models, View(64, tile_batch=3, mm_per_pixel=0.1))  # these two settings change no score
    trainer_in(Path()).test(faster, data, ckpt_path=path, verbose=False)
    loaded = Method.load_from_checkpoint(path, view=View(64, tile_batch=3))
    assert faster.view.tile_batch == loaded.view.tile_batch == 3
    pixels = random_pixels(1, 3, 64, 64)
    assert_same(loaded(pixels), model(pixels))
    assert_same(faster.eval()(pixels), model(pixels))


def test_a_device_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"there is no device 'gpu' for PyTorch on this machine, only cpu"):
        Method.load_from_checkpoint(run, "gpu")


def another_network(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["student.old"] = checkpoint["state_dict"].popitem()[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_network, r"has other networks than STFPM here \(student\.\S* is one difference\): lit_ad 0.1.0 has"),
        (lambda checkpoint: checkpoint["lit_ad"]["view"].update(old=1), "was written by lit_ad 0.1.0, .*'old'"),
        (lambda checkpoint: checkpoint["lit_ad"]["decision"].update(old=1), "was written by lit_ad 0.1.0, .*'old'"),
        (lambda checkpoint: checkpoint["lit_ad"].pop("teachers"), "was trained with the teacher None"),
        (lambda checkpoint: checkpoint.update(lit_ad=[1]), "was not written by lit_ad"),
    ],
)
def test_the_error_names_the_version_that_wrote_the_checkpoint(
    change: Callable[[dict[str, Any]], object],
    said: str,
    trained: dict[str, tuple[Method, Path]],
    tmp_path: Path,
    small_models: dict[str, dict[str, Any]],
    data: AnomalyDataModule,
) -> None:
    """Detector.load, load_from_checkpoint, a test, and a training that goes on give the same error."""
    run, checkpoint = tmp_path / "old.ckpt", read_checkpoint(trained["STFPM"][1])
    checkpoint["lit_ad"]["version"] = "0.1.0"
    change(checkpoint)
    torch.save(checkpoint, run)
    for load in (
        Detector.load,
        Method.load_from_checkpoint,
        lambda path: trainer_in(run.parent).test(made("STFPM", small_models), data, ckpt_path=path, verbose=False),
        lambda path: trainer_in(run.parent).fit(made("STFPM", small_models), data, ckpt_path=path),
    ):
        with pytest.raises(UserError, match=f"{run.name} {said}"):
            load(run)


def test_arguments_of_another_version_are_named_in_the_error(
    trained: dict[str, tuple[Method, Path]], tmp_path: Path
) -> None:
    run, checkpoint = tmp_path / "old.ckpt", read_checkpoint(trained["STFPM"][1])
    checkpoint["lit_ad"]["version"] = "0.1.0"
    checkpoint["hyper_parameters"]["old"] = 1
    torch.save(checkpoint, run)
    with pytest.raises(
        UserError, match=rf"^{run} was written by lit_ad 0.1.0, whose STFPM has other arguments \(.*'old'"
    ):
        Detector.load(run)


def test_a_checkpoint_of_a_users_own_class_is_loaded(resnet_file: Path, tmp_path: Path) -> None:
    """The class must be imported before."""
    brightness, trainer = Brightness(str(resnet_file)), trainer_in(tmp_path)
    trainer.strategy.connect(brightness)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert read_checkpoint(tmp_path / "own.ckpt")["lit_ad"]["method"].endswith("training.Brightness")
    pixels = random_pixels(1, 3, 32, 32)
    assert_same(Method.load_from_checkpoint(tmp_path / "own.ckpt")(pixels), brightness(pixels))


def test_a_checkpoint_imports_no_code(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outsider.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = read_checkpoint(run)
    for name, said in (
        ("outsider.Thing", "of outsider.Thing, which is not known here: import outsider first"),
        ("shutil.rmtree", "of shutil.rmtree, which is not known here$"),  # the function is imported, but is no method
        ("lit_ad.methods.base.refuse_not_finite", "which is not known here$"),
        ("lit_ad.methods.gone.Gone", "of lit_ad.methods.gone.Gone, which is not known here"),
        ("", "of no method of lit_ad, which is not known here$"),
    ):
        checkpoint["lit_ad"]["method"] = name
        torch.save(checkpoint, run)
        with pytest.raises(UserError, match=said):
            Method.load_from_checkpoint(run)
    assert "outsider" not in sys.modules and not (tmp_path / "ran").exists()
    del checkpoint["lit_ad"]  # another program that uses Lightning wrote this checkpoint
    torch.save(checkpoint, run)
    with pytest.raises(UserError, match=f"^{run} was not written by lit_ad"):
        Method.load_from_checkpoint(run)


def test_a_decision_is_saved_only_with_the_weights_that_scored_its_images(resnet_file: Path) -> None:
    """Between two validations, and where weights are averaged, the file has other weights: no threshold fits these
    weights."""
    method = Brightness(str(resnet_file))
    method.decision = Decision({"": np.array([0.5])})
    state = {"weight": torch.ones(2)}
    for scored_by, kept in ((None, True), (fingerprint(state), True), (fingerprint({"weight": torch.zeros(2)}), False)):
        method.decided_for = scored_by
        checkpoint: dict[str, Any] = {"state_dict": state}
        write_record(method, checkpoint)
        assert (checkpoint["lit_ad"]["decision"] is not None) is kept
    assert method.decision is not None  # the method itself keeps its decision


def test_a_window_of_auto_is_read_from_the_checkpoint(resnet_file: Path) -> None:
    file = str(resnet_file)
    checkpoint: dict[str, Any] = {"state_dict": {}}
    trained = Brightness(file, View(32, window=(10, 900)))
    write_record(trained, checkpoint)
    checkpoint["state_dict"] = trained.state_dict()
    again = Brightness(file, View(32, window="auto"))
    read_record(again, checkpoint)
    assert again.view == trained.view
    with pytest.raises(UserError, match=r"trained with window \(10, 900\), not \(10, 901\): give model.view"):
        read_record(Brightness(file, View(32, window=(10, 901))), checkpoint)
