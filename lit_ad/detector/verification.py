"""Compare an exported file with its checkpoint when it is loaded, once for each file, runtime, device and machine."""

import hashlib
import json
import platform
import warnings
from contextlib import suppress
from pathlib import Path

from lit_ad.detector.runtimes import Loaded
from lit_ad.detector.self_check import Comparison, Row, SelfCheck, compare
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, cache_directory

FOLDER = "verified"  # the folder of results in the cache directory
REMEDY = (
    "update its driver or runtime, or choose another device. verify=False of Detector.load, or --verify false, leaves "
    "the check out"
)


def verify(loaded: Loaded, file: Path, device: str) -> None:
    """Compare a file with the check that it carries, unless this was done here before. Accept a file without one.

    Warns if a difference is beyond the tolerance.

    Raises:
        UserError: A score or map differs by more than 5 times the tolerance, or is NaN; the message has both numbers.
    """
    if loaded.check is None:
        return
    place = _find_result_file(loaded, device)
    comparison = None if place is None else _read_result(place)
    if comparison is None:
        comparison = compare_and_keep(loaded, SelfCheck.from_text(loaded.check, file), file, device)
    judge_result(comparison, loaded, file)


def compare_and_keep(loaded: Loaded, check: SelfCheck, file: Path, device: str, batch_size: int = 1) -> Comparison:
    """Compare a file with its check, and keep the result for the next time that the file is loaded here.

    Only a result at batch size 1 is kept, because the next load compares at batch size 1.
    """
    comparison = compare(loaded.network, loaded.card, check, batch_size)
    place = _find_result_file(loaded, device)
    if place is not None and batch_size == 1:
        with suppress(UserError):  # on a read-only file system nothing is kept: the next program compares again
            if comparison.refused:
                place.unlink(missing_ok=True)
            else:
                with atomic_write(place) as temporary:
                    temporary.write_text(json.dumps([comparison.tolerance, comparison.rows]), encoding="utf-8")
    return comparison


def judge_result(comparison: Comparison, loaded: Loaded, file: Path) -> None:
    """Raise UserError if a runtime computes other numbers than the checkpoint, and warn if they differ a little."""
    if comparison.refused:
        raise UserError(
            f"{loaded.runtime} computes other numbers for {file} than its checkpoint: {comparison.describe()}. {REMEDY}"
        )
    if not comparison.agrees:
        warnings.warn(
            f"{loaded.runtime} is not as near to the checkpoint of {file} as it should be: {comparison.describe()}. "
            "Judge images that you know before you rely on its verdicts",
            stacklevel=4,
        )


def _find_result_file(loaded: Loaded, device: str) -> Path | None:
    """Return the file in which a result is kept. None if there is no cache directory."""
    with warnings.catch_warnings(), suppress(UserError):
        warnings.simplefilter("ignore")  # a home that cannot be written to
        machine = [platform.node(), platform.platform(), _read_driver_version()]
        parts = [loaded.fingerprint, loaded.runtime, device, *machine]
        return cache_directory() / FOLDER / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"
    return None


def _read_driver_version() -> str:
    """Return the version of NVIDIA's driver on Linux, else "". After a driver's update, files are compared again."""
    with suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    return ""


def _read_result(place: Path) -> Comparison | None:
    """Return the result that was kept. None if there is none, or it cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        tolerance, rows = json.loads(place.read_text(encoding="utf-8"))
        return Comparison(tuple(Row(*map(float, row)) for row in rows), float(tolerance))
    return None
