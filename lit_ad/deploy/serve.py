"""A detector as a web service: an image in, JSON or a picture out.

Starlette and Uvicorn, which LitServe stands on as well. LitServe hands each request to a worker process; here the
network runs in this process, for several images at a time that share the cores, so that none is copied between two.
"""

import asyncio
import base64
import hmac
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, WouldBlock
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lit_ad.deploy.answers import as_json, description, heat_png, png
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.labels import Labels
from lit_ad.deploy.limits import LIMITS, Limits
from lit_ad.deploy.live import Live, live_routes
from lit_ad.deploy.metrics import CONTENT_TYPE, Metrics
from lit_ad.deploy.review import review_routes
from lit_ad.deploy.uploads import decoded, read
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.detector.stream import CALLERS
from lit_ad.errors import NotFiniteError, UserError
from lit_ad.names import printable
from lit_ad.threads import Job, Workers, enter_stage

WAITING = 256  # images in memory or before it; who comes then is asked to come again
LONGEST = 100  # characters of the name of a source, or of an image
FILES = ("csv", "coco", "labelme")  # of regions
_WRITTEN = 1.0  # seconds that an answer waits for its row in the journal; it is given all the same


def service(
    detector: Detector,
    name: str,
    token: str | None = None,
    limits: Limits = LIMITS,
    journal: Journal | None = None,
    live: Live | None = None,
) -> Starlette:
    """The application, for any ASGI server: see `lit-ad serve --help` for its routes.

    Args:
        detector: Its calls may come from several threads.
        name: Of its file, which /about tells.
        token: What `Authorization: Bearer TOKEN` must say. None: anyone is served.
        limits: Of the requests.
        journal: Where each verdict is written before it is answered. None: nowhere.
        live: A line that is watched beside it. None: there is none.
    """
    waiting, workers = CapacityLimiter(WAITING), Workers(CALLERS)
    metrics = Metrics(journal, lambda: waiting.borrowed_tokens, None if live is None else live.status)
    if live is not None:
        live.observers.append(metrics.observe)
    shared = detector.shared
    page = files("lit_ad.deploy").joinpath("page.html").read_text(encoding="utf-8")

    def admitted(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "give the service's token: Authorization: Bearer TOKEN")

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def health(request: Request) -> Response:
        hanging = workers.hanging(limits.seconds)
        if len(hanging) == CALLERS:  # only a new process helps: a thread inside a library cannot be ended
            return JSONResponse({"status": "hangs", "stages": hanging}, 503)
        alarms = [] if journal is None else journal.alarms()
        return JSONResponse({"status": "ok", **({"drift": "there is an alarm, see /about"} if alarms else {})})

    async def numbers(request: Request) -> Response:
        admitted(request)
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def about(request: Request) -> Response:
        admitted(request)
        known: dict[str, Any] = {"journal": None if journal is None else journal.description()}
        known["line"] = None if live is None else live.status()
        return JSONResponse({"file": printable(name), **description(detector), "limits": vars(limits), **known})

    async def detect(request: Request) -> Response:
        admitted(request)
        try:
            waiting.acquire_on_behalf_of_nowait(request)
        except WouldBlock as error:
            raise HTTPException(503, f"{WAITING} images are waiting: try again", {"Retry-After": "1"}) from error
        stage = "receiving the image"
        job: Job | None = None
        written: list[Future[bool]] = []
        try:
            async with asyncio.timeout(limits.seconds) as limit:
                body, category = await read(request, limits)
                wanted, query = _wanted_of(request), request.query_params
                category = query.get("category", category)

                def note(detection: Detection, seconds: float) -> None:
                    metrics.observe(detection, seconds)
                    if journal is not None:
                        source = query.get("source", journal.source)[:LONGEST]
                        product = None if category is None else category[:LONGEST]
                        written.append(journal.record(detection, seconds, "", source, body, category=product))

                job = workers.submit(answer, shared, body, category, wanted, limits, note)
                response: Response = await asyncio.wrap_future(job.future)
            if written:
                await asyncio.wait([asyncio.wrap_future(written[0])], timeout=_WRITTEN)
            return response
        except TimeoutError as error:
            if not limit.expired():
                raise
            stage, hanging = stage if job is None else job.stage, workers.hanging(limits.seconds)
            text = f"there is no answer within {limits.seconds:g} s: the request is at {stage}"
            text += f", while threads hang: {'; '.join(hanging)}" if hanging else ""
            raise HTTPException(408 if job is None else 504, text) from error
        finally:
            waiting.release_on_behalf_of(request)

    async def heat(file: Path) -> bytes | None:
        made: bytes | None = await asyncio.wrap_future(workers.submit(heat_of, shared, file).future)
        return made

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        workers.close()
        if labels is not None:
            labels.close()

    labels, decision = None, detector.card.decision
    if journal is not None:
        labels = Labels(journal.file.path.parent, 1.0 if decision is None else decision.kept_rate())
    routes = [Route("/", index), Route("/health", health), Route("/about", about), Route("/metrics", numbers)]
    if journal is not None and labels is not None:
        measured = partial(labels.measured, journal.version, decision)
        routes += review_routes(labels, admitted, heat, measured)
    routes += [] if live is None else live_routes(live, admitted)
    return Starlette(
        routes=[*routes, Route("/detect", detect, methods=["POST"])],
        exception_handlers={HTTPException: failed},
        lifespan=life,
    )


@dataclass(frozen=True)
class Wanted:
    """What a request wants of a verdict."""

    as_picture: bool = False  # a PNG, and nothing else
    with_picture: bool = False  # a PNG beside the numbers
    regions: str = ""  # a file of the regions alone: csv, coco or labelme
    name: str = "image"  # of the image, in that file


def _wanted_of(request: Request) -> Wanted:
    """Raises HTTPException where the request wants a file that there is not."""
    query = request.query_params
    regions = query.get("regions", "")
    if regions not in ("", *FILES):
        raise HTTPException(400, f"there is no file of regions {regions[:20]!r}: ask for {', '.join(FILES)}")
    as_picture = "image/png" in request.headers.get("accept", "")
    return Wanted(as_picture, "picture" in query, regions, query.get("name", Wanted.name)[:LONGEST])


def heat_of(detector: Detector, file: Path) -> bytes | None:
    """The heatmap of an image file. Raises HTTPException if it cannot be judged any more."""
    try:
        return heat_png(detector(file))
    except UserError as error:
        raise HTTPException(422, str(error)) from error


def answer(
    detector: Detector,
    body: bytes,
    category: str | None,
    wanted: Wanted,
    limits: Limits,
    note: Callable[[Detection, float], None],
) -> Response:
    """JSON of an image file, with a picture in it if wanted; or the picture alone as a PNG; or a file of the regions.

    `note` is called with the verdict and the seconds that it took.
    """
    begin = time.perf_counter()
    try:
        enter_stage("decoding the image")
        detection = detector(decoded(body, limits), category)
    except NotFiniteError as error:  # the detector's fault, and not the image's
        raise HTTPException(500, str(error)) from error
    except UserError as error:
        raise HTTPException(422, str(error)) from error
    enter_stage("the verdict")
    note(detection, time.perf_counter() - begin)
    if wanted.regions:
        return _region_file(detection, wanted)
    if wanted.as_picture:
        return Response(png(detection), media_type="image/png")
    told = as_json(detection)
    if wanted.with_picture:
        told["picture"] = "data:image/png;base64," + base64.b64encode(png(detection)).decode()
    return Response(json.dumps(told, allow_nan=False), media_type="application/json")


def _region_file(detection: Detection, wanted: Wanted) -> Response:
    """A file of an image's regions, for another program. Raises HTTPException where there is no pixel threshold."""
    from lit_ad import annotations  # brings OpenCV, which a detector does not need

    if detection.mask is None:
        raise HTTPException(422, "this detector has no map, or no threshold for it, and so no regions")
    findings = annotations.plain(detection.image.shape[:2], detection.regions, detection.mask)
    if wanted.regions == "csv":
        table = io.StringIO()
        annotations.write_table(table, {wanted.name: findings})
        return Response(table.getvalue(), media_type="text/csv")
    coco = wanted.regions == "coco"
    values = annotations.to_coco({wanted.name: findings}) if coco else annotations.to_labelme(wanted.name, findings)
    return Response(annotations.as_text(values), media_type="application/json")
