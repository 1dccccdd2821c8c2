"""Patch description networks: the shapes of outputs, the pixels that an output sees, and the files of weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_ad.errors import UserError
from lit_ad.teachers import Teacher
from lit_ad.teachers.pdn import CONVS, PDN, PDNTeacher, normalize_imagenet


@pytest.mark.parametrize("size", CONVS)
@pytest.mark.parametrize("side", [256, 257, 259, 300])
def test_the_output_has_a_quarter_of_the_image_size_minus_the_border(size: str, side: int) -> None:
    images = torch.rand(1, 3, side, 256)
    assert PDN(size, 5, 1 / 32)(images).shape == (1, 5, -(-side // 4) - 8, 56)  # type: ignore[arg-type]
    assert PDN(size, 5, 1 / 32, padding=True)(images).shape == (1, 5, -(-side // 4), 64)  # type: ignore[arg-type]


def test_the_networks_have_the_layers_of_the_paper() -> None:
    small = [(3, 128, 4), (128, 256, 4), (256, 256, 3), (256, 384, 4)]
    medium = [(3, 256, 4), (256, 512, 4), (512, 512, 1), (512, 512, 3), (512, 384, 4), (384, 384, 1)]
    for network, expected in ((PDN("small"), small), (PDN("medium"), medium)):
        convs = [layer for layer in network if isinstance(layer, nn.Conv2d)]
        assert [(conv.in_channels, conv.out_channels, conv.kernel_size[0]) for conv in convs] == expected
        assert isinstance(network[-1], nn.Conv2d)
    assert list(PDN("small").state_dict()) == [f"{i}.{kind}" for i in (0, 3, 6, 8) for kind in ("weight", "bias")]
    last = [layer.out_channels for layer in PDN("medium", 768) if isinstance(layer, nn.Conv2d)][-2:]
    assert last == [768, 768]


@pytest.mark.parametrize("size", CONVS)
def test_an_output_sees_33_by_33_pixels(size: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    PDN(size, 4, 1 / 32)(images)[0, :, 20, 30].sum().backward()  # type: ignore[arg-type]
    assert images.grad is not None
    rows, columns = (images.grad.abs().sum(dim=(0, 1, axis)).nonzero().flatten() for axis in (3, 2))
    assert (int(rows.min()), int(rows.max())) == (4 * 20, 4 * 20 + 32)
    assert (int(columns.min()), int(columns.max())) == (4 * 30, 4 * 30 + 32)


def test_padding_adds_positions_and_changes_no_other_output() -> None:
    """Away from the border, the distilled network with padding equals the teacher without padding."""
    plain = PDN("small", 4, 1 / 32)
    padded = PDN("small", 4, 1 / 32, padding=True)
    padded.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 256, 256)
    torch.testing.assert_close(padded(images)[..., 8:-8, 8:-8], plain(images)[..., 4:-4, 4:-4])


def renamed(network: PDN) -> dict[str, Tensor]:
    """Rename the weights to the other public form: conv1, conv2, ..."""
    state = network.state_dict()
    layers = list(dict.fromkeys(int(name.split(".")[0]) for name in state))
    return {f"conv{layers.index(int(n.split('.')[0])) + 1}.{n.split('.')[1]}": tensor for n, tensor in state.items()}


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("form", ["numbers", "names", "safetensors", "nested"])
def test_published_weights_load(size: str, form: str, tmp_path: Path) -> None:
    network = PDN(size, 384, 1 / 16)  # type: ignore[arg-type]
    path = tmp_path / "weights.pth"
    if form == "safetensors":  # safetensors sorts 10.weight before 3.weight
        save_file(network.state_dict(), path := tmp_path / "weights.safetensors")
    else:
        state = renamed(network) if form == "names" else network.state_dict()
        torch.save({"state_dict": state} if form == "nested" else state, path)
    teacher = PDNTeacher(str(path), size, width=1 / 16)  # type: ignore[arg-type]
    images = torch.rand(2, 3, 256, 256)
    (features,) = teacher(images)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(features, network((images - mean) / deviation))
    torch.testing.assert_close(teacher.normalize(images), normalize_imagenet(images))


def test_a_pdn_is_a_frozen_teacher_with_an_identity(pdn_file: Path) -> None:
    teacher = PDNTeacher(str(pdn_file), width=1 / 16)
    assert isinstance(teacher, Teacher)
    assert (teacher.channels, teacher.strides, teacher.patch_size) == ([384], [4], 1)
    assert not teacher.train().training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.state_dict()
    teacher.load_state_dict({})  # load_state_dict is strict
    other = PDNTeacher(str(pdn_file), width=1 / 16)
    assert other.identity == teacher.identity
    with torch.no_grad():
        next(iter(other.parameters())).add_(1)
    torch.save(other.model.state_dict(), pdn_file.with_name("other.pt"))
    assert PDNTeacher(str(pdn_file.with_name("other.pt")), width=1 / 16).identity != teacher.identity


def test_wrong_files_and_sizes_of_weights_are_refused(pdn_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no weights file nowhere.pth: pdn_small takes"):
        PDNTeacher("nowhere.pth")
    with pytest.raises(UserError, match=r"not the weights of pdn_small.*\(8, 3, 4, 4\).*\(128, 3, 4, 4\).*model.width"):
        PDNTeacher(str(pdn_file))
    with pytest.raises(UserError, match="not the weights of pdn_medium"):
        PDNTeacher(str(pdn_file), "medium", width=1 / 16)
    torch.save(PDN("small", width=1 / 16), tmp_path / "module.pth")  # the file is a pickle of a whole module
    with pytest.raises(UserError, match="loading it could run code"):
        PDNTeacher(str(tmp_path / "module.pth"), width=1 / 16)
    with pytest.raises(UserError, match="small or medium, not large"):
        PDN("large")  # type: ignore[arg-type]
