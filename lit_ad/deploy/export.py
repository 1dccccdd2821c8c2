"""Export a checkpoint as one file for another runtime.

The file's graph is `Method.forward`, with the teacher and the normalisation. It takes `pixels` (batch, 3, H, W) uint8
of the view's size, and gives `score` (batch,) and `anomaly_map` (batch, 1, H, W). Resizing, tiles and padding are not
in the graph: the file's metadata describe them, and `lit_ad.image.view` does them.
"""

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lit_ad.deploy.exported_file import input_size, write_onnx, write_openvino, write_torch
from lit_ad.deploy.float16 import to_float16
from lit_ad.deploy.onnx_versions import OPSET, check_versions, set_versions
from lit_ad.deploy.quantize import quantize
from lit_ad.deploy.self_check import TOLERANCE as CHECKED
from lit_ad.deploy.self_check import make_check
from lit_ad.detector.card import Card
from lit_ad.detector.inputs import ImageLike
from lit_ad.detector.openvino_runtime import get_openvino_core
from lit_ad.detector.runtimes import import_optional
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


class Graph(nn.Module):
    """A module whose forward is `Method.forward`, with a tuple of tensors as result: the score first."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, H, W) -> score (B,); methods with maps also return the map (B, 1, H, W)."""
        prediction = self.method(pixels)
        assert prediction.score is not None
        return (prediction.score,) if prediction.anomaly_map is None else (prediction.score, prediction.anomaly_map)


def export(
    method: Method,
    file: Path,
    format: Format = "onnx",
    precision: Precision = "fp32",
    nominal: Iterable[ImageLike] = (),
    opset: int | None = None,
    ir: int | None = None,
    carried: Sequence[ImageLike] = (),
) -> Card:
    """Write a detector for another runtime. Compare the file with the checkpoint by `measure_differences`.

    Args:
        method: The trained method, for example from `Method.load_from_checkpoint`. It is not changed.
        file: The file to write. Its suffix must be the one of the format.
        format: onnx (for ONNX Runtime), openvino, or torch (torch.export).
        precision: The precision of the network. fp16 halves the file; NNCF makes int8.
        nominal: Nominal training images, which set the ranges of int8.
        opset: The version of the operators in an ONNX file. None: 18.
        ir: The version of the format of an ONNX file. None: the oldest that has the opset.
        carried: Images that the file carries, so that it can check itself where it is loaded: see
            `lit_ad.detector.self_check`.

    Returns:
        The card that the file carries, except for the names of images.

    Raises:
        UserError: The view has no fixed size, the options do not go together, or a package is missing.
    """
    if file.suffix != SUFFIX[format]:
        raise UserError(f"{file} should end in {SUFFIX[format]} for {format}")
    check_options(format, precision, opset, ir)
    size = input_size(method.view)
    method, without_map = method.exportable()
    card = replace(method.card, precision=precision, without_map=without_map)
    if card.decision is not None and without_map:
        card = replace(card, decision=card.decision.without_maps())
    check = make_check(make_inference_network(method), card, carried, CHECKED[precision]).to_text() if carried else None
    _fix_positions(method, size)
    graph = Graph(method).eval()
    example = torch.zeros(2, 3, *size, dtype=torch.uint8, device=method.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' warnings are for their developers
        if format == "torch":
            program = torch.export.export(graph, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}})
            write_torch(program, file, card, check)
            return card
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch, "plain.onnx")
            _write_plain_onnx(graph, example, plain, opset)
            onnx = format == "onnx"
            # Not OpenVINO's convert_model: it forks this process and sends usage data to Intel without asking.
            model = import_optional("onnx", "onnx").load(plain) if onnx else get_openvino_core().read_model(plain)
            if precision == "int8":
                model = quantize(model, nominal, card)
            if onnx and precision == "fp16":
                model = to_float16(model)
            if onnx:
                set_versions(model, opset, ir)
            (write_onnx if onnx else write_openvino)(model, file, card, check)
    return card


def check_options(format: Format, precision: Precision, opset: int | None = None, ir: int | None = None) -> None:
    """Check that the options go together. Raises UserError if they do not."""
    if precision != "fp32" and format == "torch":
        raise UserError("torch files are fp32: choose onnx or openvino for fp16 and int8")
    if format == "onnx":
        check_versions(opset, ir)
    elif (opset, ir) != (None, None):
        raise UserError(f"opset and ir are versions of ONNX files, but the format is {format}: leave them out")


def _fix_positions(method: Method, size: Size) -> None:
    """Resize the position embeddings of ViTs before the export, because OpenVINO resizes them wrongly in the graph."""
    for module in method.modules():
        if isinstance(module, VisionTransformer):
            module.set_input_size(img_size=size)


def _write_plain_onnx(graph: Graph, example: Tensor, file: Path, opset: int | None) -> None:
    import_optional("onnx", "onnx")
    import_optional("onnxscript", "onnx")
    torch.onnx.export(
        graph,
        (example,),
        file,
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=["pixels"],
        output_names=["score", "anomaly_map"][: len(graph(example[:1]))],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        opset_version=opset or OPSET,
    )
