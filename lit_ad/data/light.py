"""Change images as other light or another camera would, for augmentation and for `lit-ad data shift`."""

import os
import random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_ad.errors import UserError
from lit_ad.image.pixels import Pixels

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise its import asks the network for a newer version
import albumentations as A

Kind = Literal["light", "brightness", "contrast", "gamma", "white_balance", "shadow", "noise"]
KINDS: tuple[Kind, ...] = ("light", "brightness", "contrast", "gamma", "white_balance", "shadow", "noise")
STRENGTH = 0.3
Floats = NDArray[np.float32]


class Light(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations has no types
    """Changes an image as other light or another camera would.

    The size of a change is drawn uniformly between none and the most that `strength` allows. It is computed in floats
    in [0, 1] and rounded to uint8 once, at the end. An image of three equal channels is changed as one channel, and
    stays grey.

    | kind | with strength s |
    | --- | --- |
    | brightness | all values times 1 - s to 1 + s: the lamp, the exposure |
    | white_balance | each colour times 1 - s/2 to 1 + s/2; an image without colours stays as it is |
    | shadow | a gradient along any direction, from 1 down to 1 - s, which is multiplied with the image |
    | noise | Gaussian, of a standard deviation of 0 to s/10 |
    | contrast | distances to the mean grey value times 1 - s to 1 + s |
    | gamma | values to the power of 1 / (1 + s) to 1 + s |
    | light | all of them, in this order: the scene, the sensor, and the camera's processing |

    Args:
        kind: The kind of change, from the table.
        strength: Strength s in (0, 1].
        p: Probability that an image is changed.

    Example:
        >>> import numpy as np
        >>> from lit_ad.data.augment import Augment
        >>> image = np.full((2, 2, 3), 100, np.uint8)
        >>> darker_or_brighter = Augment([Light("brightness", strength=0.5)])(image, key=(0, 1))
        >>> 50 <= darker_or_brighter.min() <= darker_or_brighter.max() <= 150
        True
    """

    def __init__(self, kind: Kind = "light", strength: float = STRENGTH, p: float = 1.0) -> None:
        super().__init__(p=p)
        check_light(kind, strength, "data.augment, Light")
        self.kind, self.strength = kind, strength
        self.steps = {grey: A.Sequential(_list_steps(kind, strength, grey), p=1.0) for grey in (False, True)}

    def set_random_state(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Use these random generators from now on."""
        super().set_random_state(random_generator, py_random)
        for sequence in self.steps.values():
            sequence.set_random_state(random_generator, py_random)

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        """(H, W, 3) uint8 -> (H, W, 3) uint8."""
        grey = bool((img == img[..., :1]).all())
        values = (img[..., :1] if grey else img).astype(np.float32) / 255
        changed = self.steps[grey](image=values)["image"]
        pixels = np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)
        return np.repeat(pixels, 3, axis=2) if grey else pixels

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Return the names of the arguments that A.save writes."""
        return ("kind", "strength")


class Shadow(A.ImageOnlyTransform):  # type: ignore[misc]
    """Multiplies an image in [0, 1] by a gradient along a random direction, from 1 down to 1 - depth.

    albumentations' A.Illumination has a gradient of at most 0.2, and brightens the other side as much.

    Args:
        depth: Least and greatest depth.
        p: Probability that an image is changed.
    """

    def __init__(self, depth: tuple[float, float], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.depth = depth

    def get_params(self) -> dict[str, Any]:
        """Draw depth and direction for an image."""
        return {"depth": self.py_random.uniform(*self.depth), "angle": self.py_random.uniform(0, 2 * np.pi)}

    def apply(self, img: Floats, depth: float, angle: float, **params: Any) -> Floats:
        """Multiply an image by its gradient, (H, W, C) -> the same shape."""
        y, x = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in img.shape[:2])
        ramp = np.float32(np.sin(angle)) * y[:, None] + np.float32(np.cos(angle)) * x
        least, most = ramp.min(), ramp.max()
        share = (ramp - least) / max(most - least, np.float32(1e-6))
        shaded: Floats = img * (1 - np.float32(depth) * share)[..., None]
        return shaded


def _list_steps(kind: Kind, strength: float, grey: bool) -> list[A.BasicTransform]:
    """Return the transforms of a kind, for float images in [0, 1] of one channel (grey) or three."""
    s = strength
    same = (1.0, 1.0)
    every: dict[str, A.BasicTransform] = {
        "brightness": A.MultiplicativeNoise((1 - s, 1 + s), p=1.0),
        "white_balance": A.MultiplicativeNoise((1 - s / 2, 1 + s / 2), per_channel=True, p=1.0),
        "shadow": Shadow((0.0, s)),
        "noise": A.GaussNoise(std_range=(0.0, s / 10), p=1.0),
        "contrast": A.ColorJitter(brightness=same, contrast=(1 - s, 1 + s), saturation=same, hue=(0.0, 0.0), p=1.0),
        "gamma": A.RandomGamma((100 / (1 + s), 100 * (1 + s)), p=1.0),
    }
    if grey:
        del every["white_balance"]
    return [transform for name, transform in every.items() if kind in ("light", name)]


def check_light(kind: str, strength: float, setting: str) -> None:
    """Raise UserError if the kind is unknown, or the strength does not lie in (0, 1]. `setting`: for the message."""
    if kind not in KINDS:
        raise UserError(f"{setting}: no kind {kind!r}: there are {', '.join(KINDS)}")
    if not 0 < strength <= 1:
        raise UserError(f"{setting}: strength is {strength}, but it must lie above 0, and not above 1")
