"""ONNX Runtime's GPU providers: names, options, engines beside the file, and buffers (on the CPU here)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lit_ad.detector.card import Card
from lit_ad.detector.onnx_gpu import LARGEST_BATCH, bind_network, list_gpu_providers, make_engine_folder, parse_gpu
from lit_ad.detector.onnx_runtime import make_network, make_session
from lit_ad.errors import UserError
from lit_ad.image.view import View

onnxruntime = pytest.importorskip("onnxruntime")
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
CARD = Card("x", View((64, 96)), None)


def build(*providers: str, version: str = "1.20.1") -> Any:
    """Return an object with the version and the providers of a build of ONNX Runtime."""
    return SimpleNamespace(get_available_providers=lambda: [*providers, CPU], __version__=version)


def test_a_device_names_its_kind_and_number() -> None:
    both = build(TENSORRT, CUDA)
    for device, expected in {"cuda": ("cuda", 0), "cuda:2": ("cuda", 2), "tensorrt:1": ("tensorrt", 1)}.items():
        assert parse_gpu(both, device) == expected
    for device in ("warp", "cuda:x", "warp:1", "tensorrt:"):
        with pytest.raises(UserError, match=rf"no device '{device}' .*, only cpu, cuda, tensorrt$"):
            parse_gpu(both, device)
    with pytest.raises(UserError, match=r"only cpu; for cuda, pip install onnxruntime-gpu$"):
        parse_gpu(build(), "cuda")
    with pytest.raises(UserError, match=r"only cpu, cuda; for tensorrt, pip install onnxruntime-gpu tensorrt$"):
        parse_gpu(build(CUDA), "tensorrt")


def test_options_follow_precision_and_version() -> None:
    """For float32, TF32 is off. Versions before 1.18 do not have this option, and refuse unknown ones."""
    assert list_gpu_providers(build(), "cuda", 1, CARD, None) == [(CUDA, {"device_id": 1, "use_tf32": 0}), CPU]
    assert list_gpu_providers(build(version="1.17.3"), "cuda", 1, CARD, None) == [(CUDA, {"device_id": 1}), CPU]
    half = replace(CARD, precision="fp16")
    assert list_gpu_providers(build(), "cuda", 0, half, None) == [(CUDA, {"device_id": 0}), CPU]
    for card, fp16, int8 in ((CARD, False, False), (half, True, False), (replace(CARD, precision="int8"), False, True)):
        (name, options), *rest = list_gpu_providers(build(), "tensorrt", 3, card, Path("engines"))
        assert name == TENSORRT and rest == list_gpu_providers(build(), "cuda", 3, card, None)
        assert (options["device_id"], options["trt_fp16_enable"], options["trt_int8_enable"]) == (3, fp16, int8)
        assert options["trt_profile_min_shapes"] == "pixels:1x3x64x96"
        assert options["trt_profile_max_shapes"] == f"pixels:{LARGEST_BATCH}x3x64x96"
        assert options["trt_engine_cache_enable"] and options["trt_engine_cache_path"] == "engines"
    (_, options), *_ = list_gpu_providers(build(), "tensorrt", 0, CARD, None)
    assert "trt_engine_cache_enable" not in options


def test_engines_lie_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    assert make_engine_folder(file, "0123456789abcdef" + "0" * 48) == tmp_path / "model.onnx.tensorrt/0123456789abcdef"
    (tmp_path / "other.onnx.tensorrt").write_text("")
    with pytest.warns(UserWarning, match=r"other\.onnx\.tensorrt.* cannot be written: TensorRT builds an engine"):
        assert make_engine_folder(tmp_path / "other.onnx", "abc") is None


@pytest.mark.parametrize("largest", [None, 2])
def test_buffers_give_the_results_of_arrays(largest: int | None, files: dict[str, Path]) -> None:
    """Batches of several sizes follow one another, in parts, and from several threads."""
    session = make_session(onnxruntime, files["onnx"], [CPU])
    plain, bound = make_network(session), bind_network(onnxruntime, session, "cpu", 0, largest)
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, 256, (size, 3, 64, 64), dtype=np.uint8) for size in (1, 1, 3, 5, 1)]
    expected = [plain(pixels) for pixels in batches]
    gate = threading.Barrier(len(batches))

    def call(pixels: Any) -> Any:
        gate.wait()
        return bound(pixels)

    with ThreadPoolExecutor(len(batches)) as pool:
        for found in (map(bound, batches), pool.map(call, batches)):
            for (maps, scores), (other_maps, other_scores) in zip(found, expected, strict=True):
                np.testing.assert_allclose(maps, other_maps, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(scores, other_scores, rtol=1e-5)
    backwards = batches[2][..., ::-1]  # a view of an array
    np.testing.assert_allclose(bound(backwards)[1], plain(np.ascontiguousarray(backwards))[1], rtol=1e-5)
