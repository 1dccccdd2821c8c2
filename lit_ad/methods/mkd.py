"""Multiresolution Knowledge Distillation for Anomaly Detection (Salehi et al., CVPR 2021),
https://arxiv.org/abs/2011.11108.

On nominal images, a narrow cloner learns a frozen source network's outputs at several depths, their values and their
directions. The disagreement of both is an image's score, and its gradient with respect to the pixels is the map. The
defaults are those of the authors' code for MVTec AD.
Shapes: B batch, C channels, (H, W) image, (h, w) critical output, L critical layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Self

import torch
from timm.models import VGG
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, max_pool2d, relu, relu6
from torch.overrides import TorchFunctionMode

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.maps import clip, smooth_map
from lit_ad.teachers import Backbone, Teacher

_HIDDEN = 16  # channels of the small cloner's convolutions between critical outputs
POOL = 0  # stands for a 2x2 max pool in a list of widths
_RELUS = (relu, relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class MKD(Method):
    """A cloner of any timm CNN.

    Args:
        backbone: timm name of the source with the tag of its weights; the authors' is torchvision's VGG-16.
        taps: Critical layers, by timm's numbers. For VGG-16, 1 to 4 are pool2 to pool5 (detection), 2 to 4 are pool3 to
            pool5 (localisation).
        weights: Source of the frozen network's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        normalize: True: normalise images as in the source's training, as the authors do for CIFAR-10. False: only scale
            them to [0, 1], as they do for MVTec AD.
        pool: Compare the taps after a 2x2 max pool. None: True for VGGs only, because timm taps a VGG before its pools.
        cloner: "small" is narrow between critical outputs. "equal" has the source's architecture with timm's random
            initial weights.
        value_weight: Weight of the squared error, the paper's lambda: 0.5 for MVTec AD, 0.01 for other data.
        direction_only: Leave the squared error out. For sources with activations in the hundreds, it would outweigh the
            directions.
        saliency: How the map is computed; None computes no map and is the fastest. guided_backprop changes the
            gradients of the cloner's ReLUs and ReLU6s only.
        copies: Number of noisy copies of an image that smooth_grad averages.
        noise: Noise of those copies: its standard deviation is (noise / range)^2, where range is highest - lowest value
            of the image in [0, 1]. It hardly changes an image; SmoothGrad's own paper takes far more.
        map_scale: "raw" maps are comparable between images. "image" scales each map to [0, 1] by its own extremes, as
            the authors do: the highest value of a nominal image is then also 1. Published pixel metrics use it.
        lr: Learning rate of Adam.
    """

    map_scored = False

    def __init__(
        self,
        backbone: str = "vgg16.tv_in1k",
        taps: Sequence[int] = (1, 2, 3, 4),
        weights: str = "hub",
        view: View = View(128),
        normalize: bool = False,
        pool: bool | None = None,
        cloner: Literal["small", "equal"] = "small",
        value_weight: float = 0.5,
        direction_only: bool = False,
        saliency: Literal["gradients", "smooth_grad", "guided_backprop"] | None = "gradients",
        copies: int = 50,
        noise: float = 0.05,
        map_scale: Literal["raw", "image"] = "raw",
        lr: float = 1e-3,
    ) -> None:
        source = Source(backbone, sorted(taps), weights, pool)
        super().__init__(view.of_multiple(source.strides[-1]))
        self.teacher: Source = source
        small = cloner == "small"
        self.student = Cloner(source.channels, source.strides) if small else Backbone(backbone, source.taps)
        if not normalize:
            for network in (source, self.student):
                if isinstance(network, Backbone):
                    network.skip_normalization()
        self.pools_student = source.pool and not small  # the small cloner has its own pools
        self.value_weight = 0.0 if direction_only else value_weight
        self.saliency, self.copies, self.noise, self.map_scale, self.lr = saliency, copies, noise, map_scale, lr

    def compare(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """Return the disagreement of each image, summed over critical layers: (B,).

        Raises:
            UserError: H or W is not a multiple of the deepest stride.
        """
        stride = self.teacher.strides[-1]
        if any(side % stride for side in images.shape[-2:]):
            raise UserError(
                f"the deepest critical layer has stride {stride}: the image size {tuple(images.shape[-2:])} must be a "
                "multiple of it (set model.view.image_size, or take shallower model.taps)"
            )
        # The small cloner needs the source's normalised images; a Backbone normalises for itself.
        student = self.student(self.teacher.normalize(images) if isinstance(self.student, Cloner) else images)
        student = [max_pool2d(s, 2) for s in student] if self.pools_student else student
        pairs = zip(features, student, strict=True)
        return torch.stack([_measure_disagreement(t, s, self.value_weight) for t, s in pairs]).sum(dim=0)

    def loss(self, disagreement: Tensor) -> Tensor:
        return disagreement.mean()

    def detect(self, disagreement: Tensor) -> Prediction:
        """Return the scores (B,) only: the map needs gradients, see `predict`."""
        return Prediction(None, disagreement)

    def predict(self, images: Tensor, features: list[Tensor] | None = None) -> Prediction:
        """Return each image's loss as its score, (B,), and as its map (B, 1, H, W) the absolute gradient of that loss,
        summed over channels, clipped and smoothed.

        Cached features have no gradients: for a map, the source runs again.
        """
        if self.saliency is None:
            return super().predict(images, features)
        # Gradients of means over thousands of values vanish in half precision: no autocast here.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            score, saliency = self.differentiate(images.clone())
        return Prediction(smooth_map(saliency, sigma=4.0), score)

    def assess(self, images: Tensor, features: list[Tensor] | None = None) -> tuple[Prediction, Tensor]:
        prediction = self.predict(images, features)
        assert prediction.score is not None
        return prediction, prediction.score.mean()

    def differentiate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's loss and its pixels' saliency: (B, 3, H, W) in [0, 1] -> (B,), (B, 1, H, W)."""
        score, gradient = self.compute_gradient(images)
        if self.saliency != "smooth_grad":
            return score, self.sum_saliency(gradient)
        span = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
        # The authors pass the square of their sigma to torch, which takes it as the standard deviation.
        deviation = (self.noise / span.clamp(min=self.noise)).square()
        saliency = torch.zeros_like(images[:, :1], dtype=torch.float32)
        for copy in range(self.copies):  # seeded by the copy: an image's map does not depend on its batch
            noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(copy)).to(images)
            saliency += self.sum_saliency(self.compute_gradient(images + deviation * noise)[1]) / self.copies
        return score, saliency if self.map_scale == "raw" else _to_unit_range(saliency)

    def sum_saliency(self, gradient: Tensor) -> Tensor:
        """Sum absolute values over channels, clipped at each image's 99th percentile: (B, 3, H, W) -> (B, 1, H, W)."""
        saliency = clip(gradient.float().abs().sum(dim=1, keepdim=True), 0.99)
        return saliency if self.map_scale == "raw" else _to_unit_range(saliency)

    def compute_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each image and its gradient with respect to the image, (B, 3, H, W) -> (B,), (B, 3, H, W).

        One backward pass gives all gradients, because no loss depends on another image.
        """
        images = images.detach().requires_grad_()
        features = self.teacher(images)
        with GuidedBackprop() if self.saliency == "guided_backprop" else nullcontext():  # the cloner's ReLUs alone
            losses = self.compare(images, features)
        (gradient,) = torch.autograd.grad(losses.sum(), images)
        return losses.detach(), gradient

    def exportable(self) -> tuple[Self, str]:
        copied, _ = super().exportable()
        if self.saliency is None:
            return copied, ""
        copied.saliency = None
        return copied, "MKD's map is a gradient through both of its networks, and other runtimes compute no gradients"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.student.parameters(), lr=self.lr)


class Source(Teacher):
    """The frozen source network, a CNN. It returns the critical outputs: its taps, or the taps after a 2x2 max pool,
    which takes a quarter of the space in a cache.

    Args:
        name, taps, weights: As for Teacher.
        pool: Apply the max pool. None: for VGGs only.

    Raises:
        UserError: The network is not a CNN, or a tap is a pool already.
    """

    def __init__(self, name: str, taps: Sequence[int], weights: str, pool: bool | None) -> None:
        super().__init__(name, taps, weights)
        if self.is_vit:
            raise UserError(f"MKD clones convolutional networks, but {name} is not one: choose a VGG or a ResNet")
        vgg = isinstance(self.model, VGG)
        self.pool = vgg if pool is None else pool
        if self.pool and vgg and isinstance(self.model.features[-1], nn.MaxPool2d):
            raise UserError(f"tap {max(taps)} of {name} is its last pool already: give the tap before it")
        if self.pool:
            self.strides = [2 * stride for stride in self.strides]

    @property
    def identity(self) -> list[Any]:
        return [*super().identity, self.pool]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> L x (B, C, h, w)."""
        levels = super().forward(images)
        return [max_pool2d(level, 2) for level in levels] if self.pool else levels


class Cloner(nn.Module):
    """The small cloner: 3x3 convolutions, one stage for each critical output. BatchNorm follows each convolution,
    except before a pool.

    Args:
        channels: Channels of the source's critical outputs, from shallow to deep.
        strides: Strides of the same outputs.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        widths = [3, *channels[:-1]]
        stages = zip(widths, plan_stages(channels, strides), strict=True)
        self.stages = nn.ModuleList(nn.Sequential(*_make_layers(width, stage)) for width, stage in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> L x (B, C, h, w)."""
        outputs = [images]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs[1:]


def plan_stages(channels: Sequence[int], strides: Sequence[int]) -> list[list[int]]:
    """Return the channels of each stage's convolutions, with POOL for a pool. The blocks between pools have two, two,
    three, three... convolutions, as in VGG-16.

    Args:
        channels: Channels of the critical outputs, from shallow to deep.
        strides: Strides of the same outputs.
    """
    stages, blocks, stride = [], 0, 1
    for width, target in zip(channels, strides, strict=True):
        stage: list[int] = []
        pools = (target // stride).bit_length() - 1
        for left in reversed(range(max(pools, 1))):
            narrow = [_HIDDEN] * (1 if blocks < 2 else 2)
            stage += [*narrow, _HIDDEN if left else width, *([POOL] if pools else [])]
            blocks += 1
        stages.append(stage)
        stride = target
    return stages


def _make_layers(width: int, stage: Sequence[int]) -> Iterator[nn.Module]:
    """Yield the layers of one stage of `plan_stages`, whose input has `width` channels."""
    for out, after in zip(stage, [*stage[1:], None], strict=True):
        if out == POOL:
            yield nn.MaxPool2d(2)
            continue
        convolution = nn.Conv2d(width, out, 3, padding=1, bias=False)
        nn.init.xavier_uniform_(convolution.weight)
        yield convolution
        if after != POOL:
            yield nn.BatchNorm2d(out)
        yield nn.ReLU(inplace=True)
        width = out


class GuidedBackprop(TorchFunctionMode):
    """Within this context, ReLUs pass back only the positive part of the gradient at their output. Modules
    and other threads stay as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _RELUS and output.requires_grad:
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output


def _measure_disagreement(teacher: Tensor, student: Tensor, value_weight: float) -> Tensor:
    """Return 1 - cosine + value_weight x mean squared error of one layer, in float32: 2 x (B, C, h, w) -> (B,)."""
    teacher, student = teacher.float().flatten(1), student.float().flatten(1)
    direction = 1 - cosine_similarity(teacher, student)
    return direction + value_weight * (teacher - student).square().mean(dim=1) if value_weight else direction


def _to_unit_range(saliency: Tensor) -> Tensor:
    """Scale each map so that its lowest value is 0 and its highest 1, (B, 1, H, W) -> the same shape."""
    low, high = (end(saliency, dim=(1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    return (saliency - low) / (high - low).clamp(min=torch.finfo(saliency.dtype).tiny)
