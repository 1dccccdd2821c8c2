"""Read what a detector takes as images: paths, bytes, files, Pillow images, NumPy arrays and torch tensors.

Any other input is refused at once, by its type and shape. torch is not imported.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import Pixels, Window, read_image, to_rgb

if TYPE_CHECKING:
    from torch import Tensor

ImageLike = Union[str, os.PathLike[str], bytes, bytearray, memoryview, BinaryIO, Image.Image, NDArray[Any], "Tensor"]
"""An image: a path; bytes or a binary file that hold an image file; a Pillow image; an array (H, W), (H, W, 1), (H, W,
3) or (H, W, 4); a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W). Numbers are uint8, uint16, or floats in [0, 1]."""

_CHANNELS = (1, 3, 4)
_EXPECTED = (
    "an image is a path, bytes or a binary file, a Pillow image, an array (H, W) or (H, W, C) of NumPy, or a tensor "
    "(C, H, W) of torch, where C is 1, 3 or 4"
)


def list_images(given: Any) -> list[ImageLike] | Iterator[ImageLike] | None:
    """Return the images of a sequence or a tensor (B, C, H, W) as a list, and an iterator as it is; None for one image.

    Raises:
        UserError: `given` is none of these, or an entry of a sequence is no image.
    """
    if _is_tensor(given) and given.ndim == 4:
        _check_channels(given, "a tensor (B, C, H, W)")
        return list(given)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview):
        for number, image in enumerate(given, 1):
            check_image(image, name_image(image, number))
        return list(given)
    if isinstance(given, Iterator) and not is_file(given):
        return given
    check_image(given, "the image")
    return None


def iterate_images(given: Any) -> Iterator[ImageLike]:
    """Return an iterator over several images, from any iterable of them.

    Raises:
        UserError: `given` is one image, or is not iterable.
    """
    several = given if _is_iterable(given) else list_images(given)
    if several is None:
        raise UserError("a stream needs several images: give a list of them, or call the detector with the one image")
    return iter(several)


def check_image(image: Any, name: str) -> None:
    """Raise UserError, which names the image, if its type or shape is no image's. Files are not read."""
    if _is_tensor(image):
        if image.ndim not in (2, 3):
            raise UserError(f"{name} is a tensor of shape {tuple(image.shape)}: {_EXPECTED}")
        if image.ndim == 3:
            _check_channels(image, f"{name}, a tensor (C, H, W),")
    elif isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or image.shape[2:] not in ((), *((count,) for count in _CHANNELS)):
            hint = "; for (C, H, W), give array.transpose(1, 2, 0)" if image.shape[:1] in ((1,), (3,), (4,)) else ""
            raise UserError(f"{name} is an array of shape {image.shape}: {_EXPECTED}{hint}")
    elif not (isinstance(image, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or is_file(image)):
        kind = "None" if image is None else f"of type {type(image).__name__}"
        hint = "; give several images as a list or an iterator: iter(...)" if isinstance(image, Iterable) else ""
        raise UserError(f"{name} is {kind}: {_EXPECTED}{hint}")


def _check_channels(tensor: Any, name: str) -> None:
    """Raise UserError if the channels of a tensor (..., C, H, W) are, or could be, on another axis."""
    if tensor.shape[-3] not in _CHANNELS or tensor.shape[-1] in _CHANNELS:
        shape = tuple(tensor.shape)
        raise UserError(
            f"{name} has the shape {shape}: C, of (C, H, W), must be 1, 3 or 4, and W must not. If the channels are "
            "last, give tensor.movedim(-1, -3), or tensor.numpy()"
        )


def read_pixels(image: Any, window: Window | None = None, name: str = "the image", bgr: bool = False) -> Pixels:
    """Return an image as (H, W, 3) uint8 RGB, upright. A path may name a page of a TIFF, such as stack.tif#3.

    Args:
        image: See `ImageLike`.
        window: For images of more than 8 bits, the two values that become 0 and 255. None: those of the data type.
        name: The image's name in messages, unless it is a path.
        bgr: Whether the channels of an array or a tensor are blue, green, red, as OpenCV has them.

    Raises:
        UserError: The image cannot be read, its values are not those of an image, or `bgr` is given for a file.
    """
    check_image(image, name)
    if bgr and not (_is_tensor(image) or isinstance(image, np.ndarray)):
        raise UserError(f"{name} is no array or tensor, and bgr is for these alone: leave out bgr")
    if isinstance(image, str | os.PathLike):
        return read_image(resolve_path(image), window)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(Path(name), window, bytes(image))
    if is_file(image):
        content = image.read()
        if not isinstance(content, bytes) or not content:
            why = "is at its end, or empty" if isinstance(content, bytes) else "gives text: open it with mode 'rb'"
            raise UserError(f"cannot read {name}: the file {why}")
        return read_image(Path(name), window, content)
    try:
        array = _to_array(image) if _is_tensor(image) else image
        return to_rgb(_swap_red_and_blue(array) if bgr else array, window)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def name_image(image: Any, number: int | None = None) -> str:
    """Return the name of an image in messages: its file, else its number (the first is 1), else how it was given."""
    file = image
    if isinstance(image, Image.Image):
        file = getattr(image, "filename", "")
    elif is_file(image):
        file = getattr(image, "name", "")
    if isinstance(file, str | os.PathLike) and str(file):
        return str(file)
    if number is not None:
        return f"image {number}"
    kind = "a file" if is_file(image) else "bytes" if isinstance(image, bytes | bytearray | memoryview) else ""
    return f"the image given as {kind}" if kind else "the image"


def _is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_file(value: Any) -> bool:
    """Return whether a value is an open file, or has a file's `read`."""
    return callable(getattr(value, "read", None)) and not isinstance(value, type)


def _is_iterable(value: Any) -> bool:
    """Return whether a value is an iterable of images, such as a data set, that `list_images` does not handle."""
    known = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Mapping, list, tuple)
    return isinstance(value, Iterable) and not (isinstance(value, known) or is_file(value) or _is_tensor(value))


def _swap_red_and_blue(array: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W, C) with the first and the third channel swapped; an image of one channel unchanged."""
    if array.ndim == 2 or array.shape[2] == 1:
        return array
    return array[..., [2, 1, 0, *range(3, array.shape[2])]]


def _to_array(tensor: Any) -> NDArray[Any]:
    """Return a tensor (H, W) or (C, H, W) as an array (H, W) or (H, W, C)."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16
    array: NDArray[Any] = tensor.numpy()
    return array if array.ndim == 2 else array.transpose(1, 2, 0)
