"""What a user can mend."""

import math
import re
import signal
from collections.abc import Iterator


class UserError(Exception):
    """Bad input, in one message that names the file or key and the remedy.

    Commands print it as one line; any other exception is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader's worker hands its exception over as the text of the traceback, which ends with the message.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].rstrip())


def check_number(
    name: str, value: float, least: float = -math.inf, most: float = math.inf, above: bool = False
) -> None:
    """Raises UserError that names an argument whose value is not a number from `least` to `most`.

    Args:
        name: Of the argument, as it is typed.
        value: Its value.
        least: The lowest that is allowed.
        most: The highest that is allowed.
        above: Whether `least` itself is not allowed.
    """
    if (value > least if above else value >= least) and value <= most:  # NaN is neither
        return
    limits = f"lie between {least:.12g} and {most:.12g}" if most < math.inf else f"be {least:.12g} or more"
    if above:
        limits = f"be above {least:.12g}" + (f" and at most {most:.12g}" if most < math.inf else "")
    raise UserError(f"{name} is {value:.12g}, but it must {limits}")


class ViewMismatch(UserError):
    """A sound image that the view does not fit: it is the view that is to be changed, or the image that is left out."""


class NotFiniteError(UserError):
    """A score or an anomaly map that is NaN or infinite: no verdict follows from it."""


NOT_FINITE = (
    "its score or anomaly map is NaN or infinite, so there is no verdict: the training has diverged, or the precision "
    "is too low. Take an earlier checkpoint, train again with a lower learning rate, or use 32-bit precision"
)


class TimeLimitError(UserError):
    """Something that took longer than its time limit: it hangs, or the machine is slow."""


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from or in the handling of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_OUT_OF_MEMORY = "most likely because the memory ran out"
_WORKER_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:exited unexpectedly|is killed by signal: (\w[\w ]*))"
)
_NO_SHARED_MEMORY = re.compile(r"unable to \w+ .*(?:No space left on device|Cannot allocate memory)")


def killed_worker(error: BaseException | None) -> UserError | None:
    """What a user can do about a process that loads images and died, if that is behind an error.

    torch raises its error wherever the main process is at that moment: while it writes a checkpoint, say.
    """
    for each in _with_causes(error):
        died, text = _WORKER_DIED.search(str(each)), str(each)
        signal_name = (died[1] or "").strip() if died else ""
        if signal_name == "Bus error" or ("DataLoader worker" in text and _NO_SHARED_MEMORY.search(text)):
            return UserError(
                "a process that loads images ran out of shared memory, /dev/shm: lower data.loading.num_workers (0 "
                "loads in this process), or give the container more, as by docker run --shm-size 8g"
            )
        if died and signal_name in ("", "Killed", "Terminated"):
            return UserError(
                f"a process that loads images was killed, {_OUT_OF_MEMORY}: lower data.loading.num_workers (0 loads in "
                "this process), data.batch_size or model.view.image_size"
            )
        if died:
            return UserError(
                f"a process that loads images died of a {signal_name.lower()}, in a library that reads them: with "
                "data.loading.num_workers 0 the main process dies of it, at the image that is to blame"
            )
    return None


_GPU_MEMORY = (
    "the GPU's memory ran out: lower data.batch_size, data.loading.eval_batch_size or model.view.image_size, set "
    "model.view.tile_batch for tiles, or train with --trainer.precision bf16-mixed"
)


def gpu_out_of_memory(error: BaseException | None) -> UserError | None:
    """What a user can do about a GPU whose memory ran out, if that is behind an error."""
    # By its name: a detector of an ONNX file does not import torch.
    ran_out = any(type(each).__name__ == "OutOfMemoryError" for each in _with_causes(error))
    return UserError(_GPU_MEMORY) if ran_out else None


def ended_by(code: int) -> str:
    """What ended a process, in words, by its exit code: negative is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (f", {_OUT_OF_MEMORY}" if name == "SIGKILL" else "")
