"""How the weights of students begin."""

from torch import nn


def initialise_convolutions(module: nn.Module) -> None:
    """Draw every nn.Conv2d's weights as ResNets do: He's normal distribution by fan out (https://arxiv.org/abs/1502.01852).

    Transposed convolutions, which are no nn.Conv2d, keep PyTorch's default.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
