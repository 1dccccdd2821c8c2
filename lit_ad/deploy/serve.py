"""A detector as a web service: an image in, JSON or a picture out.

Starlette and Uvicorn, which LitServe stands on as well. LitServe hands each request to a worker process; here the
network runs in this process, for several images at a time that share the cores, so that none is copied between two.
"""

import base64
import hmac
import io
import json
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from itertools import islice
from typing import Any

from anyio import CapacityLimiter, WouldBlock
from anyio.to_thread import run_sync
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lit_ad.detector.detector import CALLERS, Detection, Detector
from lit_ad.detector.guarantee import summary
from lit_ad.errors import NotFiniteError, UserError
from lit_ad.image.limits import TooLarge, is_limit, read_within_limits
from lit_ad.image.pixels import page_kinds

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # of pixels.EXTENSIONS; Pillow's other readers are not for strangers
WAITING = 256  # images in memory or before it; who comes then is asked to come again


@dataclass(frozen=True)
class Limits:
    """What a request may bring."""

    mib: float = 32
    megapixels: float = 100


def service(detector: Detector, name: str, token: str | None = None, limits: Limits = Limits()) -> Starlette:
    """The application, for any ASGI server: see `lit-ad serve --help` for its routes.

    Args:
        detector: Its calls may come from several threads.
        name: Of its file, which /about tells.
        token: What `Authorization: Bearer TOKEN` must say. None: anyone is served.
        limits: Of the images.
    """
    threads, waiting = CapacityLimiter(CALLERS), CapacityLimiter(WAITING)
    shared = detector.shared
    page = files("lit_ad.deploy").joinpath("page.html").read_text()

    def admitted(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "give the service's token: Authorization: Bearer TOKEN")

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def about(request: Request) -> Response:
        admitted(request)
        return JSONResponse({"file": name, **description(detector), "limits": vars(limits)})

    async def detect(request: Request) -> Response:
        admitted(request)
        try:
            waiting.acquire_on_behalf_of_nowait(request)
        except WouldBlock as error:
            raise HTTPException(503, f"{WAITING} images are waiting: try again", {"Retry-After": "1"}) from error
        try:
            body = await read(request, limits)
            picture = "image/png" in request.headers.get("accept", "")
            query = request.query_params
            return await run_sync(
                answer, shared, body, query.get("category"), picture, "picture" in query, limits, limiter=threads
            )
        finally:
            waiting.release_on_behalf_of(request)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    routes = [Route("/", index), Route("/health", health), Route("/about", about)]
    return Starlette(
        routes=[*routes, Route("/detect", detect, methods=["POST"])], exception_handlers={HTTPException: failed}
    )


async def read(request: Request, limits: Limits) -> bytes:
    """The body. Raises HTTPException if it is too long, or none."""
    most = int(limits.mib * 2**20)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise HTTPException(413, f"the image has more than {limits.mib:g} MiB")
    if not body:
        raise HTTPException(400, "send an image file as the body: curl --data-binary @part.png URL/detect")
    return bytes(body)


def answer(
    detector: Detector, body: bytes, category: str | None, as_picture: bool, with_picture: bool, limits: Limits
) -> Response:
    """JSON of an image file, with a picture in it if wanted, or the picture alone as a PNG."""
    try:
        found = detector(decoded(body, limits), category)
    except NotFiniteError as error:  # the detector's fault, and not the image's
        raise HTTPException(500, str(error)) from error
    except UserError as error:
        raise HTTPException(422, str(error)) from error
    if as_picture:
        return Response(png(found), media_type="image/png")
    told = as_json(found)
    if with_picture:
        told["picture"] = "data:image/png;base64," + base64.b64encode(png(found)).decode()
    return Response(json.dumps(told, allow_nan=False), media_type="application/json")


def decoded(body: bytes, limits: Limits) -> Image.Image:
    """An image file's pixels. Raises HTTPException if it is none, too large when unpacked, or broken."""
    try:
        return read_within_limits(partial(read_image, body, limits))
    except TooLarge as error:
        raise HTTPException(413, f"the image is too large: {error}") from error


def read_image(body: bytes, limits: Limits) -> Image.Image:
    """The same. Raises also what Pillow raises at its limits."""
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Exception as error:  # Pillow's readers raise all sorts
        if is_limit(error):
            raise
        raise HTTPException(415, f"this is no image that is read here: send {', '.join(FORMATS)}") from error
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


def as_json(found: Detection) -> dict[str, Any]:
    """A verdict as plain values; pixels are those of the image, upright."""
    decision, regions = found.decision, found.regions
    return {
        "score": found.score,
        "p_value": found.p_value,
        "anomalous": found.anomalous,
        "threshold": None if decision is None else decision.threshold(found.category),
        "category": found.category,  # whose threshold; null: that of all together
        "size": {"height": found.image.shape[0], "width": found.image.shape[1]},
        "regions": [asdict(region) for region in regions],
    }


def description(detector: Detector) -> dict[str, Any]:
    """What clients may want to know of a detector."""
    card, decision = detector.card, detector.card.decision
    categories = [] if decision is None else [name for name in decision.scores if name]
    return {
        "method": card.method.rpartition(".")[2],
        "version": card.version,
        "precision": card.precision,
        "view": card.view.to_dict(),
        "categories": categories,
        "false_alarm": None if decision is None else decision.false_alarm,
        "threshold": None if decision is None else decision.threshold(),
        "threshold_by_hand": decision is not None and decision.operating_point().by_hand,
        "decision": None if decision is None else summary(decision),  # every threshold, and what it promises
    }


def png(found: Detection) -> bytes:
    """`Detection.plot` as a file."""
    file = io.BytesIO()
    found.plot().save(file, format="PNG", compress_level=1)
    return file.getvalue()
