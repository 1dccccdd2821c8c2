"""Errors that a user can mend, and explanations of common crashes."""

import math
import re
import signal
from collections.abc import Iterator


class UserError(Exception):
    """Bad input, in one message that names the file or key and the remedy.

    Commands print it as one line; any other exception is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker passes an exception on as the text of its traceback, which ends with the message.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].rstrip())


def check_number(
    name: str, value: float, least: float = -math.inf, most: float = math.inf, above: bool = False
) -> None:
    """Raise UserError, which names the argument, if its value is not a number from `least` to `most`.

    Args:
        name: The name of the argument, as a user types it.
        value: Its value.
        least: The lowest value that is allowed.
        most: The highest value that is allowed.
        above: Whether the value must be above `least`.
    """
    if (value > least if above else value >= least) and value <= most:  # NaN is neither
        return
    limits = f"lie between {least:.12g} and {most:.12g}" if most < math.inf else f"be {least:.12g} or more"
    if above:
        limits = f"be above {least:.12g}" + (f" and at most {most:.12g}" if most < math.inf else "")
    raise UserError(f"{name} is {value:.12g}, but it must {limits}")


class ViewMismatch(UserError):
    """The view does not fit an image, which itself is sound: change the view, or leave out the image."""


class NotFiniteError(UserError):
    """A score or an anomaly map is NaN or infinite, so there is no verdict."""


NOT_FINITE = (
    "its score or anomaly map is NaN or infinite, so there is no verdict: the training has diverged, or the precision "
    "is too low. Take an earlier checkpoint, train again with a lower learning rate, or use 32-bit precision"
)


class TimeLimitError(UserError):
    """A step took longer than its time limit: it hangs, or the machine is slow."""


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause or context, the cause or context of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_OUT_OF_MEMORY = "most likely because the memory ran out"
_WORKER_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:exited unexpectedly|is killed by signal: (\w[\w ]*))"
)
_NO_SHARED_MEMORY = re.compile(r"unable to \w+ .*(?:No space left on device|Cannot allocate memory)")


def explain_killed_worker(error: BaseException | None) -> UserError | None:
    """Return an error that tells what to do, if `error` comes from the death of a process that loads images, else None.

    torch raises its own error wherever the main process is at that moment, for example while it writes a checkpoint.
    """
    for cause in _with_causes(error):
        died, text = _WORKER_DIED.search(str(cause)), str(cause)
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
                f"a process that loads images died of a {signal_name.lower()}, in a library that reads them: find the "
                "image with data.loading.num_workers 0, where the main process dies at it"
            )
    return None


_GPU_MEMORY = (
    "the GPU's memory ran out: lower data.batch_size, data.loading.eval_batch_size or model.view.image_size, set "
    "model.view.tile_batch for tiles, or train with --trainer.precision bf16-mixed"
)


def explain_gpu_out_of_memory(error: BaseException | None) -> UserError | None:
    """Return an error that tells what to do, if `error` comes from a GPU whose memory ran out, else None."""
    # The class is compared by name, because a detector from an ONNX file does not import torch.
    ran_out = any(type(cause).__name__ == "OutOfMemoryError" for cause in _with_causes(error))
    return UserError(_GPU_MEMORY) if ran_out else None


def describe_exit(code: int) -> str:
    """Return in words what ended a process, from its exit code. A negative code is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (f", {_OUT_OF_MEMORY}" if name == "SIGKILL" else "")
