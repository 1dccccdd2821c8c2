"""A request has one image within limits, in its body or in a form; anything else is refused with the reason."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("python_multipart")

from starlette.exceptions import HTTPException
from starlette.requests import Request

from lit_ad.deploy.limits import Limits
from lit_ad.deploy.uploads import decode_image, read_upload

LIMITS = Limits(mib=0.01, megapixels=0.01)  # 10,485 bytes, 10,000 pixels


def request(*parts: bytes, content_type: str = "") -> Request:
    """A request whose body comes in parts."""
    messages = iter(
        [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        + [{"type": "http.request", "body": b"", "more_body": False}]
    )

    async def receive() -> Any:
        return next(messages)

    headers = [(b"content-type", content_type.encode())] if content_type else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def body_of(*parts: bytes, content_type: str = "") -> tuple[bytes, str | None]:
    return asyncio.run(read_upload(request(*parts, content_type=content_type), LIMITS))


def form(*fields: tuple[str, str, bytes]) -> tuple[bytes, str | None]:
    """Read a form of names, file names ("" of a text) and contents."""
    body = b""
    for name, file, content in fields:
        about = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        body += f"--edge\r\nContent-Disposition: {about}\r\n\r\n".encode() + content + b"\r\n"
    return body_of(body + b"--edge--\r\n", content_type="multipart/form-data; boundary=edge")


def file_of(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    image.save(file := io.BytesIO(), kind, **more)
    return file.getvalue()


def test_a_body_is_joined_up_to_its_limit() -> None:
    assert body_of(b"ab", b"c") == (b"abc", None)
    whole = bytes(int(0.01 * 2**20))
    assert body_of(whole[:5000], whole[5000:]) == (whole, None)
    with pytest.raises(HTTPException, match=r"the image has more than 0.01 MiB") as error:
        body_of(whole, b"x")
    assert error.value.status_code == 413


def test_a_form_has_one_file_of_any_name_and_may_have_a_category() -> None:
    assert form(("picture", "a.png", b"content")) == (b"content", None)
    assert form(("category", "", b"nut"), ("image", "a.png", b"content")) == (b"content", "nut")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "the form has no files, but it must have one image"),
        ([("a", "a.png", b"x"), ("b", "b.png", b"x")], "the form has 2 files"),
        ([("a", "a.png", b"x"), ("threshold", "", b"1")], "the form has a field 'threshold'"),
        ([("a", "a.png", b"")], "the form's file is empty"),
    ],
)
def test_forms_that_are_refused(fields: list[tuple[str, str, bytes]], message: str) -> None:
    with pytest.raises(HTTPException, match=message) as error:
        form(*fields)
    assert error.value.status_code == 400


def test_an_empty_body_and_a_broken_form_are_answered_with_what_to_send() -> None:
    for content_type in ("", "multipart/form-data; boundary=edge"):
        with pytest.raises(HTTPException, match="send an image file as the body") as error:
            body_of(*([b"x"] if content_type else []), content_type=content_type)
        assert error.value.status_code == 400


def test_an_image_is_decoded_if_it_is_within_the_limit() -> None:
    pixels = np.arange(100 * 100, dtype=np.uint32).astype(np.uint8).reshape(100, 100)
    assert np.array_equal(np.asarray(decode_image(file_of(Image.fromarray(pixels)), LIMITS)), pixels)  # 10,000 pixels
    with pytest.raises(HTTPException, match=r"it has 101x100 pixels, and the limit is 0.01 million") as error:
        decode_image(file_of(Image.new("L", (101, 100))), LIMITS)
    assert error.value.status_code == 413


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"no image", 415, "not an image of a known format: send JPEG, PNG"),
        (file_of(Image.new("L", (9, 9)), "GIF"), 415, "not an image of a known format"),
        (
            file_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)))[:-3000],
            422,
            "damaged or cut off",
        ),
        (file_of(Image.new("L", (9, 9)), "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]), 422, "pages"),
    ],
)
def test_images_that_are_refused(content: bytes, status: int, message: str) -> None:
    with pytest.raises(HTTPException, match=message) as error:
        decode_image(content, LIMITS)
    assert error.value.status_code == status
