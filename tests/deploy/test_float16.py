"""A float16 network has nearly the same results and half the size; it compares features and makes maps in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad import Detector
from lit_ad.deploy.differences import TOLERANCE, list_excesses, measure_differences
from lit_ad.deploy.export import export
from lit_ad.deploy.float16 import to_float16
from lit_ad.methods import __all__ as METHODS
from lit_ad.methods.network import make_inference_network
from tests.deploy.test_export import made, pictures

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(  # the others' graphs take minutes to write and to load
    "name", [name if name == "STFPM" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_parity(name: str, small_models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    method, file = made(name, small_models), tmp_path / "model.onnx"
    card = export(method, file, "onnx", "fp16", carried=pictures(3))
    assert card.precision == "fp16"
    exported = Detector.load(file)
    found = measure_differences(exported, Detector(make_inference_network(method), method.card), pictures(5))
    print(name, {size: {name: f"{value:.1e}" for name, value in values.items()} for size, values in found.items()})
    assert not list_excesses(found, TOLERANCE["fp16"])
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    weights = {kind: sum(np.prod(t.dims) for t in model.graph.initializer if t.data_type == kind) for kind in (1, 10)}
    assert weights[HALF] > weights[FLOAT], "most weights are of layers"


def names(graph: Any, kind: int) -> set[str]:
    return {value.name for value in graph.value_info if value.type.tensor_type.elem_type == kind}


def model_of(nodes: list[Any], **weights: Any) -> Any:
    """A graph x (1, 4) -> y."""
    x, y = (onnx.helper.make_tensor_value_info(name, FLOAT, [1, 4]) for name in "xy")
    initializers = [
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def run(model: Any, x: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.asarray([x], np.float32)})[0][0]


def test_a_comparison_between_layers_stays_in_float32() -> None:
    """(x A - b)^2, then a layer: in float16, differences of 1e-5 between features of about 1 would be 0."""
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["x", "a"], ["f"], "f"),
        node("Sub", ["f", "b"], ["d"], "d"),
        node("Mul", ["d", "d"], ["e"], "e"),
        node("Mul", ["e", "scale"], ["s"], "s"),
        node("MatMul", ["s", "a"], ["y"], "y"),
    ]
    weights = {"a": np.eye(4), "b": [[1.0, 1.0, 1.0, 1.0]], "scale": np.full((1, 4), 1e8)}
    x = [1 + 2**-10, 1 + 2**-9, 1 - 2**-10, 1.0]  # exact in float16
    exact = run(model_of(nodes, **weights), x)
    model = to_float16(model_of(nodes, **weights))
    onnx.checker.check_model(model, full_check=True)
    kinds = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert kinds == {"a": HALF, "b": FLOAT, "scale": FLOAT}
    types = {kind: names(model.graph, kind) for kind in (FLOAT, HALF)}
    assert {"d", "e", "s"} <= {name.removesuffix("_cast_to_fp16") for name in types[FLOAT]}
    assert sum(entry.op_type == "Cast" for entry in model.graph.node) == 4  # around each of the two layers
    assert run(model, x) == pytest.approx(exact, rel=1e-3) and exact[0] > 90


def test_there_is_no_cast_between_consecutive_layers() -> None:
    node = onnx.helper.make_node
    nodes = [
        node("Sub", ["x", "mean"], ["n"], "n"),
        node("MatMul", ["n", "a"], ["f"], "f"),
        node("Relu", ["f"], ["r"], "r"),
        node("MatMul", ["r", "a"], ["g"], "g"),
        node("Sub", ["g", "mean"], ["y"], "y"),
    ]
    model = to_float16(model_of(nodes, a=np.eye(4), mean=np.full((1, 4), 0.1)))
    kinds = [entry.op_type for entry in model.graph.node]
    assert kinds == ["Sub", "Cast", "MatMul", "Relu", "MatMul", "Cast", "Sub"]
    assert run(model, [1.0, 0.5, -1.0, 0.25]) == pytest.approx([0.8, 0.3, -0.1, 0.05], abs=1e-3)
