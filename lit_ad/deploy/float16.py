"""An ONNX network in float16: its layers, their weights, and what lies between them.

What needs more bits stays in float32, as in PyTorch's autocast: normalisation of pixels, norms, softmax, sums and
powers, and all that compares features or makes a map of them. A difference of teacher and student is far smaller than
the features, and would drown in their rounding. A runtime without float16 computes all of it in float32.
"""

from typing import Any

from lit_ad.deploy.quantize import COMPARING, LAYERS, behind_networks, doubles, onnx_nodes
from lit_ad.detector.runtimes import need

_BETWEEN = (  # operations that round no more in float16 than the layers around them do
    *("BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh"),
    *("Gelu", "Elu", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Identity", "Dropout"),
    *("Reshape", "Transpose", "Slice", "Split", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Expand"),
)


def to_float16(model: Any) -> Any:
    """Return an ONNX model with layers in float16. Its inputs and outputs are as they were.

    Raises:
        UserError: ONNX Runtime, whose converter this is, is not installed.
    """
    float16 = need("onnxruntime.transformers.float16", "onnx")
    wanted = _half_nodes(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    blocked = [node.name for node in model.graph.node if node.name not in wanted]
    model = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=[], node_block_list=blocked)
    _join_casts(model)
    need("onnxruntime.transformers.onnx_model", "onnx").OnnxModel(model).topological_sort()
    del model.graph.value_info[:]  # the types of before
    return need("onnx.shape_inference", "onnx").infer_shapes(model)


def _half_nodes(model: Any) -> set[str]:
    """Name the layers, and what is between two layers and may be in float16."""
    nodes = onnx_nodes(model)
    apart = {*doubles(model), *behind_networks(model)}
    layered: set[str] = set()  # a layer, or behind one
    for name, kind, inputs, _ in nodes:
        if kind in LAYERS or layered & {*inputs}:
            layered.add(name)
    allowed = {*LAYERS, *_BETWEEN} - {*COMPARING}
    return {name for name, kind, *_ in nodes if kind in allowed and name in layered and name not in apart}


def _join_casts(model: Any) -> None:
    """Take out float32 -> float16 -> float32 between two operations in float32, which the converter leaves there: an
    island of them would be rounded at each step."""
    graph, types = model.graph, need("onnx", "onnx").TensorProto
    narrowed, widened = _sources_of_casts(graph, types.FLOAT16), _sources_of_casts(graph, types.FLOAT)
    exact = {output: narrowed[source] for output, source in widened.items() if source in narrowed}
    outputs = {value.name for value in graph.output}
    rename(graph, exact)
    for node in [node for node in graph.node if outputs & {*node.output} & {*exact}]:
        graph.node.remove(node)  # the cast of an output of the graph: what it takes gets the output's name
        rename(graph, {exact[node.output[0]]: node.output[0]}, outputs=True)
    while unused := _find_unused_casts(graph, outputs):
        for node in unused:
            graph.node.remove(node)


def rename(graph: Any, names: dict[str, str], outputs: bool = False) -> None:
    """Rename what nodes take, and what they give if `outputs` says so."""
    for node in graph.node:
        for values in (node.input, node.output) if outputs else (node.input,):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)


def _sources_of_casts(graph: Any, to: int) -> dict[str, str]:
    """The names of what casts to a type give, and of what they take."""
    return {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and any(value.name == "to" and value.i == to for value in node.attribute)
    }


def _find_unused_casts(graph: Any, outputs: set[str]) -> list[Any]:
    """List casts that nothing takes."""
    used = {name for node in graph.node for name in node.input} | outputs
    return [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]
