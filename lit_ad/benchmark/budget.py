"""A limit of processor time. It allows the same work on a busy machine as on an idle one."""

import time
from typing import Any

from lightning.pytorch.callbacks import Timer


class ProcessorTime(Timer):
    """Ends a training when all threads of its process together have used so much processor time.

    Validations count. Data loader workers and GPUs do not count. A resumed training continues the count.

    Args:
        minutes: The limit, in minutes of processor time.
    """

    def __init__(self, minutes: float) -> None:
        super().__init__({"seconds": 60 * minutes})  # type: ignore[dict-item]  # a float works too
        self._began: float | None = None

    def on_train_start(self, *_: Any) -> None:
        self._began = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self._offset = self.time_elapsed()  # type: ignore[assignment]  # Timer.load_state_dict sets it in the same way
        self._began = None

    def time_elapsed(self, stage: str = "train") -> float:
        """Return the seconds of processor time that the training has used; for other stages, Timer's seconds."""
        if stage != "train":
            return super().time_elapsed(stage)
        return self._offset + (0.0 if self._began is None else time.process_time() - self._began)
