"""`decision.folds`: before the training on all nominal images, score each image by a training that left it out.

Each fold is a part of the nominal images. One training leaves the fold out and then scores it.
"""

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace

from lit_ad.batch import list_repeated
from lit_ad.counts import format_count
from lit_ad.data import AnomalyDataModule
from lit_ad.data.loading import check_full_batch
from lit_ad.data.record import common_folder, digest, identities
from lit_ad.data.splits import assign_folds, count_folds
from lit_ad.detector.decision import Decision
from lit_ad.detector.held_out import HELD, join_held
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.lightning_cli.settings import list_callbacks
from lit_ad.training.run_directory import quote_path

FOLDS = "folds"  # RUN/folds has FOLD.json, the scores of each finished fold, and FOLD, the run of an unfinished one
_ENDING = ("EarlyStopping", "Timer", "ProcessorTime")  # callbacks that end a training before its length
_NEVER = 10**9  # epochs between two validations; Lightning validates the last step anyway
_OF_SCORES = (  # beginnings of the keys on which a fold's scores depend
    *("model.", "data.", "seed_everything", "decision.area", "trainer.precision", "trainer.callbacks"),
    *("trainer.accumulate_grad_batches", "trainer.gradient_clip", "trainer.limit_train_batches"),
)
_NOT_OF_SCORES = (  # exceptions among them
    "data.predict_path",
    "data.split.fold",
    "data.loading.inspect",
    "data.loading.num_workers",
)


def fix_length(config: Namespace) -> None:
    """Let a training end after its full length, with the weights of its last step.

    All images are used for training, so no image is left on which an earlier epoch could be chosen.

    Raises:
        UserError: A setting would end the training earlier, or leave images without a score.
    """
    trainer, checkpoint = config.trainer, config.checkpoint
    if "decision" not in config:
        raise UserError("data.split.fold belongs to decision.folds, and distill has no decision: leave it out")
    for callback in list_callbacks(trainer):
        name = str(getattr(callback, "class_path", "")).rpartition(".")[2]
        if name in _ENDING:
            raise UserError(
                f"decision.folds needs trainings of one length: leave out {name}, and give trainer.max_epochs"
            )
    if trainer.max_time is not None:
        raise UserError("decision.folds needs trainings of one length: give trainer.max_epochs in place of max_time")
    if trainer.limit_val_batches not in (None, 1.0) or trainer.overfit_batches:
        key = "overfit_batches" if trainer.overfit_batches else "limit_val_batches"
        raise UserError(f"decision.folds scores every image: leave out trainer.{key}")
    checkpoint.monitor, trainer.val_check_interval, trainer.num_sanity_val_steps = None, None, 0
    trainer.check_val_every_n_epoch = _NEVER


def train_folds(cli: Any) -> Decision:
    """Train once without each fold, and return the decision from the scores of all left-out images.

    Finished folds are read from RUN/folds, and an interrupted fold is resumed. All processes do the same.

    Args:
        cli: The AnomalyCLI of the training on all images, with trainer, model and data made. Its `run_again(config)`
            trains with another configuration.

    Raises:
        UserError: Scores in RUN/folds come from another configuration, or from other images.
    """
    config, data = cli.config.fit, cli.datamodule
    data.prepare_data()
    numbers = assign_folds(data.splits.train, data.split.folds, data.split.seed)
    count, images, steps = count_folds(numbers), len(numbers), _count_steps(cli.trainer, data)
    home = Path(config.trainer.default_root_dir) / FOLDS
    settings = _describe_training(config, data, steps)
    finished = {} if config.overwrite else dict(read_folds(home, count, settings))
    cli.print_lines(
        f"decision.folds {data.split.folds}: {count + 1} trainings, about {count + 1} times as long as one. "
        f"{count} of them each leave out a part of the {images} nominal images, and score it. The last one has all "
        f"images. Each training takes {format_count(steps, 'step')} and keeps the weights of its last step, because no "
        "held-out image remains to choose better ones.",
        *([f"{len(finished)} of {count} folds are finished already, in {home}"] if finished else []),
    )
    began, missing = time.monotonic(), [fold for fold in range(count) if fold not in finished]
    for done, fold in enumerate(missing, 1):
        trained = cli.run_again(_configure_fold(cli.config, fold, home, steps, inspect=done == 1))
        if trained.model.decision is None:
            unscored = quote_path(home / str(fold + 1))
            raise UserError(f"the training in {unscored} has ended without scores: remove it, and start again")
        finished[fold] = _select_held_out_scores(trained.model.decision)
        if cli.trainer.is_global_zero:
            write_fold(home, fold, {"settings": settings, **finished[fold]})
        left = (time.monotonic() - began) / done * (len(missing) - done + 1)
        trained_on, scored = format_count(images - numbers.count(fold), "image"), numbers.count(fold)
        others = "the other" if scored == 1 else f"the {scored} others"
        cli.print_lines(
            f"Fold {fold + 1} of {count}: trained on {trained_on}, scored {others}; about "
            f"{timedelta(seconds=round(left))} remain, including the last training on all images"
        )
    sizes: dict[str, list[int]] = defaultdict(lambda: [0] * count)
    for sample, number in zip(data.splits.train, numbers, strict=True):
        if number is not None:
            sizes[sample.category][number] += 1
    return replace(merge(list(finished.values()), sizes), repeated=list_repeated(data.splits.train))


def _configure_fold(config: Namespace, fold: int, home: Path, steps: int, inspect: bool) -> Namespace:
    """Return the configuration of a fold's training. An interrupted training is resumed.

    Args:
        config: The configuration of the training on all images.
        fold: The fold's number, from 0.
        home: RUN/folds.
        steps: The length of the training.
        inspect: Whether to inspect the image files, if data.loading.inspect is set at all.
    """
    config = config.clone()
    fit, run = config.fit, home / str(fold + 1)
    last = run / "checkpoints/last.ckpt"
    fit.data.split.fold, fit.data.loading.inspect = fold, inspect and fit.data.loading.inspect
    fit.trainer.max_steps, fit.trainer.max_epochs, fit.trainer.logger, fit.dashboards = steps, -1, False, []
    fit.trainer.default_root_dir, fit.checkpoint.dirpath = str(run), None
    fit.checkpoint.save_top_k = 0  # last.ckpt has the last step
    fit.ckpt_path = str(last) if last.is_file() and not fit.overwrite else None
    return config


def _count_steps(trainer: L.Trainer, data: AnomalyDataModule) -> int:
    """Return the number of steps of the training on all images. Raises UserError if it has no end, or no batch."""
    items = math.ceil(len(data.images("train")) / trainer.world_size)
    if data.loading.drop_last:
        check_full_batch(items, data.batch_size)
    every = items // data.batch_size if data.loading.drop_last else math.ceil(items / data.batch_size)
    limit = trainer.limit_train_batches
    batches = min(every, limit) if isinstance(limit, int) else int(every * limit)
    if not batches:
        raise UserError(f"trainer.limit_train_batches {limit:g} leaves none of {every} batches: give a higher one")
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    ends = [math.ceil(batches / trainer.accumulate_grad_batches) * epochs]
    steps = min(ends if trainer.max_steps == -1 else [*ends, trainer.max_steps])
    if math.isinf(steps):
        raise UserError("decision.folds needs trainings of one length: give trainer.max_epochs or max_steps")
    return int(steps)


def _describe_training(config: Namespace, data: AnomalyDataModule, steps: int) -> dict[str, str]:
    """Return the keys of the configuration on which the scores of a fold depend, and a digest of the images."""
    chosen = {
        key: str(value)
        for key, value in config.items()
        if key.startswith(_OF_SCORES) and not key.startswith(_NOT_OF_SCORES)
    }
    images = identities(data.splits.train, common_folder(sample.image for sample in data.splits.train))
    return {**chosen, "decision.folds": str(data.split.folds), "steps": str(steps), "images": digest(images)}


def read_folds(home: Path, count: int, settings: dict[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the scores of each finished fold. Raises UserError if it had other settings, or if
    its file is damaged."""
    for fold in range(count):
        file = home / f"{fold + 1}.json"
        if not file.is_file():
            continue
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            then = record.pop("settings")
        except (ValueError, KeyError) as error:
            raise UserError(f"{file} is damaged: remove it, and the fold is trained again") from error
        changed = [key for key in {**then, **settings} if then.get(key) != settings.get(key)]
        if changed:
            raise UserError(
                f"{file} comes from a training that differs in {', '.join(changed[:5])}: train as before, or remove "
                f"{quote_path(home)}, or give --overwrite true"
            )
        yield fold, record


def write_fold(home: Path, fold: int, record: dict[str, Any]) -> None:
    """Write the scores of a finished fold, and remove its run directory."""
    home.mkdir(parents=True, exist_ok=True)
    with atomic_write(home / f"{fold + 1}.json") as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")
    shutil.rmtree(home / str(fold + 1), ignore_errors=True)


def _select_held_out_scores(decision: Decision) -> dict[str, Any]:
    """Return a decision's values of held-out images, as plain values for JSON."""
    values = decision.to_dict()
    return {name: values[name] for name in (*HELD, "also_chosen")}


def merge(records: list[dict[str, Any]], folds: Mapping[str, list[int]]) -> Decision:
    """Return the decision from the scores of all folds.

    Args:
        records: The values of each fold, as plain values.
        folds: For each category, the number of its images in each fold.
    """
    decisions = [Decision.from_dict(record) for record in records]
    chosen: dict[str, dict[str, None]] = defaultdict(dict)
    for decision in decisions:
        for category, phrases in decision.also_chosen.items():
            chosen[category] |= dict.fromkeys(phrases)
    also_chosen = {category: list(phrases) for category, phrases in chosen.items()}
    return Decision(**join_held([decision.held for decision in decisions]), also_chosen=also_chosen, folds=dict(folds))


def format_restart_options(config: Namespace) -> str:
    """Return the options with which to resume trainings of folds; "" if there are no folds."""
    if config.data.split.folds is None:
        return ""
    run = Path(config.trainer.default_root_dir)
    return f"--trainer.default_root_dir {quote_path(run if config.data.split.fold is None else run.parent.parent)}"
