"""Runs for the pages."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.evaluation.results import Results
from tests import report_runs

MakeRun = Callable[..., tuple[Path, Results, Decision]]


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """A function make_run(home, seed, root, categories) that returns a run's directory, results and decision."""
    return report_runs.make_run


@pytest.fixture(scope="session")
def pixels_of() -> Callable[[bytes | None], np.ndarray]:
    return report_runs.decoded
