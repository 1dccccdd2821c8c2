"""Compare the rate of false alarms that a user asks for with the measured one, for few nominal images. Prints Markdown.

    python benchmarks/folds.py --roots ../shared/data/mvtec_pill ../shared/data/magnetic_tile \\
        --weights ../shared/weights/deit_tiny_patch16_224.safetensors       # 15 minutes on a busy core

From each data set, n nominal images are drawn, `--draws` times. The other nominal images and all anomalous images are
the test. A detector is trained with the n images in three ways: a fifth is held out and sets the threshold, as without
`decision.folds`; five folds (four, if n is 4); and leave-one-out. The table has the mean rate of false alarms in the
test, and the mean share of anomalous images that are detected, over all draws.

The detector has no weights to train, so thousands of trainings are cheap. The score of an image is the largest distance
of its patches to their nearest neighbours in the training images, in unit features of DeiT-tiny. The distances between
all patches are computed once. `Decision` sets the thresholds.

"Verdict of all folds" is the verdict that the proof is about. An image is anomalous if its p-value is at most the rate.
The p-value is (1 + k) / (n + 1), where k counts the left-out images that score at least as high as the image, by the
detector of their fold.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from lit_ad.batch import Sample
from lit_ad.data import MVTec
from lit_ad.data.splits import assign_folds, split_nominal
from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import bound_rate_of_folds
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View
from lit_ad.teachers import Teacher

Floats = NDArray[np.float32]


class Rates(NamedTuple):
    """The results of one draw."""

    alarms: float  # share of the nominal test images that are judged anomalous
    recall: float  # share of the anomalous images that are judged anomalous
    kept: float  # the rate of false alarms that the number of images allows


class Images(NamedTuple):
    """A data set, as distances of each image to each nominal image."""

    name: str
    nominal: int  # number of nominal images, which come first
    distances: Floats  # (nominal, images, patches): distance of each patch to the nearest patch of the nominal image

    def scores(self, images: NDArray[np.int64], trained: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score images by a detector that was trained on the nominal images `trained`.

        Both are numbers of images. Return the scores, (n,).
        """
        scores: NDArray[Any] = self.distances[np.ix_(trained, images)].min(axis=0).max(axis=1)
        return scores.astype(np.float64)


def measure_distances(root: Path, weights: str, most: int) -> Images:
    """Measure the distances of a category in MVTec AD's layout, with at most `most` nominal images."""
    samples = MVTec(root).samples()
    nominal = [s for s in samples if s.label == 0]
    nominal = [nominal[i] for i in np.random.default_rng(0).permutation(len(nominal))[:most]]
    samples = [*nominal, *(s for s in samples if s.label == 1)]
    view = View(224, fit="stretch", interpolation="bicubic")
    teacher = Teacher("deit_tiny_patch16_224", (7,), weights).eval()
    patches = torch.cat(list(compute_features(teacher, view, samples)))  # (images, patches, channels)
    against = patches[: len(nominal)].flatten(0, 1).T.contiguous()
    distances = []
    for image in patches:
        cosine = (image @ against).unflatten(1, (len(nominal), -1)).amax(dim=2)  # (patches, nominal)
        distances.append((2 - 2 * cosine).clamp(min=0).sqrt().T.numpy())
    return Images(root.name, len(nominal), np.ascontiguousarray(np.stack(distances, axis=1)))


@torch.no_grad()
def compute_features(teacher: Teacher, view: View, samples: list[Sample]) -> Iterator[torch.Tensor]:
    """Yield the unit features of each image's patches, (1, patches, channels)."""
    for sample in samples:
        pixels = torch.from_numpy(view(read_image(sample.image))[0].copy()).permute(2, 0, 1)[None]
        yield normalize(teacher(pixels.float() / 255)[0], dim=1).flatten(2).transpose(1, 2)


def measure_draw(images: Images, count: int, rates: list[float], seed: int) -> dict[tuple[float, str], Rates]:
    """Draw `count` nominal images, and train in each way. Return the results for each asked rate and way."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(images.nominal)
    few, good = order[:count], order[count:]
    bad = np.arange(images.nominal, images.distances.shape[1])
    samples = [Sample(Path(f"{i}.png"), 0) for i in range(count)]

    ways: dict[tuple[float, str], Rates] = {}

    def judge(name: str, trained: NDArray[np.int64], held_out: NDArray[np.float64]) -> None:
        scores = [images.scores(test, trained) for test in (good, bad)]
        for rate in rates:
            decision = Decision({"": held_out}, false_alarm=rate)
            alarms, recall = (float((values > decision.threshold()).mean()) for values in scores)
            ways[rate, name] = Rates(alarms, recall, decision.kept_rate())

    held = [int(sample.image.stem) for sample in split_nominal(samples, 0.2, seed)[1]]
    rest = np.delete(few, held)
    judge("a fifth held out", rest, images.scores(few[held], rest))
    for name, folds in (("5 folds", min(5, count)), ("leave-one-out", count)):
        numbers = np.array(assign_folds(samples, folds, seed))
        left_out = np.concatenate([images.scores(few[numbers == k], few[numbers != k]) for k in range(folds)])
        judge(name, few, left_out)
        if name == "5 folds":
            p_values = [p_values_of_all_folds(images, few, numbers, test) for test in (good, bad)]
            for rate in rates:
                kept = max(rate, 1 / (count + 1))
                alarms, recall = (float((p <= kept * (1 + 1e-12)).mean()) for p in p_values)
                ways[rate, "5 folds, verdict of all folds"] = Rates(alarms, recall, kept)
    return ways


def p_values_of_all_folds(
    images: Images, few: NDArray[np.int64], numbers: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cross-conformal p-values of test images, each of which the detectors of all folds score: (n,)."""
    as_high = np.zeros(len(test))
    for fold in range(numbers.max() + 1):
        trained = few[numbers != fold]
        own, scores = images.scores(few[numbers == fold], trained), images.scores(test, trained)
        as_high += (own[None] >= scores[:, None]).sum(axis=1)
    return (1 + as_high) / (len(few) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", type=Path, nargs="+", required=True, help="categories in MVTec AD's layout")
    parser.add_argument("--weights", default="hub", help="weights of the teacher: a file, or hub")
    parser.add_argument("--images", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--most", type=int, default=200, help="use at most this many nominal images of a data set")
    options = parser.parse_args()
    for root in options.roots:
        images = measure_distances(root, options.weights, options.most)
        anomalous = images.distances.shape[1] - images.nominal
        print(f"\n{images.name}: {images.nominal} nominal images, {anomalous} anomalous\n")
        print("| asked | images | way | rate allowed | rate reached | proven | anomalous found |")
        print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
        for count in options.images:
            draws = [measure_draw(images, count, options.rates, seed) for seed in range(options.draws)]
            for rate, name in sorted(draws[0], key=lambda way: way[0]):
                alarms, recalls, (kept, *_) = zip(*(draw[rate, name] for draw in draws), strict=True)
                proven = ""
                if "verdict" in name:
                    sizes = [len(part) for part in np.array_split(range(count), min(5, count))]
                    proven = f"{100 * bound_rate_of_folds(sizes, kept):.1f} %"
                elif "held" in name:
                    proven = f"{100 * kept:.1f} %"
                error = np.std(alarms) / np.sqrt(len(alarms))
                print(
                    f"| {100 * rate:g} % | {count} | {name} | {100 * kept:.1f} % | {100 * np.mean(alarms):.1f} ± "
                    f"{100 * error:.1f} % | {proven} | {100 * np.mean(recalls):.1f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
