"""The test compares BatchNorm over two gloo processes with torch's BatchNorm over the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from lit_ad.methods.batchnorm import SharedBatchNorm
from lit_ad.teachers.backbone import Backbone
from tests.processes import run_processes


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), BatchNormAct2d(5, momentum=0.3))
    for layer in made[1::2]:
        assert isinstance(layer, nn.BatchNorm2d)
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return made


def step(images: torch.Tensor, targets: torch.Tensor, total: int) -> dict[str, torch.Tensor]:
    """Return outputs, gradients and buffers after one backward pass. The loss is this part of a mean over `total`
    images."""
    model, images = layers(), images.requires_grad_()
    output = model(images)
    ((output * targets).square().sum() / total).backward()
    gradients = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    return {"output": output.detach(), "images": images.grad, **gradients, **dict(model.named_buffers())}


def share(rank: int, folder: Path, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    # One process has 2 images, the other has 3.
    images, targets = (values[:2] if rank == 0 else values[2:] for values in batch)
    with SharedBatchNorm():
        found: dict[str, Any] = step(images, targets, len(batch[0]))
    for name, value in found.items():
        if name.startswith("gradient"):  # DDP adds gradients in the same way
            dist.all_reduce(value)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_batchnorm_over_two_processes_equals_one_process(tmp_path: Path) -> None:
    batch = (torch.randn(5, 3, 12, 12) * 3 + 1, torch.randn(5, 5, 8, 8))
    run_processes(share, tmp_path, tuple(values.clone() for values in batch))
    whole = step(*batch, 5)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, value in whole.items():
        if name in ("output", "images"):
            torch.testing.assert_close(torch.cat([first[name], second[name]]), value, rtol=1e-4, atol=1e-5, msg=name)
        else:
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4, msg=name)
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def test_batchnorm_in_evaluation_equals_torch() -> None:
    model, images = layers().eval(), torch.randn(2, 3, 12, 12)
    expected = model(images)
    with SharedBatchNorm():
        assert torch.equal(model(images), expected)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_students_keep_their_names_and_outputs_as_sync_batch_norm(name: str) -> None:
    """configure_model converts students on GPUs with this function of timm."""
    student, images = Backbone(name, (1, 2, 3)).eval(), torch.randn(2, 3, 64, 64)
    names, outputs = list(student.state_dict()), student(images)
    converted = convert_sync_batchnorm(student)
    assert list(converted.state_dict()) == names
    assert all(torch.equal(one, other) for one, other in zip(converted(images), outputs, strict=True))
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in converted.modules())
