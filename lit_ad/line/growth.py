"""Make the data set for `lit-ad grow`, which trains a detector further with images of its line.

The images that people confirmed are added to the images that the detector had.

Each image stays in one split for ever, even if it comes along the line several times: images with the same pixels count
as one. So no image that was used for training, or set a threshold, is ever used to compare detectors.
"""

import csv
import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lit_ad.batch import Sample, SplitName
from lit_ad.counts import format_count
from lit_ad.data.sources.journal import PICTURES, Labelled, count_gone, read_labelled
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.image.pixels import read_image, split_page
from lit_ad.machine import cores
from lit_ad.names import file_name, open_table, printable, tell
from lit_ad.threads import Pool

COLUMNS = ("path", "split", "label", "mask", "category", "defect", "item")
SAMPLED, SELECTED = "new good images, of the random sample", "new good images, kept for their scores"
DEFECTS, OLD_GOOD, OLD_DEFECTS = "confirmed defects", "old test, good", "old test, defects"


@dataclass
class Growth:
    """The images of a grown data set, and the images that compare the old and the new detector.

    Args:
        samples: The images of all splits.
        groups: The images of each comparison, at least one. No detector was trained on them, and they set no threshold.
        joined: The number of new images in each split.
    """

    samples: list[Sample]
    groups: dict[str, list[Sample]]
    joined: dict[str, int]


def gather_images(
    splits: Splits, folder: Path, only_new_decide: bool = False, seed: int = 0, compared: Splits | None = None
) -> Growth:
    """Add the confirmed images of a journal to a data set.

    The journal keeps a random sample of the images, and images with notable scores. Of the sample's good images, half
    are drawn for training, a quarter is held out to set the threshold, and the rest is used for the test. Other good
    images were kept because of their scores, so none of them sets the threshold: three quarters of them are used for
    training, the rest for the test. Defects are used only for the test. An image that is in the data set already stays
    in its split.

    Args:
        splits: The data set of the detector that grows.
        folder: The journal's folder.
        only_new_decide: Whether only new images are held out. If not, the old held-out images stay as well.
        seed: The seed of the draw.
        compared: The data set of the detector to compare with. None: it is the detector that grows, or has no list of
            its images.

    Raises:
        UserError: No image is labelled good, two labels contradict each other, or an image cannot be read.
    """
    labelled = _list_confirmed(folder, list(dict.fromkeys(sample.category for sample in splits.train)))
    own, others = list(with_splits(splits)), [] if compared is None else list(with_splits(compared))
    keys = _hash_images([*(sample.image for sample in (*own, *others)), *(sample.image for _, sample in labelled)])
    _refuse_two_labels([sample for _, sample in labelled], keys)

    def find_key(sample: Sample) -> str:
        return keys[sample.image]

    pictures = folder / PICTURES
    # The images of the data set that do not come from this journal.
    original_keys = {find_key(sample) for sample in own if not sample.image.is_relative_to(pictures)}
    # If an image is in several splits, training wins, then validation, then test.
    split_of_key = {find_key(sample): sample.split for sample in sorted((*own, *others), key=_rank_split)}
    own_keys = {find_key(sample) for sample in own}  # all images of the data set, also those of earlier growths
    drawn: dict[str, tuple[Labelled, Sample]] = {}  # by key, so that an image that came twice is taken once
    for each, sample in labelled:
        # If an image came twice, take it from the random sample: other images cannot set the threshold.
        if find_key(sample) not in original_keys and (find_key(sample) not in drawn or each.sampled):
            split = _choose_split(each, split_of_key.get(find_key(sample)), f"{seed}/{find_key(sample)}")
            drawn[find_key(sample)] = each, sample._replace(split=split)
    again = sum(find_key(sample) in original_keys for _, sample in labelled)
    if again:
        tell(
            f"{format_count(again, 'labelled image is', 'labelled images are')} already in the data set. "
            f"{'It stays in its present split' if again == 1 else 'They stay in their present splits'}."
        )
    if not any(sample.label == 0 for _, sample in drawn.values()):
        raise UserError(f"all images labelled good in {folder} are already in the data set: label more")

    joined: dict[str, int] = defaultdict(int)
    for name, (_, sample) in drawn.items():
        joined[sample.split] += name not in own_keys
    new = {split: [s for _, s in drawn.values() if s.split == split] for split in ("train", "validation", "test")}
    good, defects = ({find_key(sample) for _, sample in labelled if sample.label == label} for label in (0, 1))

    def is_nominal(sample: Sample) -> bool:  # an image of the journal is nominal only as long as it is labelled good
        return find_key(sample) not in defects and (
            find_key(sample) in good or not sample.image.is_relative_to(pictures)
        )

    taken_back = [sample for sample in (*splits.train, *splits.val) if not is_nominal(sample)]
    if taken_back:
        count = format_count(len(taken_back), "earlier image is", "earlier images are")
        tell(f"{count} no longer labelled good: left out of training and of the held-out images")
    train = [*splits.train, *(sample for sample in new["train"] if find_key(sample) not in own_keys)]
    held_out_keys = {find_key(sample) for sample in new["validation"]}
    old_val = [] if only_new_decide else [sample for sample in splits.val if find_key(sample) not in held_out_keys]
    if not splits.val:
        tell("The run used all of its images for training, so only new images set the threshold")
    train, val = (list(filter(is_nominal, part)) for part in (train, [*old_val, *new["validation"]]))
    if not val:
        raise UserError(
            f"no image in {folder} can set the threshold: label more images of its random sample good "
            "(--watch.sample sets its size)"
        )
    # Images that are used for the training of the old or the new detector, or set a threshold. They are not compared.
    used_keys = {name for name, split in split_of_key.items() if split != "test"} | {
        find_key(sample) for sample in (*train, *val)
    }
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in splits.test:
        if find_key(sample) in original_keys - used_keys and not sample.image.is_relative_to(pictures):
            groups[OLD_DEFECTS if sample.label else OLD_GOOD].append(sample)
    for each, sample in drawn.values():
        if sample.split == "test" and find_key(sample) not in used_keys:
            groups[DEFECTS if sample.label else SAMPLED if each.sampled else SELECTED].append(sample)
    test = [sample for samples in groups.values() for sample in samples]
    return Growth(list(with_splits(Splits(train, val, test))), dict(groups), dict(joined))


def _list_confirmed(folder: Path, categories: Sequence[str]) -> list[tuple[Labelled, Sample]]:
    """List the images of a journal that are labelled good or defect and whose category is in the data set.

    Raises:
        UserError: No such image is labelled good.
    """
    if gone := count_gone(folder):
        tell(f"{format_count(gone, 'labelled image')} without a picture, which somebody removed: left out")
    everything = [each for each in read_labelled(folder) if each.label != "unsure"]
    if not any(each.label == "good" for each in everything):
        raise UserError(f"no image in {folder} is labelled good: label some on the service's page, /review")
    listed, others = [], set[str]()
    for each in everything:
        category = each.category if each.category or len(categories) > 1 else categories[0]
        if category not in categories:
            others.add(category)
            continue
        kind = (each.defect or "anomalous") if each.label == "defect" else "good"
        image = folder / PICTURES / each.picture
        listed.append((each, Sample(image, int(each.label == "defect"), None, category, kind, "test")))
    names = ", ".join(sorted(printable(name) or "no category" for name in others))
    if not any(each.label == "good" for each, _ in listed):
        raise UserError(
            f"the images labelled good in {folder} are of {names}, and RUN is of {', '.join(categories)}: grow the run "
            "of that product, or give the journal of this one"
        )
    if others:
        left_out = format_count(len(everything) - len(listed), "labelled image")
        tell(f"{left_out} of {names}: left out, because RUN is of {', '.join(categories)}")
    return listed


def _hash_images(images: Iterable[Path]) -> dict[Path, str]:
    """Return a key of each image, which is the same for the same pixels. Raises UserError if one cannot be read."""
    paths = list(dict.fromkeys(images))
    with Pool(cores()) as pool:
        return dict(zip(paths, pool.map(_hash_image, paths), strict=True))


def _hash_image(image: Path) -> str:
    pixels = read_image(image)
    return hashlib.blake2b(pixels.tobytes() + str(pixels.shape).encode(), digest_size=16).hexdigest()


def _refuse_two_labels(samples: Iterable[Sample], keys: dict[Path, str]) -> None:
    """Raise UserError if two images with the same pixels are labelled good and defect."""
    first: dict[str, Sample] = {}
    for sample in samples:
        other = first.setdefault(keys[sample.image], sample)
        if other.label != sample.label:
            names = f"{other.image.name} and {sample.image.name}"
            raise UserError(
                f"{names} are the same image, labelled good and a defect: label one of them again on /review"
            )


def _rank_split(sample: Sample) -> int:
    """Return a key that sorts samples by their splits: test, then validation, then training."""
    return ("test", "validation", "train").index(sample.split)


def with_splits(splits: Splits) -> Iterator[Sample]:
    """Yield each sample with its split."""
    named: tuple[tuple[SplitName, Sequence[Sample]], ...] = (
        *(("train", splits.train), ("validation", splits.val), ("test", splits.test)),
    )
    for split, samples in named:
        for sample in samples:
            yield sample._replace(split=split)


def _choose_split(image: Labelled, earlier: SplitName | None, chance: str) -> SplitName:
    """Return the split of an image: "test" for a defect, its earlier split if it has one, or a random one.

    `chance` seeds the draw.
    """
    if image.label == "defect":
        return "test"
    if earlier is not None:
        return earlier
    drawn = random.Random(chance).random()
    if image.sampled:
        return "train" if drawn < 0.5 else "validation" if drawn < 0.75 else "test"
    return "train" if drawn < 0.75 else "test"


def write_samples(samples: Iterable[Sample], file: Path, pictures: Path) -> None:
    """Write samples as a `Table`. Masks of several files or levels are left out, because a table cannot name them.

    Paths of a journal's pictures are relative to the table, so that the journal can move.
    """
    with atomic_write(file) as temporary, open_table(temporary) as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        for sample in samples:
            plain = sample.mask is not None and sample.mask_above is None and sample.mask.is_file()
            defect = sample.defect if sample.label else ""
            mask = sample.mask if plain and sample.label else ""
            inside = sample.image.is_relative_to(pictures)
            image = os.path.relpath(sample.image, file.parent) if inside else sample.image
            writer.writerow((image, sample.split, sample.label, mask, sample.category, defect, sample.item))


def read_samples(file: Path) -> Splits:
    """Read the samples that `write_samples` wrote. Pictures of the journal that are gone are left out, with a line.

    Raises:
        UserError: Another image is gone.
    """
    splits: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
    gone = 0
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        for row in csv.DictReader(opened):
            image, label = Path(os.path.normpath(file.parent / file_name(row["path"]))), int(row["label"])
            if not split_page(image)[0].is_file():
                if Path(row["path"]).is_absolute():
                    raise UserError(f"{file} has {image}, and there is no such file: bring the data set back")
                gone += 1
                continue
            mask, defect = Path(row["mask"]) if row["mask"] else None, row["defect"] or "good"
            category, split = row["category"] or file.stem, cast(SplitName, row["split"])
            splits[split].append(Sample(image, label, mask, category, defect, split, "", row["item"]))
    if gone:
        tell(f"{format_count(gone, 'picture')} of {file} {'is' if gone == 1 else 'are'} gone: left out")
    return Splits(splits["train"], splits["validation"], splits["test"])
