"""The two versions of an ONNX file: of its operators (opset) and of its format (IR).

A runtime refuses a file that is newer than itself. ONNX Runtime 1.17 knows opset 20 and IR 9, 1.14 opset 18 and IR 8.
"""

from typing import Any

from lit_ad.detector.runtimes import need
from lit_ad.errors import UserError

OPSET = 18  # the oldest that torch's exporter writes; asked for an older one, it writes this one


def check_versions(opset: int | None, ir: int | None) -> None:
    """Raises UserError if there is no ONNX file of these versions. None: the default."""
    onnx, opset = need("onnx", "onnx"), OPSET if opset is None else opset
    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise UserError(
            f"opset is {opset}, but torch writes {OPSET} and newer, and the package onnx knows up to {newest}"
        )
    oldest, newest = oldest_ir(opset), onnx.IR_VERSION
    if ir is not None and not oldest <= ir <= newest:
        raise UserError(
            f"ir is {ir}, but opset {opset} needs {oldest} or newer, and the package onnx knows up to {newest}"
        )


def set_versions(model: Any, opset: int | None, ir: int | None) -> None:
    """Write the format's version into an ONNX model: `ir`, or the oldest that has the opset.

    Raises:
        UserError: The model is not of the opset.
    """
    opset = OPSET if opset is None else opset
    (made,) = (entry.version for entry in model.opset_import if entry.domain == "")
    if made != opset:
        raise UserError(f"opset is {opset}, but this graph was written in {made}: ask for that one")
    model.ir_version = oldest_ir(opset) if ir is None else ir


def oldest_ir(opset: int) -> int:
    """The oldest version of the format that has these operators."""
    helper = need("onnx.helper", "onnx")
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))
