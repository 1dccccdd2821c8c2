"""The two versions of an ONNX file: of its operators (opset) and of its format (IR).

A runtime refuses versions newer than those it knows. ONNX Runtime 1.17 knows up to opset 20 and IR 9; version 1.14
knows up to opset 18 and IR 8.
"""

from typing import Any

from lit_ad.detector.runtimes import import_optional
from lit_ad.errors import UserError

OPSET = 18  # the oldest that torch's exporter writes; for an older one it would silently write 18


def check_versions(opset: int | None, ir: int | None) -> None:
    """Check that an ONNX file of these versions can be written. None stands for the default version.

    Raises:
        UserError: torch or the package onnx does not write these versions.
    """
    onnx, opset = import_optional("onnx", "onnx"), OPSET if opset is None else opset
    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise UserError(
            f"opset is {opset}, but torch writes {OPSET} and newer, and the package onnx knows up to {newest}"
        )
    oldest, newest = find_oldest_ir(opset), onnx.IR_VERSION
    if ir is not None and not oldest <= ir <= newest:
        raise UserError(
            f"ir is {ir}, but opset {opset} needs {oldest} or newer, and the package onnx knows up to {newest}"
        )


def set_versions(model: Any, opset: int | None, ir: int | None) -> None:
    """Set the version of the format of an ONNX model. None: the oldest that has the opset.

    Raises:
        UserError: The model has another opset.
    """
    opset = OPSET if opset is None else opset
    (actual,) = (entry.version for entry in model.opset_import if entry.domain == "")
    if actual != opset:
        raise UserError(f"opset is {opset}, but torch wrote this graph in opset {actual}: give --opset {actual}")
    model.ir_version = find_oldest_ir(opset) if ir is None else ir


def find_oldest_ir(opset: int) -> int:
    """Return the oldest version of the format that has the operators of an opset."""
    helper = import_optional("onnx.helper", "onnx")
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))
