"""Patch description networks (EfficientAD, Batzner et al., WACV 2024): a few convolutions, of which each output sees
33x33 pixels and says what a large network would say of them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.teachers.backbone import Teacher
from lit_ad.teachers.weights import from_file

PDNSize = Literal["small", "medium"]
CONVS: dict[str, Sequence[tuple[int, int | None]]] = {  # kernel, and outputs; None: the network's own
    "small": ((4, 128), (4, 256), (3, 256), (4, None)),
    "medium": ((4, 256), (4, 512), (1, 512), (3, 512), (4, None), (1, None)),
}


class PDN(nn.Sequential):
    """Normalised images (B, 3, H, W) -> (B, outputs, h, w), of stride 4.

    Without padding h is ceil(H / 4) - 8, and with it, which is for the teacher's distillation alone, ceil(H / 4).

    Args:
        size: The paper's S or M.
        outputs: Channels: 384 of a teacher, 768 of a student.
        width: Of the channels between, relative to the paper's. Narrower networks are ours, for a CPU.
        padding: See above.
    """

    def __init__(self, size: PDNSize = "small", outputs: int = 384, width: float = 1.0, padding: bool = False) -> None:
        if size not in CONVS:
            raise UserError(f"a patch description network is {' or '.join(CONVS)}, not {size}")
        layers: list[nn.Module] = []
        channels = 3
        for number, (kernel, hidden) in enumerate(CONVS[size]):
            made = outputs if hidden is None else max(1, round(width * hidden))
            around = {4: 3 if number < 2 else 0, 3: 1, 1: 0}[kernel] if padding else 0
            layers += [nn.Conv2d(channels, made, kernel, padding=around), nn.ReLU()]
            if number < 2:
                layers.append(nn.AvgPool2d(2, padding=int(padding)))
            channels = made
        super().__init__(*layers[:-1])  # no ReLU at the end

    def forward_intermediates(self, images: Tensor, **_: Any) -> list[Tensor]:
        """The one level there is, as timm's models give theirs."""
        return [self(images)]


class PDNTeacher(Teacher):
    """A frozen PDN that was distilled from a large network. It takes images in [0, 1] as every Teacher does.

    Args:
        weights: A file: of `lit-ad distill`, or a published state dict.
        size, outputs, width: As for PDN; they must be those of the file.

    Raises:
        UserError: No such file, one that holds more than tensors, or those of another network.
    """

    def __init__(self, weights: str, size: PDNSize = "small", outputs: int = 384, width: float = 1.0) -> None:
        self.arguments = (size, outputs, width)  # before nn.Module's own, whose `_build` needs them
        super().__init__(f"pdn_{size}", (0,), weights)

    def _build(self) -> nn.Module:
        return PDN(*self.arguments)

    def _prune(self, model: Any) -> Any:
        self.channels, self.strides = [self.arguments[1]], [4]
        self.is_vit, self.patch_size = False, 1
        return model

    def _load(self, weights: str) -> None:
        if not resolve_path(weights).is_file():
            raise UserError(
                f"there is no weights file {weights}: {self.name} takes a .safetensors file of `lit-ad distill`, or a "
                "published state dict of this network"
            )
        self.model.load_state_dict(_by_order(from_file(weights), self.model.state_dict(), f"{self.name} in {weights}"))


def imagenet(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as a PDN takes them, and as `PDNTeacher.normalize` makes them."""
    mean, deviation = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (images - mean) / deviation


def _by_order(given: Mapping[str, Tensor], needed: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    """Published files name the same layers differently: 0, 3, 6, ... or conv1, conv2, .... -> under the names needed.

    Raises UserError if numbers or shapes differ.
    """
    names = sorted(given, key=natural)
    wanted = sorted(needed, key=natural)
    theirs, ours = ([tuple(tensors[n].shape) for n in order] for tensors, order in ((given, names), (needed, wanted)))
    if theirs != ours:
        shapes = [[shape for shape in each if len(shape) == 4] for each in (theirs, ours)]
        raise UserError(
            f"these are not the weights of {title}: its convolutions are {shapes[0]}, and {shapes[1]} are needed; see "
            "model.size and model.width"
        )
    return {name: given[other] for name, other in zip(wanted, names, strict=True)}


def natural(name: str) -> list[int | str]:
    """A key that sorts 10.weight after 8.weight."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
