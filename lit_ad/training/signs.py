"""Describe signs of life, which the processes of a training write, and decide by them whether a process waits in
vain."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lit_ad.distributed import gather

INTERVAL = 1.0  # seconds between two signs
_LIBRARIES = ("torch", "lightning", "torchmetrics")
_STANDARD = Path(os.__file__).parent  # the folder of Python's own modules
_GATHERS = Path(gather.__code__.co_filename)  # our module over torch.distributed
_BACKWARD = "_engine_run_backward"  # the function in which DDP reduces gradients


@dataclass
class Sign:
    """A sign of life of a process.

    Args:
        rank: Its rank.
        host: Its machine.
        process: Its process id.
        place: Where its main thread stands, in words.
        still: Seconds for which the thread has stood there.
        collective: Whether the thread is in a collective, where it waits for the others.
        number: Number of signs that the process has written.
        ended: Whether the process has left the training.
        silence: Seconds since the reader read its latest sign.
    """

    rank: int
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    place: str = ""
    still: float = 0.0
    collective: bool = False
    number: int = 0
    ended: bool = False
    silence: float = 0.0

    @property
    def gone(self) -> bool:
        return self.ended or self.silence > 5 * INTERVAL

    @property
    def name(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.process})"

    @property
    def state(self) -> str:
        if self.ended:
            return "which has ended"
        return f"no sign of life for {self.silence:.0f} s" if self.gone else f"in {self.place}"


def waits_in_vain(own: Sign, others: Sequence[Sign], patience: float) -> bool:
    """Return whether no process has gone on for `patience` seconds."""
    return own.still >= patience and all(other.ended or other.still + other.silence >= patience for other in others)


def explain_wait(signs: Sequence[Sign]) -> str:
    """Return a text that tells which process is missing, and where the others wait."""
    missing = [sign for sign in signs if sign.gone or not sign.collective]
    waiting = [sign for sign in signs if sign not in missing]
    told = [f"no process of this training has gone on for {min(sign.still + sign.silence for sign in signs):.0f} s"]
    if missing:
        told.append("Missing: " + "; ".join(f"{sign.name}, {sign.state}" for sign in missing))
    if waiting:
        title = "Waiting: " if missing else "All wait, but not in one place: "
        told.append(title + "; ".join(f"{sign.name}, {sign.state}" for sign in waiting))
    if not missing:
        told.append("A method or callback that communicates must do so on every process, in the same order")
    return ". ".join(told)


def stack(thread: int) -> Iterator[FrameType]:
    """Yield the frames of a thread, the innermost first."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back


def find_place(frames: Sequence[FrameType]) -> tuple[str, bool]:
    """Return where a thread stands, in words, and whether it is in a collective: in torch.distributed or in DDP's
    backward pass."""
    caller = next((frame for frame in frames if not _is_library(Path(frame.f_code.co_filename))), None)
    within = frames[: frames.index(caller)] if caller is not None else frames
    collective = any(
        "/torch/distributed/" in Path(frame.f_code.co_filename).as_posix() or frame.f_code.co_name == _BACKWARD
        for frame in within
    )
    called = f"{within[0].f_code.co_name}, called by " if within else ""
    if caller is None:
        return called, collective
    file = "/".join(Path(caller.f_code.co_filename).parts[-3:])
    return f"{called}{caller.f_code.co_name} ({file}:{caller.f_lineno})", collective


def _is_library(file: Path) -> bool:
    """Return whether a frame's file belongs to Python, torch, Lightning, or our module over torch.distributed."""
    if "site-packages" in file.parts:
        return file.parts[file.parts.index("site-packages") + 1] in _LIBRARIES
    return _STANDARD in file.parents or file == _GATHERS or file.parts[0].startswith("<")
