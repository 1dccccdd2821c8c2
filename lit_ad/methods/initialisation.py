"""How the weights of students begin."""

from torch import nn


def initialise_convolutions(module: nn.Module) -> None:
    """Draw every nn.Conv2d's weights as a ResNet's: He's normal distribution by fan out.

    Transposed convolutions, which are no nn.Conv2d, keep PyTorch's default.

    Source: He et al., "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
