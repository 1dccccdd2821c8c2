"""The audit finds samples that contradict each other and masks that are not valid."""

from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.audit.sample_checks import list_mask_value_warnings, list_sample_errors


def save(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def test_a_mask_of_another_size_and_an_anomalous_training_image_are_errors(tmp_path: Path) -> None:
    image = save(tmp_path / "image.png", np.zeros((20, 30)))
    mask, small = save(tmp_path / "mask.png", np.zeros((20, 30))), save(tmp_path / "small.png", np.zeros((10, 15)))
    sound = Sample(image, 1, mask, split="test", defect="cut")
    assert list_sample_errors([sound]) == []
    (error,) = list_sample_errors([sound._replace(mask=small)])
    assert error == (
        f"masks of another size than their image, once (height x width): {small} (10x15, its image 20x30); of "
        "each, resize it without smoothing, or draw it again; or remove it, and its image has no mask"
    )
    (error,) = list_sample_errors([sound._replace(split="train")])
    assert error.startswith("anomalous image in training: ")
    small.write_text("no image")
    assert list_sample_errors([sound._replace(mask=small)]) == []  # another check reports an unreadable mask


def test_a_mask_with_more_than_two_values_is_a_warning(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(40), (20, 1))
    sound = save(tmp_path / "sound.png", 255 * (ramp > 20))
    classes, grey = save(tmp_path / "classes.png", ramp % 4), save(tmp_path / "grey.png", ramp * 6)
    jpeg = save(tmp_path / "mask.jpg", 255 * (ramp > 20))
    assert list_mask_value_warnings([sound]) == []
    assert list_mask_value_warnings([sound, classes, grey, jpeg]) == [
        f"masks with grey edges, antialiased or of JPEG, 2 times: {grey}, {jpeg}; save them as PNG of two values",
        f"masks of several values, once: {classes}; all but 0 count as defect",
    ]
