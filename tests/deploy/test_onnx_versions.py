"""ONNX files have versions that torch writes and the package onnx knows; by default, versions for old runtimes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lit_ad
from lit_ad.deploy.export import export
from lit_ad.deploy.onnx_versions import OPSET, check_versions, find_oldest_ir, set_versions
from lit_ad.errors import UserError
from tests.deploy.test_export import made, pictures

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("opset", "ir", "message"),
    [
        (17, None, r"opset is 17, but torch writes 18 and newer"),
        (99, None, r"opset is 99, but .* the package onnx knows up to \d+"),
        (None, 7, r"ir is 7, but opset 18 needs 8 or newer"),
        (None, 99, r"ir is 99, .* the package onnx knows up to \d+"),
        (21, 9, r"ir is 9, but opset 21 needs 10 or newer"),
    ],
)
def test_impossible_versions_are_refused(opset: int | None, ir: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_versions(opset, ir)


def test_the_oldest_and_newest_versions_are_accepted() -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset, ir in ((None, None), (OPSET, 8), (newest, None), (newest, onnx.IR_VERSION)):
        check_versions(opset, ir)


@pytest.mark.parametrize(("opset", "ir"), [(18, 8), (19, 9), (20, 9), (21, 10)])
def test_the_oldest_format_of_an_opset(opset: int, ir: int) -> None:
    """The expected values are from the table in ONNX's docs/Versioning.md."""
    assert find_oldest_ir(opset) == ir


def model_of(opset: int) -> Any:  # an onnx.ModelProto
    values = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "graph", [values], [other])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


@pytest.mark.parametrize(("opset", "ir", "written"), [(None, None, 8), (None, 9, 9), (20, None, 9)])
def test_the_format_version_is_written(opset: int | None, ir: int | None, written: int) -> None:
    model = model_of(opset or OPSET)
    set_versions(model, opset, ir)
    assert model.ir_version == written
    onnx.checker.check_model(model)


def test_a_graph_of_another_opset_is_refused() -> None:
    with pytest.raises(UserError, match="opset is 18, but torch wrote this graph in opset 20: give --opset 20"):
        set_versions(model_of(20), 18, None)


OLDEST = """
import sys
from pathlib import Path
import onnxruntime
from lit_ad.detector.exported import load_exported
from lit_ad.detector.self_check import SelfCheck, compare

file = Path(sys.argv[1])
loaded = load_exported(file)
print(onnxruntime.__version__, compare(loaded.network, loaded.card, SelfCheck.from_text(loaded.check, file)).largest)
"""


@pytest.mark.slow  # installs from a package index
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_oldest_runtime_that_pip_installs_reads_the_default(
    precision: Any, small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """ONNX Runtime 1.15.1 is the oldest with a wheel for Python 3.11. It needs NumPy 1."""
    if sys.version_info >= (3, 12):
        pytest.skip("ONNX Runtime 1.15.1 has no wheel for this Python")
    file = tmp_path / "model.onnx"
    export(made("STFPM", small_models), file, "onnx", precision, carried=pictures(3))
    packages = ["numpy<2", "pillow", "onnxruntime==1.15.1"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path / "bare"), *packages]
    subprocess.run(command, check=True)
    paths = os.pathsep.join([str(tmp_path / "bare"), str(Path(lit_ad.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-S", "-c", OLDEST, file],
        env={"PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    version, difference = done.stdout.split()
    assert version == "1.15.1" and float(difference) < {"fp32": 1e-4, "fp16": 2e-2}[precision]
