"""Find images that are nearly equal: perceptual hashes find candidates, and comparing small pictures decides."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.image.pixels import open_image, split_page
from lit_ad.threads import Pool

SIDE = 32  # side of the small pictures in pixels
_HASH_BITS = 6  # most bits, of 64, in which the hashes of nearly equal images differ
_SAME = 0.15  # greatest difference of nearly equal images, as a fraction of the usual difference of two images
_ALIKE = 0.5  # warn if images with consecutive numbers have a lower median difference, as the same fraction
_PAIRS = 2000  # number of random pairs for the usual difference
_FEWEST = 5  # fewest pairs with consecutive numbers for a warning
_BLOCK = 1024  # hashes that are compared at once


@dataclass(frozen=True)
class Fingerprints:
    """Hashes and small pictures of the images that can be read."""

    samples: list[Sample]
    hashes: NDArray[np.float32]  # (n, 64) of -1 and 1
    pictures: NDArray[np.float32]  # (n, SIDE * SIDE)

    def measure_differences(self, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the root mean square difference between the pictures of each pair of indices, (m, 2) -> (m,)."""
        if not len(pairs):
            return np.zeros(0, np.float32)
        parts = np.array_split(pairs, max(1, len(pairs) // _BLOCK))
        squares = [np.square(self.pictures[part[:, 0]] - self.pictures[part[:, 1]]).mean(axis=1) for part in parts]
        distances: NDArray[np.float32] = np.sqrt(np.concatenate(squares))
        return distances


def fingerprint_images(samples: Sequence[Sample], threads: int) -> Fingerprints:
    """Read each image once, and return its hash and small picture. Images that cannot be read are left out."""
    with Pool(threads) as pool:
        results = pool.map(fingerprint, samples)
        seen = [(sample, result) for sample, result in zip(samples, results, strict=True) if result is not None]
    hashes = np.array([bits for _, (bits, _) in seen], np.float32).reshape(len(seen), 64)
    pictures = np.array([picture for _, (_, picture) in seen], np.float32).reshape(len(seen), SIDE * SIDE)
    return Fingerprints([sample for sample, _ in seen], hashes, pictures)


def fingerprint(sample: Sample) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return a hash (64,) of -1 and 1, and a small grey picture (SIDE * SIDE,), of an image scaled to its own range of
    values; None if it cannot be read."""
    try:
        image = open_image(sample.image)
    except UserError:
        return None
    deep = image.mode.startswith("I") or image.mode == "F"
    values = np.nan_to_num(np.asarray(image if deep else image.convert("L"), np.float32))
    low, high = np.percentile(values, (1, 99))
    grey = Image.fromarray((np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * 255).astype(np.uint8))
    picture = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel()
    return np.where(imagehash.phash(grey).hash.ravel(), 1, -1), picture


def _measure_usual_difference(fingerprints: Fingerprints) -> float:
    """Return the median difference between two random images; the seed is fixed."""
    count = len(fingerprints.samples)
    pairs = np.random.default_rng(0).integers(0, max(count, 1), (_PAIRS if count else 0, 2))
    differences = fingerprints.measure_differences(pairs[pairs[:, 0] != pairs[:, 1]])
    return float(np.median(differences)) if len(differences) else 0.0


def find_near_duplicates(fingerprints: Fingerprints) -> list[tuple[Sample, Sample]]:
    """Return pairs of nearly equal images, in the order of the samples; the most similar pair comes first."""
    most = _SAME * _measure_usual_difference(fingerprints)
    near = []
    for start in range(0, len(fingerprints.samples), _BLOCK):
        differ = (64 - fingerprints.hashes[start : start + _BLOCK] @ fingerprints.hashes.T) / 2
        rows, columns = np.nonzero(differ <= _HASH_BITS)
        near.append(np.stack([rows + start, columns], axis=1)[rows + start < columns])
    pairs = np.concatenate(near) if near else np.zeros((0, 2), np.int64)
    differences = fingerprints.measure_differences(pairs)
    order = [i for i in np.argsort(differences, kind="stable") if differences[i] <= most]
    return [(fingerprints.samples[pairs[i, 0]], fingerprints.samples[pairs[i, 1]]) for i in order]


def find_similar_consecutive(fingerprints: Fingerprints) -> tuple[list[tuple[Sample, Sample]], float]:
    """Return pairs of a training and a test image whose names have consecutive numbers, and their median difference as
    a fraction of the usual difference. This fraction is far below 1 if the images come from one film or show one
    part."""
    numbered: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(fingerprints.samples):
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", sample.image.stem)
        if match:
            numbered[match[1], match[3]][int(match[2])].append(i)
    pairs = [
        (i, j) if fingerprints.samples[i].split == "train" else (j, i)
        for numbers in numbered.values()
        for number, indices in numbers.items()
        for i in indices
        for j in numbers.get(number + 1, [])
        if fingerprints.samples[i].split != fingerprints.samples[j].split
        and fingerprints.samples[i].category == fingerprints.samples[j].category
    ]
    usual = _measure_usual_difference(fingerprints)
    if len(pairs) < _FEWEST or usual == 0:
        return [], 1.0
    share = float(np.median(fingerprints.measure_differences(np.array(pairs)))) / usual
    return [(fingerprints.samples[i], fingerprints.samples[j]) for i, j in pairs], share


def drop_equal_files(
    pairs: Sequence[tuple[Sample, Sample]], known: set[frozenset[Path]]
) -> list[tuple[Sample, Sample]]:
    """Return the pairs whose files are not `known` to have the same bytes."""
    return [pair for pair in pairs if frozenset(split_page(sample.image)[0] for sample in pair) not in known]


def list_near_duplicate_warnings(fingerprints: Fingerprints, near: Sequence[tuple[Sample, Sample]]) -> list[str]:
    """Return sentences about nearly equal images, and about images with consecutive numbers in training and test."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for first, second in near:
        if first.split != second.split:
            kind = "in training and test; metrics will be too good"
        else:
            kind = "among training images" if first.split == "train" else "in the test"
            kind = kind if first.label == second.label else "in the test, once as good and once as anomalous"
        kinds[kind].append(f"{first.image} and {second.image}")
    warnings = []
    for kind, pairs in kinds.items():
        where, _, why = kind.partition("; ")
        count = format_count(len(pairs), "pair")
        warnings.append(f"nearly the same image {where}, {count}: {', '.join(pairs[:3])}" + (why and f"; {why}"))
    neighbours, share = find_similar_consecutive(fingerprints)
    if neighbours and share < _ALIKE:
        train, test = neighbours[0]
        warnings.append(
            f"{len(neighbours)} pairs of images with consecutive numbers lie in training and test, such as "
            f"{train.image} and {test.image}, and differ by only {share:.2f} of the usual difference of two images: if "
            "they come from one film or show one part, keep them in one split, or metrics will be too good"
        )
    return warnings
