"""Convert decoded images and arrays, of any bit depth and colours, to uint8 RGB. NumPy and Pillow only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import UserError, ViewMismatch


def convert_to_rgb(image: Image.Image, name: str, window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Return a decoded image as (H, W, 3) uint8 RGB.

    Values of 16 bits are divided by 257, so that 0..65535 becomes 0..255; float images must lie in [0, 1]. Transparency
    is dropped, which leaves the colours as they are stored. CMYK is converted without a colour profile. The first page
    of a GIF is taken.

    Args:
        image: The image.
        name: Its name in messages.
        window: For grey images of more than 8 bits, the values that become 0 and 255.

    Raises:
        UserError: The values cannot be converted, or a window is given for an image of 8 bits.
    """
    if window is not None:
        return np.repeat(_apply_window(require_deep_values(image, name), window, name)[..., None], 3, axis=2)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        top = 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= top):  # so that NaN fails
            raise UserError(
                f"{name} has values from {values.min()} to {values.max()}: integer images must lie in 0..65535 and "
                "float images in 0..1; convert it"
            )
        grey = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise UserError(f"{name} has pixels of kind {image.mode}, which have no RGB: convert it") from error


def array_to_rgb(image: NDArray[Any], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Return an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as (H, W, 3) uint8 RGB. The fourth channel is dropped.

    Raises UserError if the values are not those of an image: see `pixels.to_rgb`.
    """
    values = image[..., None] if image.ndim == 2 else image[..., :3]
    if window is not None:
        values = _apply_window(values, window, "the array")
    elif values.dtype != np.uint8:
        top = {"u2": 65535.0, "f4": 1.0, "f8": 1.0, "f2": 1.0, "b1": 1.0}.get(values.dtype.str[1:])
        if top is None or not (values.min() >= 0 and values.max() <= top):
            raise UserError(
                f"an array of {image.dtype} with values from {image.min()} to {image.max()} is no image: give uint8, "
                "uint16, or floats in [0, 1]"
            )
        values = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else np.ascontiguousarray(values)


def require_deep_values(image: Image.Image, name: str) -> NDArray[Any]:
    """Return the values of a grey image of more than 8 bits, (H, W). Raises UserError if it has 8 bits, or colours."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        raise ViewMismatch(
            f"{name} has values of 8 bits, and view.window is for grey images of more bits: leave it out, or convert "
            "the image (Pillow reads only 8 bits of 16-bit colours)"
        )
    return np.asarray(image)


def _apply_window(values: NDArray[Any], window: tuple[float, float], name: str) -> NDArray[np.uint8]:
    """Return numbers of more than 8 bits as uint8: the window's two values become 0 and 255, values beyond are clipped.

    Raises UserError, which names the image, if values have 8 bits or are not finite.
    """
    low, high = window
    if values.dtype.kind not in "uif" or values.dtype.itemsize < 2 or not np.isfinite(values).all():
        raise ViewMismatch(
            f"{name} has {values.dtype} values, or values that are not finite, and view.window is for finite numbers "
            "of more than 8 bits"
        )
    return np.rint((values.astype(np.float64).clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
