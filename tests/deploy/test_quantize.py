"""The operations that do not become int8, in graphs of ONNX and of OpenVINO."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.deploy.quantize import list_nodes_after_networks

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")


def write_graph(file: Path) -> Any:
    """Write a graph: two convolutions of an image, their difference, its mean over channels, doubled and smoothed."""
    node, value, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    nodes = [
        node("Conv", ["image", "first"], ["features"], "first layer"),
        node("Relu", ["features"], ["active"], "between layers"),
        node("Conv", ["active", "second"], ["student"], "second layer"),
        node("Sub", ["features", "student"], ["difference"], "difference"),
        node("ReduceMean", ["difference", "axes"], ["mean"], "mean"),
        node("Add", ["mean", "mean"], ["twice"], "twice"),
        node("Conv", ["twice", "taps"], ["map"], "smoothing", pads=[1, 1, 1, 1]),
    ]
    weights = {
        "first": np.ones((4, 3, 1, 1), np.float32),
        "second": np.ones((4, 4, 1, 1), np.float32),
        "taps": np.full((1, 1, 3, 3), 1 / 9, np.float32),
        "axes": np.array([1], np.int64),
    }
    image, anomaly_map = (value(name, 1, ["batch", channels, 8, 8]) for name, channels in (("image", 3), ("map", 1)))
    initial = [tensor(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "graph", [image], [anomaly_map], initial)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return model


def test_operations_after_the_last_layer_are_kept_out(tmp_path: Path) -> None:
    model = write_graph(tmp_path / "graph.onnx")
    assert list_nodes_after_networks(model) == ["difference", "mean", "twice", "smoothing"]
    read = openvino.Core().read_model(tmp_path / "graph.onnx")
    kinds = {op.get_friendly_name(): op.get_type_name() for op in read.get_ordered_ops()}
    kept = [kinds[name] for name in list_nodes_after_networks(read)]
    assert [kind for kind in kept if kind not in ("Constant", "Result")] == [
        "Subtract",
        "ReduceMean",
        "Add",
        "Convolution",
    ]
