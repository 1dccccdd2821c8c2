"""The audit finds training images that are unlike the other training images."""

from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.audit.outliers import find_far_rows, list_outlier_warnings


def test_rows_that_are_far_from_the_other_rows_are_found() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 16))
    assert not len(find_far_rows(features))
    features[[3, 50]] += [[30.0], [60.0]]
    assert find_far_rows(features).tolist() == [50, 3]
    features[:, 7] = 1  # a channel without spread has no influence
    assert find_far_rows(features).tolist() == [50, 3]


def test_the_one_unlike_image_of_a_category_is_a_warning(tmp_path: Path, resnet_file: Path) -> None:
    generator = np.random.default_rng(0)
    samples = []
    for i in range(30):
        noise = generator.integers(0, 40, (64, 64, 3)) + (100 if i != 17 else 0)
        noise[:32] += 100 if i == 17 else 0
        path = tmp_path / f"{i:02}.png"
        Image.fromarray(noise.astype(np.uint8)).save(path)
        samples.append(Sample(path, 0, category="a", split="train"))
    # A category with too few images is not examined.
    few = [sample._replace(category="few") for sample in samples[15:20]]
    (tmp_path / "broken.png").write_text("no image")
    broken = Sample(tmp_path / "broken.png", 0, category="a", split="train")
    assert list_outlier_warnings([*samples, *few, broken], "resnet10t", str(resnet_file)) == [
        f"training images unlike the others by resnet10t's features, 1 of 30: {tmp_path / '17.png'}; check whether "
        "they are good"
    ]
