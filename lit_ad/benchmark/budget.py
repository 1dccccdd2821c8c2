"""A limit of processor time: the same work on an idle machine as on one that others use."""

import time
from typing import Any

from lightning.pytorch.callbacks import Timer


class ProcessorTime(Timer):
    """Ends the training when its process has used so much processor time, that of all its threads together, validations
    included. What data loader workers and GPUs do is not in it. A resumed training goes on counting.

    Args:
        minutes: The limit.
    """

    def __init__(self, minutes: float) -> None:
        super().__init__({"seconds": 60 * minutes})  # type: ignore[dict-item]  # a float is as good
        self._began: float | None = None

    def on_train_start(self, *_: Any) -> None:
        self._began = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self._offset = self.time_elapsed()  # type: ignore[assignment]  # as Timer.load_state_dict sets it
        self._began = None

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds of processor time that the training has taken so far; of other stages, as of Timer, by the clock."""
        if stage != "train":
            return super().time_elapsed(stage)
        return self._offset + (0.0 if self._began is None else time.process_time() - self._began)
