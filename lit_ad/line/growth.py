"""What a detector grows by: confirmed images join its own, and each has one side for good.

What has trained or decided a detector is never compared, however many images are labelled later and however often an
image comes along the line: images of the same pixels are one.
"""

import csv
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_ad.batch import Sample, Split
from lit_ad.counts import format_count
from lit_ad.data.sources.journal import Labelled, read_labelled
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.image.pixels import read_image
from lit_ad.machine import cores
from lit_ad.names import printable, tell
from lit_ad.threads import Pool

COLUMNS = ("path", "split", "label", "mask", "category", "defect", "item")
SAMPLED, SELECTED = "new good images, of the random sample", "new good images, kept for their scores"
DEFECTS, OLD_GOOD, OLD_DEFECTS = "confirmed defects", "old test, good", "old test, defects"


@dataclass
class Growth:
    """The images of a grown data set, and those that old and new detector are compared by.

    Args:
        samples: Of all splits.
        groups: The images of each comparison, none of which trained or decided either detector.
        joined: How many new images have each split.
    """

    samples: list[Sample]
    groups: dict[str, list[Sample]]
    joined: dict[str, int]


def gather(
    splits: Splits, folder: Path, only_new_decide: bool = False, seed: int = 0, compared: Splits | None = None
) -> Growth:
    """Let the confirmed images of a journal join a data set.

    Of the good ones in the random sample, half trains, a quarter decides and a quarter tests; of the other good ones,
    which were kept because of their scores, three quarters train, and none decides. Defects test. An image of the data
    set that came along the line stays where it is.

    Args:
        splits: What the detector that grows was trained, decided and tested with.
        folder: DIR of the journal.
        only_new_decide: Whether new held-out images take the place of the old ones, in place of joining them.
        seed: Of the choice of sides.
        compared: The splits of the detector that the grown one is compared with, where that is another one.

    Raises:
        UserError: No image is labelled good; two labels contradict one another; an image cannot be read.
    """
    labelled = _list_labelled(folder, list(dict.fromkeys(sample.category for sample in splits.train)))
    own, others = list(with_splits(splits)), [] if compared is None else list(with_splits(compared))
    keys = _keys_of([*(sample.image for sample in (*own, *others)), *(sample.image for _, sample in labelled)])
    _refuse_two_labels([sample for _, sample in labelled], keys)

    def key(sample: Sample) -> str:
        return keys[sample.image]

    pictures = folder / "pictures"
    base = {key(sample) for sample in own if not sample.image.is_relative_to(pictures)}
    sides = {key(sample): sample.split for sample in sorted((*own, *others), key=_by_strictness)}
    known = {key(sample) for sample in own}
    drawn: dict[str, tuple[Labelled, Sample]] = {}  # by key; an image that came twice is taken once
    for each, sample in labelled:
        if key(sample) not in base and (key(sample) not in drawn or each.sampled):
            split = _side_of(each, sides.get(key(sample)), f"{seed}/{key(sample)}")
            drawn[key(sample)] = each, sample._replace(split=split)
    again = sum(key(sample) in base for _, sample in labelled)
    if again:
        tell(
            f"{format_count(again, 'labelled image')} of the line: the data set has the same, which stay where they are"
        )
    if not any(sample.label == 0 for _, sample in drawn.values()):
        raise UserError(f"each image that is labelled good in {folder} is one of the data set: label others")

    joined: dict[str, int] = defaultdict(int)
    for name, (_, sample) in drawn.items():
        joined[sample.split] += name not in known
    new = {split: [s for _, s in drawn.values() if s.split == split] for split in ("train", "validation", "test")}
    defects = {key(sample) for _, sample in labelled if sample.label}
    taken_back = [sample for sample in splits.train if key(sample) in defects]
    if taken_back:
        tell(f"Of the images that trained, {len(taken_back)} are defects now, and train no more")
    train = [*splits.train, *(sample for sample in new["train"] if key(sample) not in known)]
    deciding = {key(sample) for sample in new["validation"]}
    old_val = [] if only_new_decide else [sample for sample in splits.val if key(sample) not in deciding]
    train, val = ([s for s in part if key(s) not in defects] for part in (train, [*old_val, *new["validation"]]))
    if not val:
        raise UserError(
            f"no image in {folder} can decide: label more of its random sample good, which only --watch.sample draws"
        )
    # Nothing is compared that trained or decided either detector, or will
    seen = {name for name, split in sides.items() if split != "test"} | {key(sample) for sample in (*train, *val)}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in splits.test:
        if key(sample) in base - seen and not sample.image.is_relative_to(pictures):
            groups[OLD_DEFECTS if sample.label else OLD_GOOD].append(sample)
    for each, sample in drawn.values():
        if sample.split == "test" and key(sample) not in seen:
            groups[DEFECTS if sample.label else SAMPLED if each.sampled else SELECTED].append(sample)
    test = [sample for samples in groups.values() for sample in samples]
    return Growth(list(with_splits(Splits(train, val, test))), dict(groups), dict(joined))


def _list_labelled(folder: Path, categories: Sequence[str]) -> list[tuple[Labelled, Sample]]:
    """The images of a journal that are labelled good or a defect, and are of a category of the data set.

    Raises UserError where there are none, or none is good.
    """
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
        image = folder / "pictures" / each.picture
        listed.append((each, Sample(image, int(each.label == "defect"), None, category, kind, "test")))
    names = ", ".join(sorted(printable(name) or "no category" for name in others))
    if not any(each.label == "good" for each, _ in listed):
        raise UserError(
            f"the images labelled good in {folder} are of {names}, and RUN is of {', '.join(categories)}: grow the run "
            "of that product, or give the journal of this one"
        )
    if others:
        left_out = format_count(len(everything) - len(listed), "labelled image")
        tell(f"{left_out} of {names}: left out, since RUN is of {', '.join(categories)}")
    return listed


def _keys_of(images: Iterable[Path]) -> dict[Path, str]:
    """A key of each image, the same for the same pixels. Raises UserError if one cannot be read."""
    paths = list(dict.fromkeys(images))
    with Pool(cores()) as pool:
        return dict(zip(paths, pool.map(_key_of, paths), strict=True))


def _key_of(image: Path) -> str:
    pixels = read_image(image)
    return hashlib.blake2b(pixels.tobytes() + str(pixels.shape).encode(), digest_size=16).hexdigest()


def _refuse_two_labels(samples: Iterable[Sample], keys: dict[Path, str]) -> None:
    """Raise UserError where images of the same pixels are labelled good and a defect."""
    first: dict[str, Sample] = {}
    for sample in samples:
        other = first.setdefault(keys[sample.image], sample)
        if other.label != sample.label:
            names = f"{other.image.name} and {sample.image.name}"
            raise UserError(
                f"{names} are the same image, labelled good and a defect: label one of them anew on /review"
            )


def _by_strictness(sample: Sample) -> int:
    """Order samples by their splits, so that what trained comes last."""
    return ("test", "validation", "train").index(sample.split)


def with_splits(splits: Splits) -> Iterator[Sample]:
    """Yield each sample with its split."""
    named: tuple[tuple[Split, Sequence[Sample]], ...] = (
        *(("train", splits.train), ("validation", splits.val), ("test", splits.test)),
    )
    for split, samples in named:
        for sample in samples:
            yield sample._replace(split=split)


def _side_of(image: Labelled, earlier: Split | None, chance: str) -> Split:
    """Where an image goes: where it is already, or as chance has it."""
    if image.label == "defect":
        return "test"
    if earlier is not None:
        return earlier
    drawn = random.Random(chance).random()
    if image.sampled:
        return "train" if drawn < 0.5 else "validation" if drawn < 0.75 else "test"
    return "train" if drawn < 0.75 else "test"


def write_samples(samples: Iterable[Sample], file: Path) -> None:
    """Write samples as a `Table`. Masks that a table cannot name, those of several files or levels, are left out."""
    with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        for sample in samples:
            plain = sample.mask is not None and sample.mask_above is None and sample.mask.is_file()
            defect = sample.defect if sample.label else ""
            mask = sample.mask if plain and sample.label else ""
            writer.writerow((sample.image, sample.split, sample.label, mask, sample.category, defect, sample.item))
