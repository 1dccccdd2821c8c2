"""A network in eight bits, by NNCF.

Only what multiplies by a network's weights is for eight bits. The difference of teacher and student is not: it is far
smaller than the features, and would drown in their rounding. Nor is the map: NNCF takes ranges from nominal images,
which would cut off every anomaly.
"""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.card import Card
from lit_ad.detector.inputs import ImageLike, read_pixels
from lit_ad.detector.runtimes import need
from lit_ad.errors import UserError

COMPARING = (  # operations of OpenVINO and ONNX that compare features and make maps of them
    *("Subtract", "Multiply", "Divide", "Power", "NormalizeL2", "ReduceL2", "ReduceSum", "ReduceMean", "Interpolate"),
    *("Sub", "Mul", "Div", "Pow", "LpNormalization", "Resize"),
)
LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul", "Conv", "ConvTranspose", "Gemm")
_CALIBRATION_IMAGES = 300  # NNCF's own number
Node = tuple[str, str, list[str], list[int]]  # an operation: name, type, what feeds it, shape of its second input


def quantize(model: Any, nominal: Iterable[ImageLike], card: Card) -> Any:
    """Return an OpenVINO or ONNX model in int8. NNCF takes the ranges from nominal training images.

    Raises:
        UserError: No nominal image, or NNCF is not installed.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # says at the import that there is no CUDA
    nncf = need("nncf", "openvino")
    nncf.set_log_level(logging.ERROR)  # or it tells of each operation that stays as it is
    inputs = [pixels for image in nominal for pixels in network_inputs(image, card)]
    if not inputs:
        raise UserError("int8 is calibrated on nominal training images, and there are none: give --nominal FOLDER")
    rows = np.random.default_rng(0).permutation(len(inputs))[:_CALIBRATION_IMAGES]
    dataset = nncf.Dataset([inputs[row] for row in rows], lambda pixels: {"pixels": pixels[None]})
    names = [*doubles(model), *behind_networks(model)]
    scope = nncf.IgnoredScope(names=names, types=[*COMPARING], validate=False)
    return nncf.quantize(
        model, dataset, subset_size=len(rows), preset=nncf.QuantizationPreset.MIXED, ignored_scope=scope
    )


def doubles(model: Any) -> list[str]:
    """Name the operations in float64: what needs that many bits is not for eight."""
    if hasattr(model, "get_ordered_ops"):
        return [
            op.get_friendly_name()
            for op in model.get_ordered_ops()
            if any(value.get_element_type().get_type_name() == "f64" for value in op.inputs())
        ]
    onnx = need("onnx", "onnx")
    double = onnx.TensorProto.DOUBLE
    values = {value.name for value in model.graph.initializer if value.data_type == double}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values |= {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == double}
    return [node.name for node in model.graph.node if values & {*node.input}]


def behind_networks(model: Any) -> list[str]:
    """Name the operations that no layer of a network follows: they compare features and make maps.

    A convolution of one channel is no layer: it smooths a map.
    """
    nodes = _openvino_nodes(model) if hasattr(model, "get_ordered_ops") else onnx_nodes(model)
    followed: set[str] = set()  # by a layer, and the layers themselves
    for name, kind, inputs, weights in reversed(nodes):
        if name in followed or (kind in LAYERS and weights[:2] != [1, 1]):
            followed |= {name, *inputs}
    return [name for name, *_ in nodes if name not in followed]


def _openvino_nodes(model: Any) -> list[Node]:
    """List an OpenVINO model's operations in the order of their computation."""
    nodes = []
    for op in model.get_ordered_ops():
        sources = [value.get_source_output() for value in op.inputs()]
        names = [source.get_node().get_friendly_name() for source in sources]
        shape = list(sources[1].get_partial_shape().get_min_shape()) if len(sources) > 1 else []
        nodes.append((op.get_friendly_name(), op.get_type_name(), names, shape))
    return nodes


def onnx_nodes(model: Any) -> list[Node]:
    """List an ONNX model's operations in the order of their computation. Only weights have a shape here."""
    maker = {output: node.name for node in model.graph.node for output in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        names = [maker[value] for value in node.input if value in maker]
        shape = shapes.get(node.input[1], []) if len(node.input) > 1 else []
        nodes.append((node.name, node.op_type, names, shape))
    return nodes


def network_inputs(image: ImageLike, card: Card) -> list[NDArray[np.uint8]]:
    """Return what the network sees of an image, itself or its tiles: (3, H, W) uint8 each."""
    pixels, (top, left, bottom, right) = card.view(read_pixels(image, card.view.levels))
    channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    grid = card.view.grid((bottom - top, right - left))
    if grid is None:
        return [channels_first]
    content = channels_first[:, top:bottom, left:right]
    return [tile for tiles in grid.batches(content, 8) for tile in tiles]
