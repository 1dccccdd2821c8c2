"""`lit-ad watch`."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_ad.commands.detector_argument import require_detector
from lit_ad.commands.listening import SERVICE, listen, read_token
from lit_ad.commands.own_method import import_own_method
from lit_ad.counts import format_count
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import NAME, JournalFile
from lit_ad.deploy.journal_settings import SETTINGS, JournalSettings
from lit_ad.deploy.pictures import PICTURES
from lit_ad.detector.detector import Detector
from lit_ad.detector.guarantee import list_notes
from lit_ad.detector.runtimes import import_optional
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.line.feed import FEED, Feed, FeedSettings
from lit_ad.line.sinks.settings import SINKS, SinkSettings
from lit_ad.line.sinks.sink import Sink
from lit_ad.line.watching import Outcome, Watching
from lit_ad.names import printable, tell


@dataclass(frozen=True)
class Page:
    """A page with the live picture, and all other addresses of `lit-ad serve`.

    Args:
        port: The service's port; 0 for a free one. None: no service.
        host: The address to listen at.
    """

    port: int | None = None
    host: str = "127.0.0.1"


PAGE = Page()
_FOLDER_OF = "folder of "  # begins the name of a journal's fact: the folder of a source


def watch(
    source: str,
    /,
    detector: Path,
    device: str = "cpu",
    weights: Path | None = None,
    journal: Path | None = None,
    watch: JournalSettings = SETTINGS,
    feed: FeedSettings = FEED,
    to: SinkSettings = SINKS,
    page: Page = PAGE,
) -> None:
    """Judge the images of a line as they come, until the source ends or Ctrl-C is pressed.

    SOURCE is

    a folder       its images, and new ones as they come, once they are completely written
    a video        each of its frames
    a camera       0, /dev/video0, rtsp://HOST/PATH or http://HOST/PATH: always its newest frame
    -              paths on standard input, one a line

    No image is lost silently. Files wait in their folder, and paths in their pipe. With a journal, a restart
    judges the files that came in between. A camera does not wait: frames that come too fast are counted. An image that
    cannot be read or judged, and a verdict that cannot be written or delivered, are reported and counted.

    Args:
        source: A folder, a video, a camera or -.
        detector: An exported detector, a checkpoint or a run.
        device: cpu, cuda or cuda:1. For an .xml file, OpenVINO's name, such as GPU.
        weights: The teacher's weights, if a checkpoint does not find them.
        journal: A folder for the verdicts, with pictures of anomalous and borderline images and of a random sample. The
            verdicts in it are tested for drift. None: nothing is kept.
        watch: Which tests the journal makes, and what it keeps.
        feed: Which images of the source are judged.
        to: Where verdicts and alarms are sent, as JSON.
        page: A page with the live picture, and all other addresses of `lit-ad serve`.

    Raises:
        UserError: The detector or the source cannot be opened, or an option does nothing for them.
    """
    if journal is None and watch != SETTINGS:
        raise UserError("--watch needs a journal: give --journal DIR")
    if page.port is None and page != PAGE:
        raise UserError("--page.host needs a page: give --page.port")
    for package in SERVICE if page.port is not None else ():
        import_optional(package, "serve")
    token = None if page.port is None else read_token(page.host)
    with redirect_stdout(sys.stderr):  # standard output is for verdicts only
        chosen = require_detector("watch", detector, None)
    import_own_method(chosen)
    judging = Detector.load(chosen, weights, device)
    judging.check_category(feed.category, "--feed.category")
    for line in list_notes(judging.card.decision):
        print(line, file=sys.stderr)
    name = feed.name if feed.name is not None else choose_name(source)
    images = open_feed(source, feed, journal, name)
    try:
        sinks = to.make_sinks()
        with _close_at_end(sinks, None if journal is None else Journal(journal, judging, watch, name)) as kept:
            if journal is not None:
                _remember_folder(journal, source, name)
            watching = Watching(judging, images, feed.category, kept, sinks, to.anomalous_only, source=name)
            with _end_on_signal(images), _serve_page(page, token, judging, chosen.name, kept, watching) as show:
                print(f"{printable(name)} is watched; Ctrl-C ends it", file=sys.stderr, flush=True)
                for outcome in watching:
                    show(outcome)
                    if outcome.detection is not None and outcome.detection.anomalous and to.json_lines != "-":
                        tell(_describe_anomalous(outcome))
        print(watching.summarize(), file=sys.stderr, flush=True)
    finally:
        images.close()


def open_feed(source: str, settings: FeedSettings, journal: Path | None, name: str) -> Feed:
    """Open the feed of a source's images.

    Args:
        source: A folder, a video, a camera or -.
        settings: Settings of the feed.
        journal: The journal's folder. The feed of a folder skips files that the journal has. None: there is no journal.
        name: The source's name in the journal.

    Raises:
        UserError: There is no such source, a setting does nothing for it, the journal lies in the folder, or it has
            images of another folder under this name.
    """
    if source == "-":
        from lit_ad.line.paths import PathFeed

        _refuse_settings(settings, "paths", "every", "new_only", "settle")
        return PathFeed(sys.stdin)
    folder = resolve_path(Path(source))
    if folder.is_dir():
        _refuse_settings(settings, "folders", "every")
        import_optional("watchdog", "line")
        from lit_ad.line.folder import FolderFeed, is_image

        if journal is not None:
            watched, pictures = folder.resolve(), resolve_path(journal).resolve() / PICTURES
            if watched.is_relative_to(pictures) or (
                pictures.is_relative_to(watched) and is_image(pictures / "1.png", watched)
            ):
                raise UserError(
                    f"the journal {journal} would keep pictures in the watched folder {source}, and they would be "
                    "judged without end: give another --journal"
                )
        earlier = None if journal is None or not (journal / NAME).is_file() else JournalFile(journal, alone=False)
        known = None if earlier is None or settings.name is not None else earlier.fact(_FOLDER_OF + printable(name))
        if known not in (None, _describe_folder(folder)):
            raise UserError(
                f"the journal {journal} has images of another folder under the name {name}, {known}: name this one by "
                f"--feed.name; or give --feed.name {name} if that folder was moved"
            )

        def is_judged(file: str, changed: float) -> bool:
            last = None if earlier is None else earlier.last_time(printable(name), printable(file))
            return last is not None and changed <= last <= time.time()  # a later time is of a clock that was wrong

        images = FolderFeed(folder, settings.settle, is_judged, settings.new_only)
        if images.left_out:
            why = "--feed.new_only" if settings.new_only else f"the journal has them already, from the source {name}"
            count = format_count(images.left_out, "image of the folder is", "images of the folder are")
            print(f"{count} left out: {printable(why)}", file=sys.stderr)
        return images
    from lit_ad.line.camera import CameraFeed, VideoFeed, is_camera, is_video

    if is_camera(source):
        _refuse_settings(settings, "cameras", "new_only", "settle")
        return CameraFeed(source, settings.every)
    if folder.is_file() and is_video(source):
        _refuse_settings(settings, "videos", "new_only", "settle")
        return VideoFeed(str(folder), settings.every)
    raise UserError(
        f"{source} is no source: give a folder, a video file, a camera (0, /dev/video0, rtsp://HOST/PATH), or - for "
        "paths on standard input"
    )


def _describe_folder(folder: Path) -> str:
    """Return a folder's path, as a journal keeps it."""
    return printable(str(folder.resolve()))


def _remember_folder(journal: Path, source: str, name: str) -> None:
    """Write into a journal which folder has a source's name. Do nothing if the source is no folder."""
    folder = resolve_path(Path(source))
    if source != "-" and folder.is_dir():
        file = JournalFile(journal, alone=False)
        file.save_fact(_FOLDER_OF + printable(name), _describe_folder(folder))
        file.close()


def _refuse_settings(settings: FeedSettings, sources: str, *names: str) -> None:
    """Raise UserError if a named setting is given, since it does nothing for sources of this kind."""
    for name in names:
        if getattr(settings, name) != getattr(FEED, name):
            raise UserError(f"--feed.{name} does nothing for {sources}: leave it out")


def choose_name(source: str) -> str:
    """Return the name of a source in the journal, for a user who gives none: an address without its password."""
    if source == "-":
        return "standard input"
    if "://" in source:
        from lit_ad.line.camera import hide_password

        return hide_password(source)
    return f"camera {source}" if source.isdecimal() else resolve_path(Path(source)).name


def _describe_anomalous(outcome: Outcome) -> str:
    """Return the console's line about an anomalous image."""
    detection = outcome.detection
    assert detection is not None and detection.decision is not None
    threshold = detection.decision.threshold(detection.category)
    numbers = f"score {detection.score:.4g}, threshold {threshold:.4g}, p-value {detection.p_value:.3g}"
    return f"anomalous: {printable(outcome.name)}: {numbers}"


@contextmanager
def _close_at_end(sinks: dict[str, Sink], journal: Journal | None) -> Iterator[Journal | None]:
    """Close the sinks and the journal when the block ends. They first deliver and write the waiting messages."""
    try:
        yield journal
    finally:
        for sink in sinks.values():
            sink.close()
        if journal is not None:
            journal.close()


@contextmanager
def _end_on_signal(images: Feed) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM close the source, so that images already taken are judged. A second one stops."""

    def end(*_: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        threading.Thread(target=images.close, daemon=True).start()

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _serve_page(
    page: Page, token: str | None, detector: Detector, name: str, journal: Journal | None, watching: Watching
) -> Iterator[Callable[[Outcome], None]]:
    """Serve the page during the block, if it has a port. Yield a function that shows an outcome on it."""
    if page.port is None:
        yield lambda outcome: None
        return
    import uvicorn

    from lit_ad.deploy.live import Live
    from lit_ad.deploy.serve import make_service

    live, listening = Live(watching.status), listen(page.host, page.port)
    app = make_service(detector, name, token, journal=journal, live=live)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="page", daemon=True)
    thread.start()
    print(f"The page: http://{page.host}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)

    def show(outcome: Outcome) -> None:
        if outcome.detection is not None:
            live.show(outcome.name, outcome.detection, outcome.seconds)

    try:
        yield show
    finally:
        server.should_exit = True
        thread.join(10)
