"""Any timm CNN or ViT as a pyramid of features; the frozen, fingerprinted one is a Teacher.

Both take images in [0, 1] and normalise them for themselves, so that networks of different families work side by side.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.machine import memory
from lit_ad.teachers.weights import build, fingerprint, load_weights

LARGE = 2**26  # values of a batch of images, 22 million pixels, from which on their memory is looked at first


class Backbone(nn.Module):
    """The features of a timm model at the given taps, randomly initialised and trainable.

    A tap is an index into timm's feature levels: stages for a CNN (0 is the stem), blocks for a ViT, from 0. What lies
    beyond the deepest tap is neither kept nor run.

    The weights begin as timm draws them: in a ResNet, the last BatchNorm weight of each residual block is 0, so that a
    block begins as its shortcut. In torchvision's it is 1.

    Args:
        name: A timm model name with the tag of its weights, "resnet18.tv_in1k"; without one, timm's newest.
        taps: Levels to return, in this order.
        norm: For ViTs, apply the final norm to every tap.

    Raises:
        UserError: The model or a tap does not exist, or the model does not give intermediate features.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, name: str, taps: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        self.name, self.taps, self.norm = name, tuple(taps), norm
        # Channels last: a ResNet-18 steps 1.7 times as fast on a CPU, and GPUs want it in half precision.
        self.model: Any = self._prune(self._build()).to(memory_format=torch.channels_last)
        config = timm.data.resolve_model_data_config(self.model)
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.register_buffer("pixel_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)

    def _build(self) -> nn.Module:
        return build(self.name)

    def _prune(self, model: Any) -> Any:
        if not hasattr(model, "forward_intermediates"):
            raise UserError(f"timm's {self.name} does not give intermediate features; choose another backbone")
        info = model.feature_info
        levels = [dict(level) for level in (info.get_dicts() if hasattr(info, "get_dicts") else info)]
        wrong = [tap for tap in self.taps if not 0 <= tap < len(levels)]
        if wrong or not self.taps or len(set(self.taps)) < len(self.taps):
            table = "\n".join(f"  {i}: {d['num_chs']} channels, stride {d['reduction']}" for i, d in enumerate(levels))
            raise UserError(f"taps {list(self.taps)} do not fit {self.name}, which has these, each once:\n{table}")
        self.channels = [int(levels[tap]["num_chs"]) for tap in self.taps]
        self.strides = [int(levels[tap]["reduction"]) for tap in self.taps]
        self.is_vit = hasattr(model, "patch_embed") and hasattr(model, "blocks")
        patch = model.patch_embed.patch_size if self.is_vit else 1
        self.patch_size = int(patch[0] if isinstance(patch, tuple) else patch)
        pruned_norm = {"prune_norm": not self.norm} if self.is_vit else {}
        model.prune_intermediate_layers(list(self.taps), prune_head=True, **pruned_norm)
        return model

    def skip_normalization(self) -> None:
        """From now on, see images in [0, 1] as they are."""
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.pixel_mean.fill_(0)
        self.pixel_std.fill_(1)

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the model was trained on them, (B, 3, H, W) -> the same shape in the model's dtype."""
        return ((images.float() - self.pixel_mean.float()) / self.pixel_std.float()).to(self.pixel_mean.dtype)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one (B, C, h, w) per tap, in their order, without class and register tokens.

        Raises:
            UserError: H or W is no multiple of a ViT's patch.
        """
        self.check_size(images)
        kwargs: dict[str, Any] = {"norm": self.norm} if self.is_vit else {}
        order = sorted(self.taps)
        normalized = self.normalize(images)
        levels = self.model.forward_intermediates(normalized, indices=order, intermediates_only=True, **kwargs)
        return [levels[order.index(tap)] for tap in self.taps]

    def check_size(self, images: Tensor) -> None:
        """Raises UserError where the sides of images (B, 3, H, W) are no multiples of a ViT's patch."""
        if any(side % self.patch_size for side in images.shape[-2:]):
            raise UserError(
                f"{self.name} has patches of {self.patch_size} pixels: the image size {tuple(images.shape[-2:])} must "
                "be a multiple of it (set model.view.image_size, or model.view.multiple to pad)"
            )


class Teacher(Backbone):
    """A Backbone with pretrained weights, frozen for good: always in eval mode, without gradients of its own.

    Its weights are left out of every state dict; `fingerprint` stands for them. Gradients flow to the images when the
    images ask for them.

    Args:
        name: A timm model's, as Backbone has it.
        taps: Which of its levels or blocks, as Backbone has them.
        norm: Whether the model's last norm is applied to each tap, as Backbone has it.
        weights: See CHOICES in weights.py; "hub" for timm's own.

    Raises:
        UserError: Unknown names or taps, a file that lacks tensors the taps need or holds others, a hub out of reach.
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
        """All that its features of given pixels depend on, as JSON."""
        return [type(self).__name__, self.name, self.fingerprint, self.taps, self.norm, self.mean, self.std]

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            return super().forward(images)

    def check_size(self, images: Tensor) -> None:
        """Raises UserError as well where images (B, 3, H, W) do not fit the memory of the machine, or of the GPU."""
        super().check_size(images)
        if torch.compiler.is_compiling() or images.numel() < LARGE:
            return
        count, _, height, width = images.shape
        needed = self.bytes_per_pixel(images) * count * height * width
        have = torch.cuda.get_device_properties(images.device).total_memory if images.is_cuda else memory()
        if have is not None and needed > have:
            raise UserError(
                f"the features of {format_count(count, 'image')} of {height}x{width} at once take "
                f"{needed / 2**30:.1f} GiB in one layer of {self.name} alone, and there are {have / 2**30:.1f} GiB: "
                "lower model.view.image_size, data.batch_size or data.loading.eval_batch_size, or set model.view.tile"
            )

    def bytes_per_pixel(self, images: Tensor) -> float:
        """The most that one layer takes in and gives out, measured on a small image: less than a forward pass needs."""
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
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _put_back(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if key not in module._non_persistent_buffers_set:
            state[prefix + key] = tensor
