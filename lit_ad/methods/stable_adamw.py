"""StableAdamW (Wortsman et al., "Stable and low-precision training", NeurIPS 2023), https://arxiv.org/abs/2304.13013.

Written here because no kept library has the one that Dinomaly trains with: those of pytorch-optimizer and torch-optimi
know no amsgrad, divide the weight decay as well, and take the RMS over another denominator than the step's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import Parameter


class StableAdamW(torch.optim.Optimizer):
    """AdamW with amsgrad, whose step on each tensor is divided by max(1, RMS of gradient / denominator): where the
    second moment lags behind a sudden gradient, the step is short. The weight decay is decoupled and not divided.

    Args:
        params: What to optimise.
        lr, betas, eps, weight_decay: As in AdamW.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state.update({name: torch.zeros_like(parameter) for name in ("mean", "square", "largest_square")})
                state["step"] += 1
                mean, square, largest = state["mean"], state["square"], state["largest_square"]
                mean.lerp_(gradient, 1 - beta1)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                torch.maximum(largest, square, out=largest)
                denominator = (largest / (1 - beta2 ** state["step"])).sqrt_().add_(eps)
                rms = (gradient / denominator).square_().mean().sqrt_()
                size = lr / (1 - beta1 ** state["step"]) / rms.clamp_(min=1)
                parameter.mul_(1 - lr * group["weight_decay"]).sub_((mean / denominator).mul_(size))
        return loss
