"""A checkpoint as one file for another runtime: teacher included, normalisation in the graph, the rest as metadata.

The graph is `Method.forward`: `pixels` (batch, 3, H, W) uint8 of the view's size in, `score` (batch,) and `anomaly_map`
(batch, 1, H, W) out. Resizing, tiles and padding stay outside, in the view, which the file names.
"""

import json
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lit_ad.deploy.onnx_versions import OPSET, check_versions, set_versions
from lit_ad.deploy.quantize import quantize
from lit_ad.detector.card import Card
from lit_ad.detector.detector import Detector
from lit_ad.detector.guarantee import summary
from lit_ad.detector.inputs import ImageLike
from lit_ad.detector.openvino_runtime import openvino_core
from lit_ad.detector.runtimes import KEY, need
from lit_ad.errors import NotFiniteError, UserError
from lit_ad.files import atomic_write
from lit_ad.image.pixels import Size
from lit_ad.image.view import View
from lit_ad.integrity import BLANK, DIGEST, seal
from lit_ad.methods.base import Method

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # relative, of scores and maps; int8 is judged by its AUROC
Differences = dict[str, dict[str, float]]


class Graph(nn.Module):
    """`Method.forward` as tensors, the score first."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, H, W) -> (B,), and (B, 1, H, W) of methods with maps."""
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
) -> Card:
    """Write a detector for another runtime. It is the caller who compares it (`differences`).

    Args:
        method: From `Method.load_from_checkpoint`, say; it is left as it is.
        file: Where to; its suffix is the format's.
        format: onnx (ONNX Runtime), openvino, or torch (torch.export).
        precision: Of the network: fp16 halves the file, int8 is NNCF's.
        nominal: Nominal training images, to calibrate int8 with.
        opset: Of an ONNX file, the version of its operators. None: 18.
        ir: Of an ONNX file, the version of its format. None: the oldest that has the opset.

    Raises:
        UserError: A view of no fixed size, options that do not go together, a package that is missing.
    """
    if file.suffix != SUFFIX[format]:
        raise UserError(f"{file} should end in {SUFFIX[format]} for {format}")
    check_options(format, precision, opset, ir)
    size = input_size(method.view)
    method, without_map = method.exportable()
    card = replace(method.card, precision=precision, without_map=without_map)
    if card.decision is not None and without_map:
        card = replace(card, decision=replace(card.decision, maxima={}, medians={}, pixels_by_hand={}))
    fix_positions(method, size)
    graph = Graph(method).eval()
    example = torch.zeros(2, 3, *size, dtype=torch.uint8, device=method.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters talk to their developers
        if format == "torch":
            program = torch.export.export(graph, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}})
            write_torch(program, file, card)
            return card
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch, "plain.onnx")
            write_plain_onnx(graph, example, plain, opset)
            onnx = format == "onnx"
            # OpenVINO's convert_model would tell Intel, unasked and by a fork of this process.
            model = need("onnx", "onnx").load(plain) if onnx else openvino_core().read_model(plain)
            if precision == "int8":
                model = quantize(model, nominal, card)
            if onnx:
                set_versions(model, opset, ir)
            (write_onnx if onnx else write_openvino)(model, file, card)
    return card


def check_options(format: Format, precision: Precision, opset: int | None = None, ir: int | None = None) -> None:
    """Raises UserError where they do not go together."""
    if precision != "fp32" and format == "torch":
        raise UserError("torch files are fp32: choose onnx or openvino for int8, openvino for fp16")
    if precision == "fp16" and format == "onnx":
        raise UserError("fp16 is for openvino, which keeps half-sized weights and computes as its device can")
    if format == "onnx":
        check_versions(opset, ir)
    elif (opset, ir) != (None, None):
        raise UserError(f"opset and ir are versions of ONNX files, and the format is {format}: leave them out")


def fix_positions(method: Method, size: Size) -> None:
    """ViTs resize their position embeddings now, for images of that size: OpenVINO does it wrongly in the graph."""
    for module in method.modules():
        if isinstance(module, VisionTransformer):
            module.set_input_size(img_size=size)


def input_size(view: View) -> Size:
    """Height and width of the network's input. Raises UserError if the view has none."""
    if view.tile is None and view.size is None:
        raise UserError(
            "this model sees each image at its own size, and a graph has one: train with model.view.image_size or "
            "model.view.tile"
        )
    height, width = view.black_input().shape[2:]
    return height, width


# Writing, with the metadata in the file.


def metadata(card: Card) -> str:
    """JSON: the card, the place of the digest, and for programs without lit_ad the input's size, the thresholds ("" is
    all categories), and what they promise or stand for."""
    decision = card.decision
    thresholds: dict[str, Any] = {}
    if decision is not None:
        names = [None, *decision.scores] if len(decision.scores) > 1 else [None]
        thresholds["threshold"] = {name or "": decision.threshold(name) for name in names}
        thresholds["pixel_threshold"] = {name or "": decision.pixel_threshold(name) for name in names}
        thresholds["summary"] = summary(decision)
    return json.dumps({**card.to_dict(), "input_size": input_size(card.view), **thresholds, DIGEST: BLANK})


def write_plain_onnx(graph: Graph, example: Tensor, file: Path, opset: int | None) -> None:
    need("onnx", "onnx")
    need("onnxscript", "onnx")
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


def write_torch(program: Any, file: Path, card: Card) -> None:
    """A torch.export program; its metadata is an extra file. It is a zip archive, and has the checksums of one."""
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        torch.export.save(program, stream, extra_files={KEY: metadata(card)})


def write_onnx(model: Any, file: Path, card: Card) -> None:
    onnx = need("onnx", "onnx")
    onnx.helper.set_model_props(model, {KEY: metadata(card)})
    with atomic_write(file) as temporary:
        onnx.save(model, temporary)
        seal(temporary)


def write_openvino(model: Any, file: Path, card: Card) -> None:
    """FILE.xml, and its weights in FILE.bin."""
    openvino = need("openvino", "openvino")
    model.set_rt_info(metadata(card), [KEY])
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch, file.name)
        openvino.save_model(model, written, compress_to_fp16=card.precision == "fp16")
        seal(written, written.with_suffix(".bin"))
        for suffix in (".bin", ".xml"):  # the weights first: an .xml without them would be half a file
            with atomic_write(file.with_suffix(suffix)) as temporary:
                temporary.write_bytes(written.with_suffix(suffix).read_bytes())


def rewrite(file: Path, output: Path, card: Card) -> None:
    """The same network with another card. Raises UserError if the file's format has no writer here."""
    if file.suffix == ".onnx":
        write_onnx(need("onnx", "onnx").load(file), output, card)
    elif file.suffix == ".xml":
        write_openvino(openvino_core().read_model(file), output, card)
    else:
        write_torch(torch.export.load(file), output, card)


# Comparing.


def differences(
    exported: Detector, checkpoint: Detector, images: Sequence[ImageLike], batch_sizes: Sequence[int] = (1, 4)
) -> Differences:
    """By batch size, the largest difference of scores and of maps on images.

    A score's is relative to its size, or to the mean size of all scores if that is larger (a log-density may lie near
    0); a map's is relative to the map's largest value. Raises NotFiniteError that names the image, and the file if it
    is the exported one's.
    """
    expected = list(checkpoint.stream(images))
    usual = float(np.mean([abs(judgement.score) for judgement in expected]))
    by_size: Differences = {}
    for size in batch_sizes:
        scores, maps = [], []
        try:
            judged = list(exported.stream(images, batch_size=size))
        except NotFiniteError as error:
            raise NotFiniteError(f"the exported file at batch {size}: {error}") from error
        for judgement, other in zip(judged, expected, strict=True):
            scores.append(abs(judgement.score - other.score) / max(abs(other.score), usual, 1e-12))
            if judgement.anomaly_map is not None and other.anomaly_map is not None:
                largest = max(float(np.abs(other.anomaly_map).max()), 1e-12)
                maps.append(float(np.abs(judgement.anomaly_map - other.anomaly_map).max()) / largest)
        by_size[f"batch {size}"] = {"score": max(scores), **({"anomaly_map": max(maps)} if maps else {})}
    return by_size


def beyond(by_size: Differences, tolerance: float) -> list[str]:
    """What differs by more than that; NaN does."""
    return [
        f"{name} at {size} by {value:.1e}"
        for size, values in by_size.items()
        for name, value in values.items()
        if not value <= tolerance
    ]
