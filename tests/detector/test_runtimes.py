"""What all runtimes share: a missing package is one line, a GPU serves one caller at a time, a card is ours."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.detector.card import Card
from lit_ad.detector.runtimes import card_of_text, need, one_at_a_time, run_once
from lit_ad.errors import UserError
from lit_ad.image.view import View


def test_a_package_that_is_missing() -> None:
    assert need("json", "onnx").loads("1") == 1
    with pytest.raises(UserError, match=r"this needs the package no_such_runtime: pip install 'lit-ad\[onnx\]'"):
        need("no_such_runtime", "onnx")


def test_a_network_of_a_gpu_serves_one_caller_at_a_time() -> None:
    inside, most = [0], [0]

    def run(pixels: Any) -> tuple[None, Any]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        inside[0] -= 1
        return None, pixels

    shared, gate = one_at_a_time(run), threading.Barrier(4)

    def call(number: int) -> Any:
        gate.wait()
        return shared(np.full(1, number))[1][0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == list(range(4))
    assert most == [1]


def test_a_network_runs_once_on_black() -> None:
    inputs: list[Any] = []

    def run(pixels: Any) -> tuple[None, Any]:
        inputs.append(pixels)
        return None, pixels

    assert run_once(run, Card("x", View((8, 16)), None)) is run
    (pixels,) = inputs
    assert pixels.shape == (1, 3, 8, 16) and pixels.dtype == np.uint8


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "{}", '{"method": "x"}'])
def test_what_is_no_card_of_ours(text: str | None) -> None:
    with pytest.raises(UserError, match=r"model\.onnx is not of lit_ad: it says nothing of its method"):
        card_of_text(text, Path("model.onnx"))
