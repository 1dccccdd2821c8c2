"""Versions of ONNX files: what torch writes and the package onnx knows, and by default those of old runtimes."""

import pytest

from lit_ad.deploy.onnx_versions import OPSET, check_versions, oldest_ir, set_versions
from lit_ad.errors import UserError

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
def test_versions_that_cannot_be(opset: int | None, ir: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_versions(opset, ir)


def test_the_ends_of_what_can_be() -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset, ir in ((None, None), (OPSET, 8), (newest, None), (newest, onnx.IR_VERSION)):
        check_versions(opset, ir)


@pytest.mark.parametrize(("opset", "ir"), [(18, 8), (19, 9), (20, 9), (21, 10)])
def test_the_oldest_format_of_an_opset(opset: int, ir: int) -> None:
    """As the table in ONNX's docs/Versioning.md has it."""
    assert oldest_ir(opset) == ir


def model_of(opset: int) -> "onnx.ModelProto":
    values = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "graph", [values], [other])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


@pytest.mark.parametrize(("opset", "ir", "written"), [(None, None, 8), (None, 9, 9), (20, None, 9)])
def test_the_version_that_is_written(opset: int | None, ir: int | None, written: int) -> None:
    model = model_of(opset or OPSET)
    set_versions(model, opset, ir)
    assert model.ir_version == written
    onnx.checker.check_model(model)


def test_a_graph_of_another_opset_is_refused() -> None:
    with pytest.raises(UserError, match="opset is 18, but this graph was written in 20: ask for that one"):
        set_versions(model_of(20), 18, None)
