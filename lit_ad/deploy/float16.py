"""Convert an ONNX network to float16: its layers, their weights, and the operations between layers.

Operations that need more bits stay in float32, as in PyTorch's autocast: the normalisation of pixels, norms, softmax,
sums and powers, and all operations that compare features or make a map. The difference of teacher and student is much
smaller than the features, so the rounding of float16 features would hide it. A runtime without float16 computes
everything in float32.
"""

from typing import Any

from lit_ad.deploy.quantize import COMPARING, LAYERS, list_nodes_after_networks, list_nodes_in_float64, list_onnx_nodes
from lit_ad.detector.runtimes import import_optional

_BETWEEN = (  # operations that may be in float16 between two layers: they add no more rounding than the layers do
    *("BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh"),
    *("Gelu", "Elu", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Identity", "Dropout"),
    *("Reshape", "Transpose", "Slice", "Split", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Expand"),
)


def to_float16(model: Any) -> Any:
    """Return an ONNX model whose layers are in float16. Its inputs and outputs keep their types.

    Raises:
        UserError: ONNX Runtime, which has the converter, is not installed.
    """
    float16 = import_optional("onnxruntime.transformers.float16", "onnx")
    half = _select_half_nodes(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    blocked = [node.name for node in model.graph.node if node.name not in half]
    model = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=[], node_block_list=blocked)
    _join_casts(model)
    import_optional("onnxruntime.transformers.onnx_model", "onnx").OnnxModel(model).topological_sort()
    del model.graph.value_info[:]  # it still has the types from before the conversion
    return import_optional("onnx.shape_inference", "onnx").infer_shapes(model)


def _select_half_nodes(model: Any) -> set[str]:
    """Return the names of the nodes for float16: layers, and operations of `_BETWEEN` that lie between two layers."""
    nodes = list_onnx_nodes(model)
    excluded = {*list_nodes_in_float64(model), *list_nodes_after_networks(model)}
    after_layers: set[str] = set()  # layers, and all nodes after a layer
    for name, kind, inputs, _ in nodes:
        if kind in LAYERS or after_layers & {*inputs}:
            after_layers.add(name)
    allowed = {*LAYERS, *_BETWEEN} - {*COMPARING}
    return {name for name, kind, *_ in nodes if kind in allowed and name in after_layers and name not in excluded}


def _join_casts(model: Any) -> None:
    """Remove casts float32 -> float16 -> float32 between two operations in float32.

    The converter leaves such pairs of casts. Each pair would round a value that should keep its 32 bits.
    """
    graph, types = model.graph, import_optional("onnx", "onnx").TensorProto
    to_half, to_float = _map_casts(graph, types.FLOAT16), _map_casts(graph, types.FLOAT)
    exact = {output: to_half[source] for output, source in to_float.items() if source in to_half}
    outputs = {value.name for value in graph.output}
    _rename_values(graph, exact)
    for node in [node for node in graph.node if outputs & {*node.output} & {*exact}]:
        graph.node.remove(node)  # the graph's output is a cast: give the output's name to the value before the casts
        _rename_values(graph, {exact[node.output[0]]: node.output[0]}, outputs=True)
    while unused := _find_unused_casts(graph, outputs):
        for node in unused:
            graph.node.remove(node)


def _rename_values(graph: Any, names: dict[str, str], outputs: bool = False) -> None:
    """Rename the inputs of all nodes, and with `outputs` also their outputs."""
    for node in graph.node:
        for values in (node.input, node.output) if outputs else (node.input,):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)


def _map_casts(graph: Any, to: int) -> dict[str, str]:
    """Return {output: input} of each cast to a type."""
    return {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and any(value.name == "to" and value.i == to for value in node.attribute)
    }


def _find_unused_casts(graph: Any, outputs: set[str]) -> list[Any]:
    """List the casts whose output no node uses."""
    used = {name for node in graph.node for name in node.input} | outputs
    return [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]
