"""Patch description networks (EfficientAD, Batzner et al., WACV 2024): a few convolutions that predict the features of
a large network. Each output sees 33x33 pixels.
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
from lit_ad.teachers.weights import read_weights

PDNSize = Literal["small", "medium"]
CONVS: dict[str, Sequence[tuple[int, int | None]]] = {  # kernel size and output channels; None: PDN's `outputs`
    "small": ((4, 128), (4, 256), (3, 256), (4, None)),
    "medium": ((4, 256), (4, 512), (1, 512), (3, 512), (4, None), (1, None)),
}


class PDN(nn.Sequential):
    """A patch description network of stride 4: normalised images (B, 3, H, W) -> (B, outputs, h, w).

    h is ceil(H / 4) with padding, and ceil(H / 4) - 8 without; w likewise.

    Args:
        size: The paper's network S, "small", or M, "medium".
        outputs: Output channels: 384 for a teacher, 768 for a student.
        width: Width of the hidden layers, relative to the paper's. Values below 1 are our addition, for CPUs.
        padding: Pad the convolutions. Only the teacher's distillation does.

    Raises:
        UserError: The size is unknown.
    """

    def __init__(self, size: PDNSize = "small", outputs: int = 384, width: float = 1.0, padding: bool = False) -> None:
        if size not in CONVS:
            raise UserError(f"a patch description network is {' or '.join(CONVS)}, not {size}")
        layers: list[nn.Module] = []
        channels = 3
        for number, (kernel, hidden) in enumerate(CONVS[size]):
            out = outputs if hidden is None else max(1, round(width * hidden))
            margin = {4: 3 if number < 2 else 0, 3: 1, 1: 0}[kernel] if padding else 0
            layers += [nn.Conv2d(channels, out, kernel, padding=margin), nn.ReLU()]
            if number < 2:
                layers.append(nn.AvgPool2d(2, padding=int(padding)))
            channels = out
        super().__init__(*layers[:-1])  # no ReLU at the end

    def forward_intermediates(self, images: Tensor, **_: Any) -> list[Tensor]:
        """Return the network's output as a list of one level, as timm's models return their levels."""
        return [self(images)]


class PDNTeacher(Teacher):
    """A frozen PDN that was distilled from a large network. It takes images in [0, 1] as every Teacher does.

    Args:
        weights: File that `lit-ad distill` wrote, or a published state dict.
        size, outputs, width: As for PDN; they must fit the file.

    Raises:
        UserError: The file does not exist, holds more than tensors, or is of another network.
    """

    def __init__(self, weights: str, size: PDNSize = "small", outputs: int = 384, width: float = 1.0) -> None:
        self.arguments = (size, outputs, width)  # set before super().__init__, which calls `_build`
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
        published, own = read_weights(weights), self.model.state_dict()
        self.model.load_state_dict(_rename_by_order(published, own, f"{self.name} in {weights}"))


def normalize_imagenet(images: Tensor) -> Tensor:
    """Normalise images (B, 3, H, W) in [0, 1] by ImageNet's mean and deviation, as `PDNTeacher.normalize` does: the
    same shape."""
    mean, deviation = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (images - mean) / deviation


def _rename_by_order(published: Mapping[str, Tensor], own: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    """Give published tensors our names of the same layers: files count 0, 3, 6, ... or conv1, conv2, ...

    Args:
        published: The tensors of a file.
        own: The state dict of the network.
        title: Network and file, for the message.

    Raises:
        UserError: The number of tensors, or a shape, differs.
    """
    their_names, our_names = sorted(published, key=_natural_order), sorted(own, key=_natural_order)
    theirs, ours = [tuple(published[n].shape) for n in their_names], [tuple(own[n].shape) for n in our_names]
    if theirs != ours:
        shapes = [[shape for shape in each if len(shape) == 4] for each in (theirs, ours)]
        raise UserError(
            f"these are not the weights of {title}: its convolutions are {shapes[0]}, but the network needs "
            f"{shapes[1]}: set model.size and model.width to those of the file"
        )
    return {our_name: published[name] for our_name, name in zip(our_names, their_names, strict=True)}


def _natural_order(name: str) -> list[int | str]:
    """Return a sort key by which 8.weight comes before 10.weight."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
