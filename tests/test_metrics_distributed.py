"""In real gloo processes every metric equals the value of one process bit for bit, also if a process has no images."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchmetrics import Metric

from lit_ad import metrics
from lit_ad.distributed import collective_device, gather_tensors
from lit_ad.metrics import state
from tests.processes import run_processes

IMAGES = 7


def image(index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    random = torch.Generator().manual_seed(index)
    mask = torch.zeros(50 + index, 60, dtype=torch.bool)
    if index % 2:
        mask[10 : 20 + index, 10:30] = True
        mask[40:44, 50 : 50 + index] = True
    return torch.randn(mask.shape, generator=random) + mask, mask, f"c/hole {index}" if index % 2 else "c/good"


def evaluate(indices: list[int]) -> str:
    """Return every digit of every metric, from a table with so few rows that its cells are coarse."""
    state.BUDGET.update(pixels=1000, regions=2000)
    state.PENDING = 5000
    pixels, images = metrics.PixelEvaluation(), metrics.ImageEvaluation()
    by_pixel: list[Any] = [metrics.PixelAUROC(), metrics.PixelAveragePrecision(), metrics.PixelF1Max()]
    by_pixel += [metrics.PixelPartialAUROC(0.2), metrics.AUPRO(0.1), metrics.AUPRO(thresholds="authors")]
    by_pixel += [metrics.AUPROBySize(), metrics.PixelAUROC(exact=True), metrics.AUPRO(exact=True)]
    saturated = metrics.SPRO()
    overlaps = metrics.AUPIMO((0.01, 0.1))
    by_image = [metrics.ImageAUROC(), metrics.ImageAveragePrecision(), metrics.ImageF1Max()]
    for index in indices:
        anomaly_map, mask, group = image(index)
        pixels.update(anomaly_map, mask, group)
        overlaps.update(anomaly_map, mask, group)
        images.update(anomaly_map.max()[None], mask.any()[None], [group])
        defects = torch.stack([mask, mask & (anomaly_map > 0)])[: 2 * (index % 2)]  # overlapping ones, or none
        saturated.update(anomaly_map, defects, [7, 3][: len(defects)], group)
        for metric in by_pixel:
            metric.update(anomaly_map, mask)
        for metric in by_image:
            metric.update(anomaly_map.max()[None], mask.any()[None])
    rows = {"all": pixels.groups(), "hole": ["c/good", "c/hole 3"], "good": images.groups()[:1]}
    results = [pixels.compute(), images.compute(), pixels.compute_rows(rows), images.compute_rows(rows, bootstrap=50)]
    results += [metric.compute() for metric in by_pixel + by_image]
    results += [saturated.compute(), saturated.compute_rows(rows)]
    results += [overlaps.compute(), overlaps.compute_rows(rows), overlaps.certificate()]
    results += [by_pixel[0].certificate(), by_pixel[4].certificate(), by_image[0].interval(resamples=50)]
    assert all(not metric._is_synced for metric in (pixels, images, saturated, overlaps, *by_pixel, *by_image))
    torch.set_printoptions(precision=17)
    return repr(results)


def run(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
    for busy in (processes, processes - 1):  # once each has images, once the last has none
        indices = list(range(IMAGES))[rank::busy] if rank < busy else []
        (folder / f"{rank} of {busy}.txt").write_text(evaluate(indices))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_agree_bit_for_bit(processes: int, tmp_path: Path) -> None:
    budget, pending, options = dict(state.BUDGET), state.PENDING, torch._tensor_str.PRINT_OPTS.precision
    try:
        alone = evaluate(list(range(IMAGES)))
    finally:
        state.BUDGET.update(budget)
        state.PENDING = pending
        torch.set_printoptions(precision=options)
    run_processes(run, processes, tmp_path, processes=processes)
    results = [path.read_text() for path in tmp_path.glob("*.txt")]
    assert results == [alone] * 2 * processes


def place(rank: int, folder: Path, backend: str) -> None:
    """Write the device of tensors for a backend's group, and the result of a collective with a tensor on the CPU."""
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=1)
    try:
        dist.all_reduce(torch.ones(1))
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    (folder / "found").write_text(f"{collective_device()} {refused}", encoding="utf-8")


@pytest.mark.parametrize(
    ("backend", "device"), [("gloo", "cpu "), ("cuda:gloo", "cuda:0 No backend type associated with device type cpu")]
)
def test_tensors_are_on_the_device_that_the_group_needs(backend: str, device: str, tmp_path: Path) -> None:
    """NCCL takes tensors on GPUs only. Here gloo plays its part: registered for GPUs, it refuses those on the CPU."""
    run_processes(place, tmp_path, backend, processes=1)
    assert (tmp_path / "found").read_text(encoding="utf-8") == device


def test_every_metric_gathers_its_counts_on_that_device() -> None:
    kinds = [kind for name in metrics.__all__ if isinstance(kind := getattr(metrics, name), type)]
    found = [kind() for kind in kinds if issubclass(kind, Metric)]
    assert len(found) > 8
    assert all(metric.dist_sync_fn is gather_tensors for metric in found)
