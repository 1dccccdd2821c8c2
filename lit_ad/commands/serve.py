"""`lit-ad serve`."""

from pathlib import Path

from lit_ad.commands.detector_argument import require_detector
from lit_ad.commands.listening import SERVICE, listen, read_token
from lit_ad.commands.own_method import import_own_method
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import SETTINGS, JournalSettings
from lit_ad.deploy.limits import LIMITS, Limits
from lit_ad.detector.detector import Detector
from lit_ad.detector.guarantee import list_notes
from lit_ad.detector.runtimes import import_optional
from lit_ad.errors import UserError, check_number


def serve(
    file: Path,
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    weights: Path | None = None,
    journal: Path | None = None,
    watch: JournalSettings = SETTINGS,
    limits: Limits = LIMITS,
    verify: bool = True,
) -> None:
    """Serve a detector as a web service until it is stopped.

    POST /detect   an image file as the body, or in a form -> JSON: score, p_value, anomalous, threshold, size, regions;
                   with `Accept: image/png` the image beside its heatmap; ?picture for JSON with that picture;
                   ?category=NAME of the product; ?source=NAME of a camera or a line and ?name=NAME of the image,
                   for the journal; ?regions=csv, coco or labelme for a file of the regions alone
    GET /about     method, view, threshold, categories, limits, the journal and its alarms of drift
    GET /health    {"status": "ok"}, and whether there is an alarm of drift; 503 if every thread hangs
    GET /metrics   numbers for Prometheus
    GET /          a page to drop images on
    GET /review    a page that takes labels of the journal's images

    The service is reachable from this machine only, unless --host names another address. Then the environment variable
    LIT_AD_TOKEN must hold a token, and each request must carry it as `Authorization: Bearer TOKEN`.

    Args:
        file: An exported detector, a checkpoint or a run.
        host: The address to listen at.
        port: The port; 0 for a free one.
        device: cpu, cuda or cuda:1. For an .onnx file also tensorrt; for an .xml file OpenVINO's name, such as GPU.
        weights: The teacher's weights, if a checkpoint does not find them.
        journal: A folder for the verdicts, with pictures of anomalous and borderline images and of a random sample. The
            verdicts in it are tested for drift. None: nothing is kept.
        watch: Which tests the journal makes, and what it keeps.
        limits: Limits of a request.
        verify: Whether to compare an exported file with its checkpoint first, as `lit-ad verify` does.

    Raises:
        UserError: The detector cannot be loaded, the address cannot be used, or a token or package is missing.
    """
    check_number("--port", port, least=0, most=65535)
    if journal is None and watch != SETTINGS:
        raise UserError("--watch needs a journal: give --journal DIR")
    for package in SERVICE:
        import_optional(package, "serve")
    import uvicorn

    from lit_ad.deploy.serve import make_service

    token = read_token(host)
    chosen = require_detector("serve", file, None)
    import_own_method(chosen)
    detector = Detector.load(chosen, weights, device, verify)
    for line in list_notes(detector.card.decision):
        print(line)
    listening = listen(host, port)
    kept = None if journal is None else Journal(journal, detector, watch)
    app = make_service(detector, file.name, token, limits, kept)
    print(f"{file} is served at http://{host}:{listening.getsockname()[1]}; Ctrl-C ends it", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        if kept is not None:
            kept.close()
