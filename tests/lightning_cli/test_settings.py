"""Settings are checked and completed before objects are made from them."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from lit_ad.errors import UserError
from lit_ad.lightning_cli.settings import (
    check_epochs_left,
    check_lengths,
    check_model_and_images,
    make_paths_absolute,
    skip_sanity_check,
    stop_after_validation,
)


@pytest.mark.parametrize(
    ("asked", "every", "expected"), [(None, 1, 0), (None, 10, None), (None, None, None), (2, 1, 2), (0, 10, 0)]
)
def test_only_rare_validations_keep_the_check_before_training(
    asked: int | None, every: int | None, expected: int | None
) -> None:
    trainer = Namespace(num_sanity_val_steps=asked, check_val_every_n_epoch=every)
    skip_sanity_check(trainer)
    assert trainer.num_sanity_val_steps == expected


def test_a_prediction_needs_a_model_and_images() -> None:
    model, images = Namespace(ckpt_path="a.ckpt"), Namespace(predict_path=Path("new"))
    check_model_and_images("predict", Namespace(**vars(model), data=images))
    check_model_and_images("test", Namespace(**vars(model), data=Namespace(predict_path=None)))
    with pytest.raises(UserError, match="predict needs images: lit-ad predict RUN IMAGES"):
        check_model_and_images("predict", Namespace(**vars(model), data=Namespace(predict_path=None)))
    with pytest.raises(UserError, match="test needs a trained model: lit-ad test RUN"):
        check_model_and_images("test", Namespace(ckpt_path=None, data=images))


def test_a_validation_needs_images_that_did_not_train() -> None:
    for folds, refused in ((None, False), (5, True)):
        config = Namespace(ckpt_path="a.ckpt", data=Namespace(split=Namespace(folds=folds)))
        with (
            pytest.raises(UserError, match=r"with decision\.folds all images are used for training")
            if refused
            else nullcontext()
        ):
            check_model_and_images("validate", config)


LENGTHS = {"max_epochs": 3, "max_steps": -1, "limit_train_batches": None, "limit_val_batches": None}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_epochs", "trainer.max_epochs is 0, so nothing would be trained"),
        ("max_steps", "trainer.max_steps is 0, so nothing would be trained"),
        ("limit_train_batches", "trainer.limit_train_batches is 0, so nothing would be trained"),
        ("limit_val_batches", "trainer.limit_val_batches is 0, so there would be no threshold"),
    ],
)
def test_a_fit_that_would_end_without_a_detector_is_refused(name: str, message: str) -> None:
    check_lengths(Namespace(trainer=Namespace(**LENGTHS)))
    with pytest.raises(UserError, match=message):
        check_lengths(Namespace(trainer=Namespace(**{**LENGTHS, name: 0})))


@pytest.mark.parametrize(
    ("epochs", "steps", "message"),
    [
        (5, -1, ""),  # as many as there were: the test is still to be done
        (6, None, ""),
        (None, 20, ""),
        (-1, -1, ""),  # without an end
        (4, -1, "is of epoch 5, but trainer.max_epochs is 4: give a larger one"),
        (-1, 19, "is of step 20, but trainer.max_steps is 19: give a larger one"),
        (9, 19, "is of step 20"),  # whichever comes first ends a training
    ],
)
def test_a_checkpoint_beyond_the_trainers_limit_is_refused(
    epochs: int | None, steps: int | None, message: str, tmp_path: Path
) -> None:
    """A checkpoint at the end of its fifth epoch, of four steps each."""
    torch.save({"epoch": 4, "global_step": 20, "state_dict": {}}, tmp_path / "last.ckpt")
    config = Namespace(ckpt_path=tmp_path / "last.ckpt", trainer=Namespace(max_epochs=epochs, max_steps=steps))
    if not message:
        check_epochs_left(config)
        return
    with pytest.raises(UserError, match=message):
        check_epochs_left(config)


def test_a_new_training_has_no_checkpoint_to_check() -> None:
    check_epochs_left(Namespace(ckpt_path=None, trainer=Namespace(max_epochs=1, max_steps=-1)))


def stopping(monitor: str, at_epoch_end: bool | None) -> Namespace:
    given = Namespace(monitor=monitor, check_on_train_epoch_end=at_epoch_end)
    return Namespace(class_path="lightning.pytorch.callbacks.EarlyStopping", init_args=given)


@pytest.mark.parametrize(
    ("monitor", "given", "expected"),
    [
        ("val/loss", None, False),
        ("val/loss", True, True),  # as the user has it
        ("train/loss", None, None),  # no validation has this value
    ],
)
def test_early_stopping_checks_right_after_the_validation(
    monitor: str, given: bool | None, expected: bool | None
) -> None:
    other = Namespace(class_path="lightning.pytorch.callbacks.Timer", init_args=Namespace(duration="00:01:00:00"))
    for callbacks in (stopping(monitor, given), [other, stopping(monitor, given)]):
        trainer = Namespace(callbacks=callbacks)
        stop_after_validation(trainer)
        changed = trainer.callbacks[1] if isinstance(trainer.callbacks, list) else trainer.callbacks
        assert changed.init_args.check_on_train_epoch_end is expected
    stop_after_validation(Namespace(callbacks=None))


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are text: the path of a file becomes absolute, and other names stay."""
    monkeypatch.chdir(tmp_path)
    Path("w.pt").touch()
    config = Namespace(data=Namespace(root=Path("images")), model=Namespace(weights="w.pt", deep_weights="hub"))
    make_paths_absolute(config)
    assert os.fspath(config.data.root) == f"{tmp_path}/images"
    assert config.model.weights == f"{tmp_path}/w.pt"
    assert config.model.deep_weights == "hub"
