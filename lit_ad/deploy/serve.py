"""A detector as a web service: a client sends an image, and gets JSON or a picture.

The service uses Starlette and Uvicorn directly, and not LitServe, which builds on them: LitServe sends each request to
a worker process. Here the network runs in the same process, so no image is copied to another one. Several images are
judged at the same time and share the cores.
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

from lit_ad.deploy.answers import describe_detection, describe_detector, draw_heat_png, draw_png
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.labels import Labels
from lit_ad.deploy.limits import LIMITS, Limits
from lit_ad.deploy.live import Live, make_live_routes
from lit_ad.deploy.metrics import CONTENT_TYPE, Metrics
from lit_ad.deploy.review import make_review_routes
from lit_ad.deploy.uploads import decode_image, read_upload
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.detector.stream import CALLERS
from lit_ad.errors import NotFiniteError, UserError
from lit_ad.names import printable
from lit_ad.threads import Job, Workers, enter_stage

_MAX_WAITING = 256  # requests that are served at a time; others get status 503
_MAX_NAME = 100  # characters of the name of a source or an image; longer names are cut
_PARAMETERS = ("picture", "category", "source", "regions", "name")  # of /detect
_FORMATS = ("csv", "coco", "labelme")  # of files of regions
_JOURNAL_SECONDS = 1.0  # an answer waits this long for its row in the journal, and is then sent in any case


def make_service(
    detector: Detector,
    name: str,
    token: str | None = None,
    limits: Limits = LIMITS,
    journal: Journal | None = None,
    live: Live | None = None,
) -> Starlette:
    """Make the application, for any ASGI server. `lit-ad serve --help` lists its routes.

    Args:
        detector: The detector. Several threads call it.
        name: The name of the detector's file, for /about.
        token: The TOKEN of `Authorization: Bearer TOKEN` that requests must have. None: requests need no token.
        limits: The limits of a request.
        journal: Each verdict is written to it before the answer is sent. None: verdicts are not written.
        live: The live picture of a watched line. None: no line is watched.
    """
    waiting, workers = CapacityLimiter(_MAX_WAITING), Workers(CALLERS)
    metrics = Metrics(journal, lambda: waiting.borrowed_tokens, None if live is None else live.status)
    if live is not None:
        live.observers.append(metrics.observe)
    shared = detector.shared
    page = files("lit_ad.deploy").joinpath("page.html").read_text(encoding="utf-8")

    def check_token(request: Request) -> None:
        header = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "give the service's token: Authorization: Bearer TOKEN")

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page)

    async def send_health(request: Request) -> Response:
        hanging = workers.hanging(limits.seconds)
        if len(hanging) == CALLERS:  # only a new process helps: Python cannot end a thread that hangs inside a library
            return JSONResponse({"status": "hangs", "stages": hanging}, 503)
        alarms = [] if journal is None else journal.alarms()
        return JSONResponse({"status": "ok", **({"drift": "there is an alarm, see /about"} if alarms else {})})

    async def send_metrics(request: Request) -> Response:
        check_token(request)
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def send_about(request: Request) -> Response:
        check_token(request)
        values: dict[str, Any] = {"file": printable(name), **describe_detector(detector), "limits": vars(limits)}
        values["journal"] = None if journal is None else journal.description()
        values["line"] = None if live is None else live.status()
        return JSONResponse(values)

    async def detect(request: Request) -> Response:
        check_token(request)
        try:
            waiting.acquire_on_behalf_of_nowait(request)
        except WouldBlock as error:
            raise HTTPException(503, f"{_MAX_WAITING} images are waiting: try again", {"Retry-After": "1"}) from error
        stage = "receiving the image"
        job: Job | None = None
        written: list[Future[bool]] = []
        try:
            async with asyncio.timeout(limits.seconds) as limit:
                body, category = await read_upload(request, limits)
                wanted, query = _parse_wanted(request), request.query_params
                category = query.get("category", category) or None

                def record(detection: Detection, seconds: float) -> None:
                    metrics.observe(detection, seconds)
                    if journal is not None:
                        source = query.get("source", journal.source)[:_MAX_NAME]
                        product = None if category is None else category[:_MAX_NAME]
                        written.append(Future())
                        journal.record(detection, seconds, wanted.name, source, body, product, written[0])

                job = workers.submit(_judge, shared, body, category, wanted, limits, record)
                response: Response = await asyncio.wrap_future(job.future)
            if written:
                await asyncio.wait([asyncio.wrap_future(written[0])], timeout=_JOURNAL_SECONDS)
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

    async def make_heatmap(file: Path) -> bytes | None:
        heatmap: bytes | None = await asyncio.wrap_future(workers.submit(_draw_heatmap, shared, file).future)
        return heatmap

    async def send_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @asynccontextmanager
    async def close_at_end(app: Starlette) -> AsyncIterator[None]:
        yield
        workers.close()
        if labels is not None:
            labels.close()

    routes = [
        Route("/", show_page),
        Route("/health", send_health),
        Route("/about", send_about),
        Route("/metrics", send_metrics),
        Route("/detect", detect, methods=["POST"]),
    ]
    labels, decision = None, detector.card.decision
    if journal is not None:
        labels = Labels(journal.file.path.parent, 1.0 if decision is None else decision.kept_rate())
        measure_rates = partial(labels.measure_rates, journal.version, decision)
        routes += make_review_routes(labels, check_token, make_heatmap, measure_rates, detector.card.view.levels)
    routes += [] if live is None else make_live_routes(live, check_token)
    return Starlette(routes=routes, exception_handlers={HTTPException: send_error}, lifespan=close_at_end)


@dataclass(frozen=True)
class Wanted:
    """The form of answer that a request asks for. By default: JSON without a picture."""

    as_picture: bool = False  # only a PNG
    with_picture: bool = False  # JSON that contains a PNG
    regions: str = ""  # only a file of the regions: "csv", "coco" or "labelme"
    name: str = ""  # the image's name in the journal and in the file of regions


def _parse_wanted(request: Request) -> Wanted:
    """Return the form of answer that a request asks for. Raises HTTPException on an unknown one."""
    query = request.query_params
    others = sorted(query.keys() - _PARAMETERS)
    if others:
        raise HTTPException(400, f"the address has {others[0][:20]!r}, but it may have {', '.join(_PARAMETERS)} only")
    regions = query.get("regions", "")
    if regions not in ("", *_FORMATS):
        raise HTTPException(400, f"regions is {regions[:20]!r}, but it must be {', '.join(_FORMATS)}")
    as_picture = "image/png" in request.headers.get("accept", "")
    return Wanted(as_picture, "picture" in query, regions, query.get("name", "")[:_MAX_NAME])


def _draw_heatmap(detector: Detector, file: Path) -> bytes | None:
    """Judge an image file, and return its heatmap as a PNG. None: the detector has no map.

    Raises:
        HTTPException: The detector cannot judge the file.
    """
    try:
        return draw_heat_png(detector(file))
    except UserError as error:
        raise HTTPException(422, str(error)) from error


def _judge(
    detector: Detector,
    body: bytes,
    category: str | None,
    wanted: Wanted,
    limits: Limits,
    record: Callable[[Detection, float], None],
) -> Response:
    """Judge an image file, and return the answer in the wanted form.

    Args:
        detector: The detector.
        body: The image file.
        category: The category whose threshold decides. None: one threshold for all categories.
        wanted: The form of the answer.
        limits: The limits of the image.
        record: Called with the verdict and the seconds that it took.

    Raises:
        HTTPException: The image or the category is refused, or the detector gives a score that is not finite.
    """
    begin = time.perf_counter()
    try:
        enter_stage("decoding the image")
        detection = detector(decode_image(body, limits), category)
    except NotFiniteError as error:  # the fault of the detector, not of the image
        raise HTTPException(500, str(error)) from error
    except UserError as error:
        raise HTTPException(422, str(error)) from error
    enter_stage("the verdict")
    record(detection, time.perf_counter() - begin)
    if wanted.regions:
        return _write_regions(detection, wanted)
    if wanted.as_picture:
        return Response(draw_png(detection), media_type="image/png")
    values = describe_detection(detection)
    if wanted.with_picture:
        values["picture"] = "data:image/png;base64," + base64.b64encode(draw_png(detection)).decode()
    return Response(json.dumps(values, allow_nan=False), media_type="application/json")


def _write_regions(detection: Detection, wanted: Wanted) -> Response:
    """Write the regions of an image as a file. Raises HTTPException if the detector has no pixel threshold."""
    from lit_ad import annotations  # imported here: it needs OpenCV, which the detector itself does not

    if detection.mask is None:
        raise HTTPException(422, "there are no regions: this detector has no map, or no threshold for its map")
    name = wanted.name or "image"
    findings = annotations.list_findings(detection.image.shape[:2], detection.regions, detection.mask)
    if wanted.regions == "csv":
        table = io.StringIO()
        annotations.write_table(table, {name: findings})
        return Response(table.getvalue(), media_type="text/csv")
    coco = wanted.regions == "coco"
    values = annotations.to_coco({name: findings}) if coco else annotations.to_labelme(name, findings)
    return Response(annotations.as_text(values), media_type="application/json")
