"""What the runtimes of exported files share. Neither torch nor training code is imported here."""

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

KEY = "lit_ad"  # the key of the card in a file's metadata


class Loaded(NamedTuple):
    """A detector's file, ready to run."""

    network: Network
    card: Card
    network_for: NetworkFor  # returns the network for several callers
    runtime: str  # its name, its version and its device or providers: what decides the numbers that it computes
    check: str | None = None  # `self_check.SelfCheck` as text; None: the file has none
    fingerprint: str = ""  # a hash of the file's content


def import_optional(package: str, extra: str) -> Any:
    """Import and return an optional package.

    Raises:
        UserError: The package is not installed. The message names lit_ad's extra that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"this needs the package {package}: pip install 'lit-ad[{extra}]' ({error})") from error


def warm_up(network: Network, card: Card) -> Network:
    """Run a network once, on a black image, before several threads share it. Return the network.

    Libraries initialise themselves at their first use, and two threads that do this at the same time can deadlock. In
    OpenVINO's Python binding, one thread is inside a call_once and waits for Python's global lock, which the other
    thread holds while it waits for the call_once. No signal ends this. It happened in 6 of 200 processes.
    """
    network(card.view.black_input())
    return network


def lock_network(network: Network) -> Network:
    """Return a network that several threads may call. It runs one call at a time: a GPU's memory is for one batch."""
    lock = threading.Lock()

    def run(pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        with lock:
            return network(pixels)

    return run


def parse_card(text: Any, file: Path) -> Card:
    """Return the card in the text of a file's metadata. Raises UserError if there is none, or it cannot be read."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        values = None
    return read_card(values, file)
