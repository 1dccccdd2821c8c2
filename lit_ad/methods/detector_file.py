"""What is in a checkpoint beside the students, and a detector made of it again.

`checkpoint["lit_ad"]` is the detector's `Card`, and of each teacher its name, taps and fingerprint. Teachers themselves
are not in the file. With that, and with the arguments of the method that Lightning saves, a checkpoint alone is a whole
detector.
"""

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning as L

from lit_ad.checkpoint import changed_arguments, read_checkpoint
from lit_ad.detector.card import ANOTHER_VERSION, Card, read_card
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.view import View
from lit_ad.machine import torch_device
from lit_ad.teachers.backbone import Teacher
from lit_ad.teachers.weights import fingerprint

_THIS = "this checkpoint"  # in messages, where its file is not known
M = TypeVar("M", bound=L.LightningModule)


class Recorded(Protocol):
    """What is recorded of a method, and read again."""

    view: View
    decision: Decision | None
    decided_for: str | None  # the fingerprint of the weights that scored the decision's images; None: not known
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
    """Write all that makes the file a detector into a checkpoint.

    The decision in it is that of the weights in the file, or none: where the latest validation scored other weights, as
    between two validations or where a callback averages weights, the thresholds would not fit the scores.
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
        arguments["view"] = arguments["view"].to_dict()  # plain values, or the file could not be read as data


def read_record(method: Recorded, checkpoint: dict[str, Any]) -> None:
    """Give a method the decision in a checkpoint, and the window of its view where the training has found that.

    Raises:
        UserError: The checkpoint is another method's, of other teachers, other networks or another view.
    """
    file = (method._trainer.ckpt_path if method._trainer is not None else None) or _THIS
    card, own_name = read_card(checkpoint.get("lit_ad"), file), qualified_name(type(method))
    if card.method != own_name:
        raise UserError(f"{file} is of {card.method}, not of {own_name}")
    for name, teacher in method.teachers().items():
        _check_same_teacher(teacher, checkpoint["lit_ad"].get("teachers", {}).get(name, {}), file)
    asked = method.hparams.get("view")
    if isinstance(asked, View) and asked.window == "auto":
        method.view = replace(method.view, window=card.view.window)
    _check_same_view(method.view, card.view, file)
    _check_same_networks(method, checkpoint, card, file)
    method.decision = card.decision


def _check_same_teacher(teacher: Teacher, trained: dict[str, Any], file: str | Path) -> None:
    """Raise UserError where a checkpoint was trained with another teacher than the model's, or with other taps or
    weights of it. `trained`: what the checkpoint says of its own."""
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
    """Raise UserError where a checkpoint was trained at another view than the model's. The number of tiles that are
    run together and the size of a pixel change no score, and may differ."""
    trained = replace(trained, tile_batch=view.tile_batch, mm_per_pixel=view.mm_per_pixel)
    if trained != view:
        pairs = [(name, theirs, getattr(view, name)) for name, theirs in trained.to_dict().items()]
        differ = ", ".join(f"{name} {theirs!s:.40}, not {ours!s:.40}" for name, theirs, ours in pairs if theirs != ours)
        raise UserError(f"{file} was trained at {differ}: leave model.view as it was, or train anew")


def _check_same_networks(method: Recorded, checkpoint: dict[str, Any], card: Card, file: str | Path) -> None:
    """Raise UserError where the networks in a checkpoint have other tensors than the model's, or of other shapes."""
    there, here = (
        {n: tensor.shape for n, tensor in s.items()} for s in (checkpoint["state_dict"], method.state_dict())
    )
    wrong = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if wrong and method.strict_loading:
        changed = changed_arguments(checkpoint, method.hparams)
        settings = [f"model.{name} {then}, not {now}" for name, (then, now) in changed.items()]
        remedy = f"give the model the arguments that it was trained with: {', '.join(settings)}"
        raise UserError(
            f"{file} has other networks than {type(method).__name__} here ({wrong[0]} is one difference): "
            + (remedy if settings else f"lit_ad {card.version} has trained it; {ANOTHER_VERSION}")
        )


def _check_arguments(method: type[L.LightningModule], arguments: dict[str, Any], card: Card, file: Path) -> None:
    """Raise UserError where a checkpoint was trained with arguments that the method does not have here."""
    try:
        inspect.signature(method).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"{file} was written by lit_ad {card.version}, whose {method.__name__} has other arguments ({error}): "
            f"{ANOTHER_VERSION}"
        ) from error


def load_method(kind: type[M], path: Path, device: Any, arguments: dict[str, Any]) -> M:
    """Return the detector in a checkpoint, in eval mode. `Method.load_from_checkpoint` has more to say of it.

    Args:
        kind: The class of it, or one that it inherits from.
        path: The file.
        device: Of the detector.
        arguments: Of the method, in place of those that it was trained with.
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
    """Return the class that a checkpoint names. It must be imported already, as lit_ad's own are: a file runs no code.

    Raises:
        UserError: It is not there, or no method.
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
    """Return a teacher's weights as the method takes them: a file that has moved is looked for beside the checkpoint,
    in its folder and in the run's. Raise UserError if it is nowhere."""
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
