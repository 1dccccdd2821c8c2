"""The service's review page, on which people label judged images, and its routes below /review."""

import sqlite3
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lit_ad.deploy.labels import Labels, NoPicture
from lit_ad.deploy.pictures import encode_picture
from lit_ad.errors import UserError
from lit_ad.image.pixels import Window, read_image

_SHOWN = (".bmp", ".gif", ".jpeg", ".png", ".webp")  # suffixes of pictures that all browsers show


def make_review_routes(
    labels: Labels,
    check_token: Callable[[Request], None],
    make_heatmap: Callable[[Path], Awaitable[bytes | None]],
    measure_rates: Callable[[], list[dict[str, Any]]],
    window: Window | None = None,
) -> list[Route]:
    """Make the route of the page, GET /review, and the routes that it calls.

    Args:
        labels: The labels of the service's journal.
        check_token: Raises HTTPException on a request without the service's token.
        make_heatmap: Judges an image file, and returns its heatmap as a PNG. None: the detector has no map.
        measure_rates: Returns recall and false alarms by the labels: see `lit_ad.deploy.rates.measure_rates`.
        window: The values of the images that become black and white: `View.window`.
    """
    page = files("lit_ad.deploy").joinpath("review.html").read_text(encoding="utf-8")

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page)

    async def list_images(request: Request) -> Response:
        check_token(request)
        images = await _call(labels.list_unlabelled, request.query_params.get("order", "newest"))
        return JSONResponse({"images": images, "counts": await _call(labels.counts)})

    async def send_picture(request: Request) -> Response:
        check_token(request)
        path = await _call(labels.picture, request.path_params["image"])
        headers = {"x-content-type-options": "nosniff"}
        if path.suffix in _SHOWN and window is None:
            return FileResponse(path, headers=headers)
        return Response(await _call(_make_png, path, window), media_type="image/png", headers=headers)

    async def send_heatmap(request: Request) -> Response:
        check_token(request)
        heatmap = await make_heatmap(await _call(labels.picture, request.path_params["image"]))
        if heatmap is None:
            raise HTTPException(404, "this detector has no map")
        return Response(heatmap, media_type="image/png")

    async def list_rates(request: Request) -> Response:
        check_token(request)
        return JSONResponse({"rates": await _call(measure_rates)})

    async def list_alarms(request: Request) -> Response:
        check_token(request)
        return JSONResponse({"alarms": await _call(labels.alarms)})

    async def add_label(request: Request) -> Response:
        check_token(request)
        body = await _read_json(request, {"image": int, "label": str, "defect": str, "who": str})
        replaced = await _call(labels.add, body["image"], body["label"], body["defect"], body["who"])
        return JSONResponse({"counts": await _call(labels.counts), "replaced": replaced})

    async def undo_label(request: Request) -> Response:
        check_token(request)
        body = await _read_json(request, {"who": str})
        undone = await _call(labels.undo, body["who"]) or {"image": None}
        return JSONResponse({**undone, "counts": await _call(labels.counts)})

    return [
        Route("/review", show_page),
        Route("/review/images", list_images),
        Route("/review/pictures/{image:int}", send_picture),
        Route("/review/heatmaps/{image:int}", send_heatmap),
        Route("/review/rates", list_rates),
        Route("/review/alarms", list_alarms),
        Route("/review/labels", add_label, methods=["POST"]),
        Route("/review/undo", undo_label, methods=["POST"]),
    ]


def _make_png(picture: Path, window: Window | None) -> bytes:
    """Return a picture as a PNG, with the pixels that the detector sees. Raises UserError if it cannot be read."""
    return encode_picture(read_image(picture, window), None)[0]


async def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the journal in a thread, and return its result.

    Raises:
        HTTPException: With its message and status 422, if the function raises UserError, or 404, if it raises
            NoPicture; with 503, if the journal cannot be read or written.
    """
    try:
        return await run_in_threadpool(function, *arguments)
    except UserError as error:
        raise HTTPException(404 if isinstance(error, NoPicture) else 422, str(error)) from error
    except sqlite3.Error as error:
        raise HTTPException(503, f"the journal cannot be used: {error}") from error


async def _read_json(request: Request, expected: dict[str, type]) -> dict[str, Any]:
    """Return the body of a request, a JSON object.

    The content type must be application/json: a browser does not let a page of another site send that type without
    asking this service first. So another site cannot send labels in the name of a user.

    Args:
        request: The request.
        expected: Name and type of each value that the object must have.

    Raises:
        HTTPException: The body is not such an object, or has another content type.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON, with the header content-type: application/json")
    try:
        body = await request.json()
    except ValueError as error:
        raise HTTPException(400, "the body is not JSON") from error
    if not isinstance(body, dict) or any(type(body.get(name)) is not kind for name, kind in expected.items()):
        names = ", ".join(f"{name} ({'number' if kind is int else 'text'})" for name, kind in expected.items())
        raise HTTPException(400, f"send a JSON object of {names}")
    return body
