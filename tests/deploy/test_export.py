"""Exported files agree with their checkpoints: every method in every format."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad import Detector
from lit_ad.batch import Prediction
from lit_ad.deploy.differences import list_excesses, measure_differences
from lit_ad.deploy.export import SUFFIX, check_options, export
from lit_ad.deploy.exported_file import input_size, rewrite
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.base import Method
from lit_ad.methods.detector_file import find_method_class
from lit_ad.methods.maps import smooth_map, upsample
from lit_ad.methods.network import make_inference_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
telemetry = pytest.importorskip("openvino_telemetry")

DECISION = Decision({"a": [1.0, 2.0, 3.0]}, {"a": [1.0, 2.0, 3.0]}, {"a": [0.5, 0.6, 0.7]}, 0.3)  # type: ignore[dict-item]


@pytest.fixture(autouse=True)
def _nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a test sends usage data to Intel, as OpenVINO's converter does."""
    sent: list[Any] = []
    monkeypatch.setattr(telemetry.Telemetry, "send_event", lambda *args, **_: sent.append(args))
    yield
    assert not sent


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (70 + i, 80, 3), dtype=np.uint8) for i in range(count)]


def export_every_format(small_models: dict[str, dict[str, Any]], home: Path) -> tuple[STFPM, dict[str, Path]]:
    """Make a small STFPM, export it in each format to a folder, and add image.png. Return the method and the files."""
    method = STFPM(**{**small_models["STFPM"]["init_args"], "view": View(64, fit="pad")}).eval().requires_grad_(False)
    method.decision = DECISION
    files = {format: home / f"model{suffix}" for format, suffix in SUFFIX.items()}
    for format, file in files.items():
        export(method, file, format, carried=pictures(3))  # type: ignore[arg-type]
    Image.fromarray(pictures(1)[0]).save(home / "image.png")
    return method, files


def made(name: str, small_models: dict[str, dict[str, Any]], **changes: Any) -> Method:
    """Make a method with random weights and a decision, calibrated on noise."""
    torch.manual_seed(0)
    arguments = dict(small_models[name]["init_args"])
    view = View(**arguments.pop("view"))
    method = find_method_class(f"lit_ad.methods.{small_models[name]['class_path'].rsplit('.', 1)[-1]}", Path())(
        **{**arguments, "view": view, **changes}
    )
    assert isinstance(method, Method)
    method.eval().requires_grad_(False)
    side = view.size or (64, 64)
    images = torch.rand(12, 3, *side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nominal = [(images, method.describe(images))]
        method.prepare(nominal)
        method.calibrate(nominal, nominal)
    method.decision = DECISION
    return method


QUICK = ("STFPM", "MKD")  # the others' graphs take minutes to write and to load


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_parity(name: str, small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    method = made(name, small_models)
    checkpoint = Detector(make_inference_network(method), method.card)
    for format, suffix in SUFFIX.items():
        file = tmp_path / f"model{suffix}"
        card = export(method, file, format)  # type: ignore[arg-type]
        exported = Detector.load(file)
        found = measure_differences(exported, checkpoint, pictures(5))
        print(
            name,
            format,
            {size: {key: f"{value:.1e}" for key, value in values.items()} for size, values in found.items()},
        )
        assert not list_excesses(found, 1e-5)
        assert set(found["batch 4"]) == ({"score"} if name == "MKD" else {"score", "anomaly_map"})
        assert exported.card.to_dict() == card.to_dict()
    assert checkpoint.card.to_dict() == method.card.to_dict()  # export does not change the given method


def test_padding_and_tiles(small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for number, view in enumerate((View(64, fit="pad"), View(96, tile=64, overlap=16), View(96, crop=64))):
        method = made("STFPM", small_models, view=view)
        file = tmp_path / f"{number}.onnx"
        export(method, file)
        checkpoint = Detector(make_inference_network(method), method.card)
        assert not list_excesses(measure_differences(Detector.load(file), checkpoint, pictures(5)), 1e-5)


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        ({}, (18, 8)),
        pytest.param({"opset": 20}, (20, 9), marks=pytest.mark.slow),
        pytest.param({"opset": 18, "ir": 9}, (18, 9), marks=pytest.mark.slow),
    ],
)
def test_versions_of_onnx(
    options: dict[str, int], versions: tuple[int, int], small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The default suits ONNX Runtime 1.17 and older. Another decision does not change the versions."""
    method = made("STFPM", small_models)
    for precision in ("fp32", "int8"):
        card = export(method, tmp_path / "a.onnx", "onnx", precision, pictures(4), **options)  # type: ignore[arg-type]
        rewrite(tmp_path / "a.onnx", tmp_path / "b.onnx", replace(card, decision=DECISION.with_rate(0.5)))
        for name in ("a.onnx", "b.onnx"):
            model = onnx.load(tmp_path / name)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", versions[0])]
            assert model.ir_version == versions[1]
            onnx.checker.check_model(model)


@pytest.mark.parametrize(("format", "options"), [("openvino", {"opset": 18}), ("torch", {"ir": 8})])
def test_only_onnx_files_have_versions(format: Any, options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"opset and ir are versions of ONNX files, but the format is {format}"):
        check_options(format, "fp32", **options)


def test_an_exported_mkd_has_no_map(small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    method = made("MKD", small_models)
    export(method, tmp_path / "model.onnx")
    exported = Detector.load(tmp_path / "model.onnx")
    assert "compute no gradients" in exported.card.without_map
    found = exported(pictures(1)[0])
    assert found.anomaly_map is None and found.mask is None and found.regions == [] and found.anomalous is not None
    assert method.saliency == "gradients"
    assert Detector(make_inference_network(method), method.card)(pictures(1)[0]).anomaly_map is not None


class Smoothed(STFPM):
    """An STFPM whose map is made by operations that NNCF could quantize: a sum and a convolution."""

    def detect(self, disagreement: list[torch.Tensor]) -> Prediction:
        fine, coarse = disagreement[0], upsample(disagreement[1], (16, 16))
        return Prediction(smooth_map(fine + coarse, 1.0))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_int8_map_can_be_higher_than_in_calibration(
    format: str, small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    torch.manual_seed(0)
    arguments = small_models["STFPM"]["init_args"]
    method = Smoothed(**{**arguments, "taps": (1, 2), "view": View(**arguments["view"])}).eval()
    method.student.load_state_dict(method.teacher.model.state_dict(prefix="model."))
    for weight in method.student.parameters():
        weight.data += 0.02 * weight.data.std() * torch.randn_like(weight)  # a student that is nearly its teacher
    nominal, anomalous = pictures(4), [np.full((64, 64, 3), 100, dtype=np.uint8)]  # noise moves these weights least
    checkpoint = Detector(make_inference_network(method), method.card)
    usual, most = (max(detection.score for detection in checkpoint.stream(images)) for images in (nominal, anomalous))
    assert most > 1.5 * usual
    file = tmp_path / f"model{SUFFIX[format]}"
    export(method, file, format, "int8", nominal)  # type: ignore[arg-type]
    assert max(detection.score for detection in Detector.load(file).stream(anomalous)) > 0.8 * most


def test_wrong_options_are_refused(small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    method = made("STFPM", small_models)
    with pytest.raises(UserError, match=r"should end in \.onnx"):
        export(method, tmp_path / "model.xml", "onnx")
    with pytest.raises(UserError, match="torch files are fp32"):
        export(method, tmp_path / "model.pt2", "torch", "int8")
    with pytest.raises(UserError, match="sees each image at its own size"):
        input_size(View(None))
    pytest.importorskip("nncf")
    with pytest.raises(UserError, match="there are none: give --nominal"):
        export(method, tmp_path / "model.onnx", "onnx", "int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(  # a Gaussian's density of features of random weights is the more sensitive
    ("name", "near"), [("STFPM", 0.05), pytest.param("Transformaly", 0.5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_scores_are_near_those_of_the_checkpoint(
    name: str, near: float, format: str, small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    method = made(name, small_models)
    file = tmp_path / f"model{SUFFIX[format]}"
    export(method, file, format, "int8", pictures(6, seed=1))  # type: ignore[arg-type]
    exported = Detector.load(file)
    assert exported.card.precision == "int8"
    found = measure_differences(exported, Detector(make_inference_network(method), method.card), pictures(4))
    assert 1e-5 < found["batch 1"]["score"] < near
