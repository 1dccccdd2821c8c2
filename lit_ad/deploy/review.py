"""The page of the service on which people say what judged images are, and its routes below /review."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lit_ad.deploy.labels import Labels
from lit_ad.errors import UserError


def review_routes(
    labels: Labels,
    admitted: Callable[[Request], None],
    heat: Callable[[Path], Awaitable[bytes | None]],
    measured: Callable[[], list[dict[str, Any]]],
) -> list[Route]:
    """GET /review is the page; the routes below it list images, alarms and measured rates, and take labels.

    Args:
        labels: Of the service's journal.
        admitted: Raises HTTPException on a request that lacks the service's token.
        heat: Makes the heatmap of an image file, by the present detector.
        measured: What the labels say of thresholds.
    """
    page = files("lit_ad.deploy").joinpath("review.html").read_text(encoding="utf-8")

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def images(request: Request) -> Response:
        admitted(request)
        listed = await answer(labels.to_review, request.query_params.get("order", "newest"))
        return JSONResponse({"images": listed, "counts": await answer(labels.counts)})

    async def picture(request: Request) -> Response:
        admitted(request)
        path = await answer(labels.picture, request.path_params["image"])
        if not path.is_file():
            raise HTTPException(404, f"the picture of image {request.path_params['image']} is gone")
        return FileResponse(path, headers={"x-content-type-options": "nosniff"})

    async def heatmap(request: Request) -> Response:
        admitted(request)
        made = await heat(await answer(labels.picture, request.path_params["image"]))
        if made is None:
            raise HTTPException(404, "this detector has no map")
        return Response(made, media_type="image/png")

    async def rates(request: Request) -> Response:
        admitted(request)
        return JSONResponse({"rates": await answer(measured)})

    async def alarms(request: Request) -> Response:
        admitted(request)
        return JSONResponse({"alarms": await answer(labels.alarms)})

    async def label(request: Request) -> Response:
        admitted(request)
        given = await body(request, {"image": int, "label": str, "defect": str, "who": str})
        await answer(labels.add, given["image"], given["label"], given["defect"], given["who"])
        return JSONResponse({"counts": await answer(labels.counts)})

    async def undo(request: Request) -> Response:
        admitted(request)
        given = await body(request, {"who": str})
        return JSONResponse({"image": await answer(labels.undo, given["who"]), "counts": await answer(labels.counts)})

    return [
        Route("/review", index),
        Route("/review/images", images),
        Route("/review/pictures/{image:int}", picture),
        Route("/review/heatmaps/{image:int}", heatmap),
        Route("/review/rates", rates),
        Route("/review/alarms", alarms),
        Route("/review/labels", label, methods=["POST"]),
        Route("/review/undo", undo, methods=["POST"]),
    ]


async def answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the journal in a thread. Raises HTTPException of what the user can mend."""
    try:
        return await run_in_threadpool(function, *arguments)
    except UserError as error:
        raise HTTPException(422, str(error)) from error


async def body(request: Request, expected: dict[str, type]) -> dict[str, Any]:
    """The JSON object of a request. Raises HTTPException on any other one.

    Its content type must say so: pages of other addresses cannot send that without being asked for it first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON, with the header content-type: application/json")
    try:
        given = await request.json()
    except ValueError as error:
        raise HTTPException(400, "the body is no JSON") from error
    if not isinstance(given, dict) or any(type(given.get(name)) is not kind for name, kind in expected.items()):
        wanted = ", ".join(f"{name} ({'number' if kind is int else 'text'})" for name, kind in expected.items())
        raise HTTPException(400, f"send a JSON object of {wanted}")
    return given
