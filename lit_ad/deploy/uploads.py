"""The image file of a request to the service, in its body or in a form, within limits."""

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
from lit_ad.image.pixels import visit_pages

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # Pillow's other readers may be unsafe for files of strangers
_SEND = "send an image file as the body: curl --data-binary @part.png URL/detect; or curl -F image=@part.png URL/detect"


async def read_upload(request: Request, limits: Limits) -> tuple[bytes, str | None]:
    """Return the image file of a request (its body, or the file of its form), and the form's category.

    Raises:
        HTTPException: There is no file or more than one, the file is too large, or the form has unknown fields.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _read_form(request, limits)
    body = b"".join([part async for part in _read_parts(request, limits)])
    if not body:
        raise HTTPException(400, _SEND)
    return body, None


async def _read_form(request: Request, limits: Limits) -> tuple[bytes, str | None]:
    """Return the file of a form, whatever its field's name, and the optional field `category`."""
    try:
        form = await MultiPartParser(request.headers, _read_parts(request, limits), max_files=2, max_fields=2).parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form cannot be read ({error}); {_SEND}") from error
    try:
        images = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        others = sorted(fields.keys() - {"category"})
        if others:
            raise HTTPException(
                400, f"the form has a field {others[0]!r}, but it may have one file and `category` only"
            )
        if len(images) != 1:
            raise HTTPException(400, f"the form has {len(images) or 'no'} files, but it must have one image; {_SEND}")
        content = await images[0].read()
        if not content:
            raise HTTPException(400, f"the form's file is empty; {_SEND}")
        return content, fields.get("category")
    finally:
        await form.close()


async def _read_parts(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request in parts. Raises HTTPException when it is longer than the limit."""
    most, length = int(limits.mib * 2**20), 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise HTTPException(413, f"the image has more than {limits.mib:g} MiB")
        yield part


def decode_image(body: bytes, limits: Limits) -> Image.Image:
    """Decode an image file.

    Raises:
        HTTPException: The file is not an image, is damaged, is too large, or has several pages.
    """
    try:
        return read_within_limits(partial(_decode, body, limits))
    except TooLarge as error:
        raise HTTPException(413, f"the image is too large: {error}") from error


def _decode(body: bytes, limits: Limits) -> Image.Image:
    """Decode an image file. Raises HTTPException as `decode_image` does, and Pillow's exceptions at its own limits."""
    try:
        image = Image.open(io.BytesIO(body), formats=_FORMATS)
    except Exception as error:  # Pillow's readers raise exceptions of many types
        if is_limit(error):
            raise
        raise HTTPException(415, f"this is not an image of a known format: send {', '.join(_FORMATS)}") from error
    if image.width * image.height > limits.megapixels * 1e6:
        size = f"{image.width}x{image.height}"
        raise HTTPException(
            413, f"the image is too large: it has {size} pixels, and the limit is {limits.megapixels:g} million"
        )
    try:
        has_pages = len(list(islice(visit_pages(image), 2))) > 1
        image.load()
    except Exception as error:
        if is_limit(error):
            raise
        raise HTTPException(422, f"the image file is damaged or cut off: {error}") from error
    if has_pages:
        raise HTTPException(422, "the file has several pages, and each page is an image: send one page")
    return image
