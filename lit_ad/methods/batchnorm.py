"""BatchNorm over the batches of all processes on CPUs, so that several processes train as one process would."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode


class SharedBatchNorm(TorchFunctionMode):
    """Within this context, each BatchNorm in training mode takes its statistics over the batches of all processes.

    It does on CPUs what nn.SyncBatchNorm does on GPUs; torch has no SyncBatchNorm for CPUs.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_normalise_over_processes if func is batch_norm else func)(*args, **(kwargs or {}))


def _normalise_over_processes(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise a batch (B, C, ...) as `torch.nn.functional.batch_norm`, by mean and variance over all processes."""
    if not training:
        return batch_norm(images, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [axis for axis in range(images.ndim) if axis != 1]
    values = images if images.dtype == torch.float64 else images.float()
    own_count = values.new_tensor([values.numel() / values.shape[1]])
    sums, count = _Total.apply(torch.cat([values.sum(dim=axes), own_count])).split([values.shape[1], 1])
    mean = sums / count
    centred = values - _align_channels(mean, images.ndim)
    variance = _Total.apply(centred.square().sum(dim=axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    result = centred * _align_channels(scale, images.ndim)
    return (result if bias is None else result + _align_channels(bias, images.ndim)).to(images.dtype)


def _align_channels(channels: Tensor, ndim: int) -> Tensor:
    """Give a vector of channels `ndim` axes, so that it broadcasts: (C,) -> (1, C, 1, ...)."""
    return channels.view(1, -1, *[1] * (ndim - 2))


class _Total(torch.autograd.Function):
    """Sums a tensor over all processes, the same shape; the backward pass sums their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)
