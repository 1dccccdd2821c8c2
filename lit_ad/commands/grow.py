"""`lit-ad grow`."""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from tabulate import tabulate

from lit_ad.checkpoint import read_checkpoint
from lit_ad.commands.own_method import import_own_method
from lit_ad.counts import format_count
from lit_ad.data.loading import NEW_IMAGES
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.journal import PICTURES
from lit_ad.data.splits import Split, Splits, list_splits
from lit_ad.deploy.journal_file import NAME
from lit_ad.deploy.versions import Version
from lit_ad.detector.decision import NO_DECISION
from lit_ad.detector.detector import Detector
from lit_ad.detector.run_files import CONFIG, find_detector
from lit_ad.errors import UserError, check_number
from lit_ad.files import atomic_write, resolve_path
from lit_ad.line.comparison import compare, list_reasons_against, to_dict, to_rows
from lit_ad.line.growth import gather_images, read_samples, with_splits, write_samples
from lit_ad.line.shipping import (
    IMAGES,
    find_file,
    find_images,
    find_next_folder,
    find_same_version,
    find_shipped_version,
    find_version,
    register,
    ship,
)
from lit_ad.line.unfinished import grow_alone, undo_on_failure
from lit_ad.names import tell
from lit_ad.run import fit
from lit_ad.training.interruption import CALLER_TELLS

_LAST = "checkpoints/last.ckpt"


def grow(
    run: Path,
    /,
    journal: Path,
    steps: int,
    held_out: Literal["both", "new"] = "both",
    ship_worse: bool = False,
    seed: int = 0,
) -> None:
    """Train a detector further with confirmed images of its line, and ship the new detector if it is no worse.

    The images that people labelled good join the training images, and the training continues from
    RUN/checkpoints/last.ckpt. New thresholds are set. Then the old and the new detector judge images that were used for
    neither training and set no threshold: the old test, the confirmed defects, and good images of the line that were
    set aside. The old detector is the shipped one, or RUN if none is shipped yet.

    The new detector and a report are written to DIR/detectors/N. DIR/detector.ckpt is always the shipped detector:
    `lit-ad serve DIR/detector.ckpt --journal DIR` runs it. A new detector that is worse on the confirmed images is not
    shipped. `lit-ad journal DIR --rollback` ships the previous detector again.

    Args:
        run: The run to continue, with its configuration and last checkpoint. It may be DIR/detectors/N of an earlier
            growth.
        journal: DIR of `lit-ad serve MODEL --journal DIR`, with images that were labelled on the page /review.
        steps: The number of additional training steps.
        held_out: The images that set the thresholds: the old and the new held-out images, or only the new ones, for a
            line that has changed for good. New held-out images come from the random sample only.
        ship_worse: Ship the new detector even if it is worse on the confirmed images.
        seed: The seed that draws which new images are used for training, held out, or used for the test.

    Raises:
        UserError: The run or the journal is incomplete, another growth runs there, the new detector is worse and is not
            shipped, an earlier growth made the same detector, or another one was shipped meanwhile.
    """
    check_number("--steps", steps, least=1)
    run, journal = resolve_path(run), resolve_path(journal)
    if not (journal / NAME).is_file():
        raise UserError(f"{journal} has no {NAME}: --journal is DIR of `lit-ad serve MODEL --journal DIR`")
    with grow_alone(journal):
        _grow_alone(run, journal, steps, held_out == "new", ship_worse, seed)


def _grow_alone(run: Path, journal: Path, steps: int, only_new_decide: bool, ship_worse: bool, seed: int) -> None:
    """Grow a run, compare the new detector with the shipped one, and ship it, as `grow` says."""
    checkpoint, config = read_run(run)
    import_own_method(run / _LAST)
    splits = _read_splits(run, config)
    grown_from = _load(find_detector(run))
    try:
        with undo_on_failure(journal):
            number = register(journal, grown_from.card, find_detector(run))
            _keep_images(journal, number, splits)
            shipped = find_shipped_version(journal)
            before, old, compared = number, grown_from, None
            if shipped is not None and shipped.id != number:
                before, old, compared = shipped.id, _load(find_file(journal, shipped)), _find_splits(journal, shipped)
                print(f"The new detector is compared with version {before}, which is shipped, not with {run}")
            growth = gather_images(splits, journal, only_new_decide, seed, compared)
            counts = ", ".join(f"{count} {split}" for split, count in growth.joined.items() if count)
            print(f"New images by split: {counts}" if counts else "There are no new images")
            home = find_next_folder(journal)
            write_samples(growth.samples, home / IMAGES, journal / PICTURES)
            _train(run, home, int(checkpoint["global_step"]) + steps)
            new = Detector.load(home)
            if same := find_same_version(journal, new.card):
                raise UserError(
                    f"this growth makes version {same.id} again, which is {same.state}: label more images, give other "
                    f"--steps, or ship it with `lit-ad journal {journal} --ship {same.id}`"
                )
            comparisons, aurocs = compare(old, new, growth)
            report = json.dumps({**to_dict(comparisons, aurocs, growth.joined), "grown_from": number}, indent=2)
            with atomic_write(home / "growth.json") as temporary:
                temporary.write_text(report + "\n", encoding="utf-8")
            against = list_reasons_against(comparisons)
            state = "refused" if against and not ship_worse else "judged"
            grown = register(journal, new.card, find_detector(home), state=state, parent=before, report=report)
    except (KeyboardInterrupt, SystemExit):
        print(
            f"The growth was stopped and left nothing in {journal}: repeat the command to start again", file=sys.stderr
        )
        raise
    headers = ["wrong verdicts", "images", "old", "old, with new thresholds", "new", "95 % interval of new"]
    print(tabulate(to_rows(comparisons), headers=headers))
    if aurocs:
        print(f"Image AUROC on the old test: {aurocs['old']:.4f} old, {aurocs['new']:.4f} new")
    refusal = f"version {grown}, {home}, is not shipped, because"
    remedy = f"Ship it anyway with `lit-ad journal {journal} --ship {grown}`, or"
    if state == "refused":
        raise UserError(
            f"{refusal} it has {'; and '.join(against)}. {remedy} try more labels or another number of --steps"
        )
    present = find_shipped_version(journal)  # somebody may have shipped one meanwhile
    if present is not None and present.id != before:
        raise UserError(
            f"{refusal} it was compared with version {before}, and version {present.id} was shipped meanwhile. "
            f"{remedy} grow again"
        )
    if present is None:
        ship(journal, before, "before it grew")
    place = ship(journal, grown, f"grown from version {number} by {format_count(steps, 'step')}")
    print(f"Shipped as version {grown}: {place}. Restart a running service to load it:")
    print(f"lit-ad serve {place} --journal {journal}")
    print(f"lit-ad journal {journal} --rollback goes back to version {before}")


def read_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the last checkpoint and the configuration of a run. Raises UserError if one of them is missing."""
    for name in (_LAST, CONFIG):
        if not (run / name).is_file():
            raise UserError(f"{run} has no {name}: give a run's directory, so that its training can continue")
    return read_checkpoint(run / _LAST), yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))


def _read_splits(run: Path, config: dict[str, Any]) -> Splits:
    """Return the training, held-out and test images of a run, by its configuration or, if it was grown, its table."""
    table = config["data"]["source"].get("init_args", {}).get("table")
    if table is not None and Path(table).name == IMAGES and (run / IMAGES).is_file():
        return read_samples(run / IMAGES)  # the journal may have moved since
    source, _ = make_source(config["data"]["source"])
    return list_splits(source, Split.from_config(config))


def _load(file: Path) -> Detector:
    """Load a detector for the comparison. Raises UserError if it has no threshold."""
    import_own_method(file)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(NO_DECISION))
        detector = Detector.load(file)
    if detector.card.decision is None:
        raise UserError(f"{file} has no threshold, so it cannot be compared: set one with lit-ad recalibrate")
    return detector


def _train(run: Path, home: Path, steps: int) -> None:
    """Continue the training of a run with the images of `home`, up to step `steps`, as a new run in `home`."""
    # The category is set to None: otherwise the category of the run's own source would select images of the table.
    table = {"root": str(home), "table": IMAGES, "category": None}
    keys: dict[str, Any] = {
        "data.source": {"class_path": "lit_ad.Table", "init_args": table},
        "data.split.shots": None,
        "decision.folds": None,
        "trainer.max_steps": steps,
        "trainer.max_epochs": -1,
        "trainer.default_root_dir": str(home),
        "checkpoint.dirpath": None,
        "ckpt_path": str(run / _LAST),
    }
    tokens = {variable: variable.set(True) for variable in (CALLER_TELLS, NEW_IMAGES)}
    try:
        fit(run / CONFIG, keys=keys)
    finally:
        for variable, token in tokens.items():
            variable.reset(token)


def _keep_images(journal: Path, number: int, splits: Splits) -> None:
    """Save the list of this version's images, so that a later comparison uses no image on which this version was
    trained, and none that set its threshold."""
    version = find_version(journal, number)
    if find_images(journal, version) is None:
        write_samples(with_splits(splits), find_file(journal, version).parent / IMAGES, journal / PICTURES)


def _find_splits(journal: Path, version: Version) -> Splits | None:
    """Return the images of a version. If there is no table of them, print a line and return None."""
    table = find_images(journal, version)
    if table is None:
        tell(f"The training images of version {version.id} are not known: some of them may be in the comparison")
        return None
    return read_samples(table)
