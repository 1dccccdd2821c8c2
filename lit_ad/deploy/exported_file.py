"""Write exported files with their metadata, and rewrite them with another card."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lit_ad.detector.card import Card
from lit_ad.detector.openvino_runtime import get_openvino_core
from lit_ad.detector.runtimes import KEY, import_optional
from lit_ad.detector.self_check import CHECK_KEY
from lit_ad.detector.summary import summarize
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.image.pixels import Size
from lit_ad.image.view import View
from lit_ad.integrity import BLANK, DIGEST, seal


def input_size(view: View) -> Size:
    """Return height and width of the network's input. Raises UserError if the view has no fixed size."""
    if view.tile is None and view.size is None:
        raise UserError(
            "this model sees each image at its own size, but an exported graph has one fixed size: train with "
            "model.view.image_size or model.view.tile"
        )
    height, width = view.black_input().shape[2:]
    return height, width


def _make_metadata(card: Card) -> str:
    """Return the metadata of an exported file as JSON.

    It has the card and an empty place for the file's digest. For programs without lit_ad it also has the input's size,
    the thresholds and markings of each category ("": of all categories together), and a summary of their promises.
    """
    decision = None if card.decision is None else card.decision.without_names()  # they stay on this machine
    thresholds: dict[str, Any] = {}
    if decision is not None:
        names = [None, *decision.scores] if len(decision.scores) > 1 else [None]
        thresholds["threshold"] = {name or "": decision.threshold(name) for name in names}
        thresholds["pixel_threshold"] = {name or "": decision.pixel_threshold(name) for name in names}
        markings = {name or "": decision.marking(name) for name in names}
        thresholds["marking"] = {name: marking and marking.to_dict() for name, marking in markings.items()}
        thresholds["summary"] = summarize(decision)
    card = replace(card, decision=decision)
    return json.dumps({**card.to_dict(), "input_size": input_size(card.view), **thresholds, DIGEST: BLANK})


def write_torch(program: Any, file: Path, card: Card, check: str | None = None) -> None:
    """Write a torch.export program, with the metadata as an extra file in its zip archive.

    It needs no digest, because a zip archive has checksums.
    """
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        torch.export.save(program, stream, extra_files={KEY: _make_metadata(card), CHECK_KEY: check or ""})


def write_onnx(model: Any, file: Path, card: Card, check: str | None = None) -> None:
    """Write an ONNX model with metadata and digest."""
    onnx = import_optional("onnx", "onnx")
    onnx.helper.set_model_props(model, {KEY: _make_metadata(card), **({CHECK_KEY: check} if check else {})})
    with atomic_write(file) as temporary:
        onnx.save(model, temporary)
        seal(temporary)


def write_openvino(model: Any, file: Path, card: Card, check: str | None = None) -> None:
    """Write an OpenVINO model as FILE.xml, with metadata and digest, and its weights as FILE.bin."""
    openvino = import_optional("openvino", "openvino")
    model.set_rt_info(_make_metadata(card), [KEY])
    if check:
        model.set_rt_info(check, [CHECK_KEY])
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch, file.name)
        openvino.save_model(model, written, compress_to_fp16=card.precision == "fp16")
        seal(written, written.with_suffix(".bin"))
        for suffix in (".bin", ".xml"):  # the weights first: an .xml without weights would look like a complete file
            with atomic_write(file.with_suffix(suffix)) as temporary:
                temporary.write_bytes(written.with_suffix(suffix).read_bytes())


def rewrite(file: Path, output: Path, card: Card, check: str | None = None) -> None:
    """Write the network of an exported file with another card.

    Args:
        file: The exported file.
        output: The file to write. It may be the same file.
        card: The new card.
        check: The new text of `SelfCheck.to_text`. None: the text that the old file carries.
    """
    if file.suffix == ".onnx":
        model = import_optional("onnx", "onnx").load(file)
        carried = {entry.key: entry.value for entry in model.metadata_props}.get(CHECK_KEY)
        write_onnx(model, output, card, check or carried)
    elif file.suffix == ".xml":
        write_openvino(get_openvino_core().read_model(file), output, card, check)  # the model keeps the old check
    else:
        extra = {CHECK_KEY: ""}
        write_torch(torch.export.load(file, extra_files=extra), output, card, check or extra[CHECK_KEY])
