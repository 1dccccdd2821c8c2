"""All runtimes share this: a missing package or card is an error in one line, and a GPU runs one call at a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.detector.card import Card
from lit_ad.detector.runtimes import import_optional, lock_network, parse_card, warm_up
from lit_ad.errors import UserError
from lit_ad.image.view import View


def test_a_missing_package_is_an_error_with_the_install_command() -> None:
    assert import_optional("json", "onnx").loads("1") == 1
    with pytest.raises(UserError, match=r"this needs the package no_such_runtime: pip install 'lit-ad\[onnx\]'"):
        import_optional("no_such_runtime", "onnx")


def test_a_locked_network_runs_one_call_at_a_time() -> None:
    inside, most = [0], [0]

    def run(pixels: Any) -> tuple[None, Any]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        inside[0] -= 1
        return None, pixels

    shared, gate = lock_network(run), threading.Barrier(4)

    def call(number: int) -> Any:
        gate.wait()
        return shared(np.full(1, number))[1][0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == list(range(4))
    assert most == [1]


def test_the_warm_up_runs_a_network_once_on_black() -> None:
    inputs: list[Any] = []

    def run(pixels: Any) -> tuple[None, Any]:
        inputs.append(pixels)
        return None, pixels

    assert warm_up(run, Card("x", View((8, 16)), None)) is run
    (pixels,) = inputs
    assert pixels.shape == (1, 3, 8, 16) and pixels.dtype == np.uint8


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "{}", '{"method": "x"}'])
def test_metadata_without_a_card_are_refused(text: str | None) -> None:
    with pytest.raises(UserError, match=r"model\.onnx was not written by lit_ad: it has no record of its method"):
        parse_card(text, Path("model.onnx"))
