"""Initial weights of students."""

from torch import nn


def initialise_convolutions(module: nn.Module) -> None:
    """Draw the weights of every nn.Conv2d from He's normal distribution by fan-out, as ResNets do.

    Transposed convolutions are not nn.Conv2d, and keep PyTorch's default.

    Source: He et al., "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def initialise_linear_layers(module: nn.Module, std: float = 0.01, limit: float = 0.03) -> None:
    """Draw the weights of every nn.Linear from a normal distribution with standard deviation `std`, cut at -`limit` and
    `limit`; set the biases to 0.

    Source: the code of Dinomaly and of INP-Former, whose numbers are the defaults.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std, a=-limit, b=limit)
            nn.init.zeros_(layer.bias)
