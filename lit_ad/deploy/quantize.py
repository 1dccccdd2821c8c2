"""Convert a network to int8, by NNCF.

Only the layers of the networks become int8. The difference of teacher and student does not: it is much smaller than the
features, so the rounding of int8 features would hide it. The map does not, either: NNCF takes the range of values
from nominal images, and would clip every anomaly to this range.
"""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.card import Card
from lit_ad.detector.inputs import ImageLike, read_pixels
from lit_ad.detector.runtimes import import_optional
from lit_ad.errors import UserError

COMPARING = (  # operations of OpenVINO and ONNX that compare features or make maps
    *("Subtract", "Multiply", "Divide", "Power", "NormalizeL2", "ReduceL2", "ReduceSum", "ReduceMean", "Interpolate"),
    *("Sub", "Mul", "Div", "Pow", "LpNormalization", "Resize"),
)
LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul", "Conv", "ConvTranspose", "Gemm")
_CALIBRATION_IMAGES = 300  # the default of NNCF
Node = tuple[str, str, list[str], list[int]]  # name, type, names of the nodes before it, shape of its second input


def quantize(model: Any, nominal: Iterable[ImageLike], card: Card) -> Any:
    """Return an OpenVINO or ONNX model in int8.

    Args:
        model: The model in float32.
        nominal: Nominal training images, by which NNCF sets the ranges of int8. At most 300 inputs are used.
        card: The card of the detector, whose view makes the network's inputs.

    Raises:
        UserError: There is no nominal image, or NNCF is not installed.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns at import if there is no CUDA
    nncf = import_optional("nncf", "openvino")
    nncf.set_log_level(logging.ERROR)  # at other levels it lists each operation that stays in float
    inputs = [pixels for image in nominal for pixels in make_network_inputs(image, card)]
    if not inputs:
        raise UserError("int8 is calibrated on nominal training images, but there are none: give --nominal FOLDER")
    rows = np.random.default_rng(0).permutation(len(inputs))[:_CALIBRATION_IMAGES]
    dataset = nncf.Dataset([inputs[row] for row in rows], lambda pixels: {"pixels": pixels[None]})
    names = [*list_nodes_in_float64(model), *list_nodes_after_networks(model)]
    scope = nncf.IgnoredScope(names=names, types=[*COMPARING], validate=False)
    return nncf.quantize(
        model, dataset, subset_size=len(rows), preset=nncf.QuantizationPreset.MIXED, ignored_scope=scope
    )


def list_nodes_in_float64(model: Any) -> list[str]:
    """Return the names of the operations in float64, which need their bits and must not become int8 or float16."""
    if hasattr(model, "get_ordered_ops"):
        return [
            op.get_friendly_name()
            for op in model.get_ordered_ops()
            if any(value.get_element_type().get_type_name() == "f64" for value in op.inputs())
        ]
    onnx = import_optional("onnx", "onnx")
    double = onnx.TensorProto.DOUBLE
    values = {value.name for value in model.graph.initializer if value.data_type == double}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values |= {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == double}
    return [node.name for node in model.graph.node if values & {*node.input}]


def list_nodes_after_networks(model: Any) -> list[str]:
    """Return the names of the operations after the last layers of the networks: they compare features and make maps.

    A convolution of one channel does not count as a layer, because it smooths a map.
    """
    nodes = _list_openvino_nodes(model) if hasattr(model, "get_ordered_ops") else list_onnx_nodes(model)
    before: set[str] = set()  # layers, and all nodes before a layer
    for name, kind, inputs, weights in reversed(nodes):
        if name in before or (kind in LAYERS and weights[:2] != [1, 1]):
            before |= {name, *inputs}
    return [name for name, *_ in nodes if name not in before]


def _list_openvino_nodes(model: Any) -> list[Node]:
    """List an OpenVINO model's operations in the order of their computation."""
    nodes = []
    for op in model.get_ordered_ops():
        sources = [value.get_source_output() for value in op.inputs()]
        names = [source.get_node().get_friendly_name() for source in sources]
        shape = list(sources[1].get_partial_shape().get_min_shape()) if len(sources) > 1 else []
        nodes.append((op.get_friendly_name(), op.get_type_name(), names, shape))
    return nodes


def list_onnx_nodes(model: Any) -> list[Node]:
    """List an ONNX model's operations in the order of their computation. Shapes are those of weights; others are []."""
    maker = {output: node.name for node in model.graph.node for output in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        names = [maker[value] for value in node.input if value in maker]
        shape = shapes.get(node.input[1], []) if len(node.input) > 1 else []
        nodes.append((node.name, node.op_type, names, shape))
    return nodes


def make_network_inputs(image: ImageLike, card: Card) -> list[NDArray[np.uint8]]:
    """Return the network's inputs for an image, (3, H, W) uint8 each: one for the image, or one for each tile."""
    pixels, (top, left, bottom, right) = card.view(read_pixels(image, card.view.levels))
    channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    grid = card.view.grid((bottom - top, right - left))
    if grid is None:
        return [channels_first]
    content = channels_first[:, top:bottom, left:right]
    return [tile for tiles in grid.cut_batches(content, 8) for tile in tiles]
