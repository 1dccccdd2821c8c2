"""Compare an exported file with its checkpoint where it is loaded, once for each file, runtime, device and machine."""

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

FOLDER = "verified"  # of the cache directory
REMEDY = (
    "update its driver or runtime, or choose another device. verify=False of Detector.load, or --verify false, leaves "
    "the check out"
)


def verify(loaded: Loaded, file: Path, device: str) -> None:
    """Compare a file with what it carries, unless that was done here before. What carries nothing is taken as it is.

    Raises:
        UserError: A score or map differs by more than 5 times the tolerance, or is NaN; the message has both numbers.
    """
    if loaded.check is None:
        return
    place = _result_file(loaded, device)
    comparison = None if place is None else _read_result(place)
    if comparison is None:
        comparison = compare_and_keep(loaded, SelfCheck.from_text(loaded.check, file), file, device)
    judge_result(comparison, loaded, file)


def compare_and_keep(loaded: Loaded, check: SelfCheck, file: Path, device: str, batch_size: int = 1) -> Comparison:
    """Compare, and keep the result for the next time the file is loaded here."""
    comparison = compare(loaded.network, loaded.card, check, batch_size)
    place = _result_file(loaded, device)
    if place is not None and batch_size == 1:
        with suppress(UserError):  # a read-only file system: the next program compares again
            if comparison.refused:
                place.unlink(missing_ok=True)
            else:
                with atomic_write(place) as temporary:
                    temporary.write_text(json.dumps([comparison.tolerance, comparison.rows]), encoding="utf-8")
    return comparison


def judge_result(comparison: Comparison, loaded: Loaded, file: Path) -> None:
    """Raises UserError where a runtime computes something else, and warns where it is less near than usual."""
    if comparison.refused:
        raise UserError(f"{loaded.runtime} computes something else of {file}: {comparison.describe()}. {REMEDY}")
    if not comparison.agrees:
        warnings.warn(
            f"{loaded.runtime} is not as near to the checkpoint of {file} as it should be: {comparison.describe()}. "
            "Judge images that you know before you rely on its verdicts",
            stacklevel=4,
        )


def _result_file(loaded: Loaded, device: str) -> Path | None:
    """Where a result is kept. None where there is no place for caches."""
    with warnings.catch_warnings(), suppress(UserError):
        warnings.simplefilter("ignore")  # of a home that cannot be written to
        parts = [loaded.fingerprint, loaded.runtime, device, platform.node(), platform.platform(), driver()]
        return cache_directory() / FOLDER / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"
    return None


def driver() -> str:
    """The version of NVIDIA's driver, where Linux tells: with another one, files are compared again."""
    with suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    return ""


def _read_result(place: Path) -> Comparison | None:
    """The result that was kept. None if there is none that can be read."""
    with suppress(OSError, ValueError, TypeError):
        tolerance, rows = json.loads(place.read_text(encoding="utf-8"))
        return Comparison(tuple(Row(*map(float, row)) for row in rows), float(tolerance))
    return None
