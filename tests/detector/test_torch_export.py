"""torch.export: a stream restores torch's threads, and a program runs on another device."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_ad import Detector
from lit_ad.detector.torch_export import move_module, share_torch
from lit_ad.image.pixels import Pixels
from tests.deploy.test_export import pictures


def test_a_stream_leaves_the_threads_of_torch_as_they_are(files: dict[str, Path]) -> None:
    detector, before = Detector.load(files["torch"]), torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        seen: list[int] = []

        def network(pixels: Pixels) -> Any:
            seen.append(torch.get_num_threads())
            return detector.network(pixels)

        shared = share_torch(network, 2, "cpu")
        pixels = np.zeros((1, 3, 64, 64), np.uint8)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(shared, [pixels] * 4))
            assert set(seen) == {2}
        list(detector.stream(pictures(4)))
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (5, 5)
    finally:
        torch.set_num_threads(before)


def test_a_program_runs_on_another_device_than_it_was_exported_on(files: dict[str, Path]) -> None:
    """A program's operations name the CPU and refuse other tensors. Every machine has the device "meta"."""
    program = torch.export.load(files["torch"])
    assert devices_named(program.module()) == {"cpu"}
    module = move_module(program, torch.device("meta"))
    assert devices_named(module) == {"meta"}
    scores, maps = module(torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="meta"))
    assert scores.device.type == maps.device.type == "meta" and scores.shape == (2,)


def devices_named(module: Any) -> set[str]:
    return {str(node.kwargs["device"]) for node in module.graph.nodes if node.kwargs.get("device") is not None}
