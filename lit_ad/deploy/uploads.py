"""What a request to the service brings: an image file, as its body or in a form, within limits."""

import io
from collections.abc import AsyncGenerator
from functools import partial
from itertools import islice

from PIL import Image
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lit_ad.deploy.limits import Limits
from lit_ad.image.limits import TooLarge, is_limit, read_within_limits
from lit_ad.image.pixels import page_kinds

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # of pixels.EXTENSIONS; Pillow's other readers are not for strangers
_SEND = "send an image file as the body: curl --data-binary @part.png URL/detect; or curl -F image=@part.png URL/detect"


async def read(request: Request, limits: Limits) -> tuple[bytes, str | None]:
    """The image file of a request, which is its body or a file of its form, and the form's category.

    Raises HTTPException if it is too long, or none.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _read_form(request, limits)
    body = b"".join([part async for part in limited(request, limits)])
    if not body:
        raise HTTPException(400, _SEND)
    return body, None


async def _read_form(request: Request, limits: Limits) -> tuple[bytes, str | None]:
    """The one file of a form, of any name, and its field `category`, which may be missing."""
    try:
        form = await MultiPartParser(request.headers, limited(request, limits), max_files=2, max_fields=2).parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form cannot be read ({error}); {_SEND}") from error
    try:
        images = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        others = sorted(fields.keys() - {"category"})
        if others:
            raise HTTPException(400, f"the form has a field {others[0]!r}, where one file and `category` are expected")
        if len(images) != 1:
            raise HTTPException(400, f"the form has {len(images) or 'no'} files, where one image is expected; {_SEND}")
        content = await images[0].read()
        if not content:
            raise HTTPException(400, f"the form's file is empty; {_SEND}")
        return content, fields.get("category")
    finally:
        await form.close()


async def limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body in parts. Raises HTTPException if it is too long."""
    most, length = int(limits.mib * 2**20), 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise HTTPException(413, f"the image has more than {limits.mib:g} MiB")
        yield part


def decoded(body: bytes, limits: Limits) -> Image.Image:
    """An image file's pixels. Raises HTTPException if it is none, too large when unpacked, or broken."""
    try:
        return read_within_limits(partial(read_image, body, limits))
    except TooLarge as error:
        raise HTTPException(413, f"the image is too large: {error}") from error


def read_image(body: bytes, limits: Limits) -> Image.Image:
    """The same. Raises also what Pillow raises at its limits."""
    try:
        image = Image.open(io.BytesIO(body), formats=_FORMATS)
    except Exception as error:  # Pillow's readers raise all sorts
        if is_limit(error):
            raise
        raise HTTPException(415, f"this is no image that is read here: send {', '.join(_FORMATS)}") from error
    if image.width * image.height > limits.megapixels * 1e6:
        size = f"{image.width}x{image.height}"
        raise HTTPException(
            413, f"the image is too large, of {size} pixels: at most {limits.megapixels:g} million are judged"
        )
    try:
        several = len(list(islice(page_kinds(image), 2))) > 1
        image.load()
    except Exception as error:
        if is_limit(error):
            raise
        raise HTTPException(422, f"the image cannot be read to its end: {error}") from error
    if several:
        raise HTTPException(422, "the file has several pages, each of them an image: send one")
    return image
