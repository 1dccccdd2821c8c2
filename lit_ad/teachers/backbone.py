"""Backbone: the feature levels of any timm CNN or ViT. Teacher: a Backbone with frozen, fingerprinted weights.

Both take images in [0, 1] and normalise them as their model was trained, so that different models work side by side.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.machine import available_memory
from lit_ad.teachers.weights import build, fingerprint, load_weights

LARGE = 2**26  # the memory of batches of this size, B * 3 * H * W, or larger is checked before they run


class Backbone(nn.Module):
    """The features of a timm model at the given taps, randomly initialised and trainable.

    A tap is an index into timm's feature levels: stages for a CNN (0 is the stem), blocks for a ViT, from 0. Layers
    after the deepest tap are removed.

    timm draws the initial weights. In its ResNets, the last BatchNorm weight of each residual block is 0, so that an
    untrained block is its shortcut; in torchvision's it is 1.

    Args:
        name: A timm model name with the tag of its weights, "resnet18.tv_in1k". Without the tag, timm's default
            weights.
        taps: Levels to return, in this order.
        norm: For ViTs, apply the final norm to every tap.

    Raises:
        UserError: The model or a tap does not exist, or the model does not return intermediate features.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, name: str, taps: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        self.name, self.taps, self.norm = name, tuple(taps), norm
        # Channels last: a ResNet-18 trains 1.7 times as fast on a CPU, and GPUs need it for speed in half precision.
        self.model: Any = self._prune(self._build()).to(memory_format=torch.channels_last)
        config = timm.data.resolve_model_data_config(self.model)
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.register_buffer("pixel_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)

    def _build(self) -> nn.Module:
        """Make the whole model, untrained."""
        return build(self.name)

    def _prune(self, model: Any) -> Any:
        """Set channels, strides and patch size by the taps, and return the model without later layers."""
        if not hasattr(model, "forward_intermediates"):
            raise UserError(f"timm's {self.name} does not return intermediate features; choose another backbone")
        info = model.feature_info
        levels = [dict(level) for level in (info.get_dicts() if hasattr(info, "get_dicts") else info)]
        wrong = [tap for tap in self.taps if not 0 <= tap < len(levels)]
        if wrong or not self.taps or len(set(self.taps)) < len(self.taps):
            table = "\n".join(f"  {i}: {d['num_chs']} channels, stride {d['reduction']}" for i, d in enumerate(levels))
            raise UserError(
                f"taps {list(self.taps)} do not fit {self.name}: choose from these levels, each once:\n{table}"
            )
        self.channels = [int(levels[tap]["num_chs"]) for tap in self.taps]
        self.strides = [int(levels[tap]["reduction"]) for tap in self.taps]
        self.is_vit = hasattr(model, "patch_embed") and hasattr(model, "blocks")
        patch = model.patch_embed.patch_size if self.is_vit else 1
        self.patch_size = int(patch[0] if isinstance(patch, tuple) else patch)
        pruned_norm = {"prune_norm": not self.norm} if self.is_vit else {}
        model.prune_intermediate_layers(list(self.taps), prune_head=True, **pruned_norm)
        return model

    def skip_normalization(self) -> None:
        """Feed images in [0, 1] to the model unchanged from now on."""
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.pixel_mean.fill_(0)
        self.pixel_std.fill_(1)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images in [0, 1] as in the model's training, (B, 3, H, W) -> the same shape, the model's dtype."""
        return ((images.float() - self.pixel_mean.float()) / self.pixel_std.float()).to(self.pixel_mean.dtype)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one (B, C, h, w) for each tap, in their order, without class and register tokens.

        Raises:
            UserError: H or W is not a multiple of the ViT's patch size.
        """
        self.check_size(images)
        kwargs: dict[str, Any] = {"norm": self.norm} if self.is_vit else {}
        order = sorted(self.taps)
        normalized = self.normalize(images)
        levels = self.model.forward_intermediates(normalized, indices=order, intermediates_only=True, **kwargs)
        return [levels[order.index(tap)] for tap in self.taps]

    def check_size(self, images: Tensor) -> None:
        """Raise UserError if a side of images (B, 3, H, W) is not a multiple of the ViT's patch size."""
        if any(side % self.patch_size for side in images.shape[-2:]):
            raise UserError(
                f"{self.name} has patches of {self.patch_size} pixels: the image size {tuple(images.shape[-2:])} must "
                "be a multiple of it (set model.view.image_size, or model.view.multiple to pad)"
            )


class Teacher(Backbone):
    """A Backbone with pretrained weights that never change: always in eval mode, and its weights need no gradients.

    State dicts leave its weights out; its `fingerprint` identifies them. Gradients flow through it to images that
    require them.

    Args:
        name: A timm model name, as for Backbone.
        taps: Levels to return, as for Backbone.
        norm: For ViTs, apply the final norm to every tap.
        weights: "hub" for timm's own weights, or another source: see CHOICES in weights.py.

    Raises:
        UserError: The model or a tap does not exist, a weights file lacks a tensor of these taps or has it in another
            shape, or the hub cannot be reached.
    """

    def __init__(self, name: str, taps: Sequence[int], weights: str = "hub", norm: bool = False) -> None:
        super().__init__(name, taps, norm)
        self._load(weights)
        self.requires_grad_(False)
        super().train(False)
        self.fingerprint = fingerprint(self.model.state_dict())
        self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_put_back)  # type: ignore[no-untyped-call]

    @property
    def identity(self) -> list[Any]:
        """All settings that the features of an image depend on, as JSON values."""
        return [type(self).__name__, self.name, self.fingerprint, self.taps, self.norm, self.mean, self.std]

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            return super().forward(images)

    def check_size(self, images: Tensor) -> None:
        """Check the sides as Backbone does, and raise UserError if images (B, 3, H, W) do not fit into the memory of
        the machine, or of the GPU."""
        super().check_size(images)
        if torch.compiler.is_compiling() or images.numel() < LARGE:
            return
        count, _, height, width = images.shape
        needed = self.measure_bytes_per_pixel(images) * count * height * width
        available = (
            torch.cuda.get_device_properties(images.device).total_memory if images.is_cuda else available_memory()
        )
        if available is not None and needed > available:
            raise UserError(
                f"one layer of {self.name} needs {needed / 2**30:.1f} GiB for a batch of "
                f"{format_count(count, 'image')} of {height}x{width}, but there are {available / 2**30:.1f} GiB: "
                "lower model.view.image_size, data.batch_size or data.loading.eval_batch_size, or set model.view.tile"
            )

    def measure_bytes_per_pixel(self, images: Tensor) -> float:
        """Return the bytes for input and output of the largest layer, for each pixel of an image. They are measured on
        a small image. A whole forward pass needs more."""
        side = 16 * self.patch_size if self.is_vit else 224
        sizes: list[int] = []

        def measure(_: nn.Module, inputs: Any, output: Any) -> None:
            sizes.append(sum(t.numel() * t.element_size() for t in (*inputs, output) if isinstance(t, Tensor)))

        hooks = [m.register_forward_hook(measure) for m in self.model.modules() if not any(m.children())]
        try:
            with torch.no_grad():
                small = self.normalize(images.new_zeros(1, 3, side, side))
                self.model.forward_intermediates(small, indices=sorted(self.taps), intermediates_only=True)
        finally:
            for hook in hooks:
                hook.remove()
        return max(sizes) / side**2

    def _load(self, weights: str) -> None:
        load_weights(self.model, self.name, weights)

    def train(self, mode: bool = True) -> "Teacher":
        return self


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Remove a teacher's tensors from a state dict that is being made."""
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _put_back(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add a teacher's own tensors to a state dict that is being loaded, so that none is missing."""
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if key not in module._non_persistent_buffers_set:
            state[prefix + key] = tensor
