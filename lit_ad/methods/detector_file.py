"""Write the record of a detector into a checkpoint, and load a detector from a checkpoint.

The record, `checkpoint["lit_ad"]`, has the detector's `Card`, and the name, taps and fingerprint of each teacher, but
not the teachers' weights. Lightning saves the method's arguments beside the record. Together they are enough to load a
detector.
"""

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning as L

from lit_ad.checkpoint import find_changed_arguments, read_checkpoint
from lit_ad.detector.card import ANOTHER_VERSION, Card, read_card
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.view import View
from lit_ad.machine import torch_device
from lit_ad.teachers.backbone import Teacher
from lit_ad.teachers.weights import fingerprint

_THIS = "this checkpoint"  # in messages, the name of a checkpoint whose file is unknown
M = TypeVar("M", bound=L.LightningModule)


class Recorded(Protocol):
    """The part of a method that goes into a checkpoint's record and comes back from it."""

    view: View
    decision: Decision | None
    decided_for: str | None  # fingerprint of the weights that gave the scores in `decision`; None: unknown
    _trainer: L.Trainer | None

    @property
    def card(self) -> Card: ...

    @property
    def hparams(self) -> Any: ...

    @property
    def strict_loading(self) -> bool: ...

    def teachers(self) -> dict[str, Teacher]: ...

    def state_dict(self) -> Any: ...


def write_record(method: Recorded, checkpoint: dict[str, Any]) -> None:
    """Write the record of a detector into a checkpoint.

    The decision is left out if the latest validation scored other weights than the checkpoint has, because thresholds
    fit only the weights that scored. This happens between two validations, and with callbacks that average weights.
    """
    decision = method.decision
    if decision is not None and method.decided_for not in (None, fingerprint(checkpoint["state_dict"])):
        decision = None
    checkpoint["lit_ad"] = {
        **replace(method.card, decision=decision).to_dict(),
        "teachers": {
            name: {"name": teacher.name, "taps": list(teacher.taps), "fingerprint": teacher.fingerprint}
            for name, teacher in method.teachers().items()
        },
    }
    arguments = checkpoint.get("hyper_parameters", {})
    if isinstance(arguments.get("view"), View):
        arguments["view"] = arguments["view"].to_dict()  # plain values, for torch.load(weights_only=True)


def read_record(method: Recorded, checkpoint: dict[str, Any]) -> None:
    """Give a method the decision of a checkpoint. If the window of the method's view is "auto", copy the window, too.

    Raises:
        UserError: The checkpoint has another method, other teachers, other networks or another view.
    """
    file = (method._trainer.ckpt_path if method._trainer is not None else None) or _THIS
    card, own_name = read_card(checkpoint.get("lit_ad"), file), qualified_name(type(method))
    if card.method != own_name:
        raise UserError(f"{file} is a checkpoint of {card.method}, not of {own_name}")
    for name, teacher in method.teachers().items():
        _check_same_teacher(teacher, checkpoint["lit_ad"].get("teachers", {}).get(name, {}), file)
    requested = method.hparams.get("view")
    if isinstance(requested, View) and requested.window == "auto":
        method.view = replace(method.view, window=card.view.window)
    _check_same_view(method.view, card.view, file)
    _check_same_networks(method, checkpoint, card, file)
    method.decision = card.decision


def _check_same_teacher(teacher: Teacher, trained: dict[str, Any], file: str | Path) -> None:
    """Raise UserError if the model's teacher is not that of the checkpoint's training, by name, taps or weights.

    Args:
        teacher: The model's teacher.
        trained: Name, taps and fingerprint of the teacher in training, from the checkpoint's record.
        file: The checkpoint, for the message.
    """
    taps = list(teacher.taps)
    for what, key, theirs, ours in (
        ("the teacher", "backbone", trained.get("name"), teacher.name),
        (f"taps of {teacher.name}", "taps", trained.get("taps"), taps),
        (f"weights of {teacher.name}", "weights", trained.get("fingerprint"), teacher.fingerprint),
    ):
        if theirs != ours:
            raise UserError(
                f"{file} was trained with {what} {theirs}, but the model has {ours}: give model.{key} as in training"
            )


def _check_same_view(view: View, trained: View, file: str | Path) -> None:
    """Raise UserError if the model's view is not that of the checkpoint's training. `tile_batch` and `mm_per_pixel` may
    differ, because they change no score."""
    trained = replace(trained, tile_batch=view.tile_batch, mm_per_pixel=view.mm_per_pixel)
    if trained != view:
        pairs = [(name, theirs, getattr(view, name)) for name, theirs in trained.to_dict().items()]
        differ = ", ".join(f"{name} {theirs!s:.40}, not {ours!s:.40}" for name, theirs, ours in pairs if theirs != ours)
        raise UserError(f"{file} was trained with {differ}: give model.view as in training, or train anew")


def _check_same_networks(method: Recorded, checkpoint: dict[str, Any], card: Card, file: str | Path) -> None:
    """Raise UserError if the tensors in a checkpoint have other names or shapes than those of the model's networks."""
    theirs, ours = (
        {name: tensor.shape for name, tensor in state.items()}
        for state in (checkpoint["state_dict"], method.state_dict())
    )
    different = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    if different and method.strict_loading:
        changed = find_changed_arguments(checkpoint, method.hparams)
        settings = [f"model.{name} {then}, not {now}" for name, (then, now) in changed.items()]
        remedy = f"give the model the arguments that it was trained with: {', '.join(settings)}"
        raise UserError(
            f"{file} has other networks than {type(method).__name__} here ({different[0]} is one difference): "
            + (remedy if settings else f"lit_ad {card.version} has trained it; {ANOTHER_VERSION}")
        )


def _check_arguments(method: type[L.LightningModule], arguments: dict[str, Any], card: Card, file: Path) -> None:
    """Raise UserError if a checkpoint has arguments that this version of the method does not take."""
    try:
        inspect.signature(method).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"{file} was written by lit_ad {card.version}, whose {method.__name__} has other arguments ({error}): "
            f"{ANOTHER_VERSION}"
        ) from error


def load_method(kind: type[M], path: Path, device: Any, arguments: dict[str, Any]) -> M:
    """Return the detector in a checkpoint, in eval mode: see `Method.load_from_checkpoint`.

    Args:
        kind: The method's class, or one that it inherits from.
        path: The checkpoint.
        device: The detector's device.
        arguments: Arguments of the method that replace those of training.

    Raises:
        UserError: As for `Method.load_from_checkpoint`.
    """
    device = torch_device(device)
    checkpoint = read_checkpoint(path)
    card = read_card(checkpoint.get("lit_ad"), path)
    method = find_method_class(card.method, path)
    if not issubclass(method, kind):
        raise UserError(f"{path} is a checkpoint of {method.__name__}, not of {kind.__name__}")
    trained = {**checkpoint.get("hyper_parameters", {}), "view": card.view}
    kept = {n: value for n, value in trained.items() if not n.startswith("_") and n not in arguments}
    kept = {n: _find_weights(value, path) if n.endswith("weights") else value for n, value in kept.items()}
    _check_arguments(method, {**kept, **arguments}, card, path)
    try:
        model = method(**kept, **arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        model.on_load_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(str(error).replace(_THIS, str(path), 1)) from error
    model.load_state_dict(checkpoint["state_dict"])
    return model.to(device).eval()


def qualified_name(method: type) -> str:
    """Return MODULE.CLASS."""
    return f"{method.__module__}.{method.__qualname__}"


def find_method_class(name: str, path: Path) -> type[L.LightningModule]:
    """Return the class that a checkpoint names. It must be imported already, as lit_ad's own methods are: reading a
    checkpoint never imports a module, so that a file cannot run code.

    Raises:
        UserError: The class is not imported, or is not a method.
    """
    module, _, attribute = name.rpartition(".")
    method = getattr(sys.modules.get(module), attribute, None)
    if not (isinstance(method, type) and issubclass(method, L.LightningModule)):
        raise UserError(
            f"{path} is a checkpoint of {name or 'no method of lit_ad'}, which is not known here"
            + (
                f": import {module} first, or run the command where {module}.py lies"
                if name and module not in sys.modules
                else ""
            )
        )
    return method


def _find_weights(weights: Any, checkpoint: Path) -> Any:
    """Return the argument `weights` for the method. If it names a file that no longer exists, return a file of the same
    name in the checkpoint's folder or in the folder above.

    Raises:
        UserError: The file is in none of these places.
    """
    if not isinstance(weights, str) or weights == "hub" or weights.startswith(("hf-hub:", "pip:")):
        return weights
    file = resolve_path(weights)
    if file.is_file():
        return weights
    beside = [folder / file.name for folder in (checkpoint.parent, checkpoint.parent.parent)]
    for place in beside:
        if place.is_file():
            return str(place)
    raise UserError(
        f"the teacher's weights of {checkpoint} are not at {file}, nor at {' or '.join(map(str, beside))}: put them "
        "there, or give their path as `weights`"
    )
