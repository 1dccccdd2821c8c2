"""What the runtimes of exported files share. For ONNX and OpenVINO nothing of torch or of training is imported."""

import importlib
import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.card import Card, read_card
from lit_ad.detector.scoring import Network, NetworkFor
from lit_ad.errors import UserError

KEY = "lit_ad"  # under which a file keeps its card


class Loaded(NamedTuple):
    """A detector's file, ready to run."""

    network: Network
    card: Card
    network_for: NetworkFor  # for several callers
    runtime: str  # its name and version, and what else decides how it computes
    check: str | None = None  # what the file carries to check itself: `self_check.SelfCheck` as text
    fingerprint: str = ""  # of the file's content


def need(package: str, extra: str) -> Any:
    """An optional package. Raises UserError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"this needs the package {package}: pip install 'lit-ad[{extra}]' ({error})") from error


def run_once(network: Network, card: Card) -> Network:
    """Run a network on a black image in this thread alone, and return it, ready to be shared by several threads.

    Libraries set things up at their first use, and of two threads that meet there each may wait for the other for ever:
    in OpenVINO's Python binding one is inside a call_once and waits for the interpreter's lock, which the other holds
    while it waits for the call_once. No signal ends that. 6 of 200 processes hung so.
    """
    network(card.view.black_input())
    return network


def one_at_a_time(network: Network) -> Network:
    """A network of a GPU for several callers: its memory is for one batch."""
    alone = threading.Lock()

    def shared(pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        with alone:
            return network(pixels)

    return shared


def card_of_text(text: Any, file: Path) -> Card:
    """Raises UserError if the file has no card of ours, or one that cannot be read."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        values = None
    return read_card(values, file)
