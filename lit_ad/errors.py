"""What a user can mend."""


class UserError(Exception):
    """Bad input, in one message that names the file or key and the remedy.

    Commands print it as one line; any other exception is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader's worker hands its exception over as the text of the traceback, which ends with the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())


class NotFiniteError(UserError):
    """A score or an anomaly map that is NaN or infinite: no verdict follows from it."""


NOT_FINITE = (
    "its score or anomaly map is NaN or infinite, so there is no verdict: the training has diverged, or the precision "
    "is too low. Take an earlier checkpoint, train again with a lower learning rate, or use 32-bit precision"
)


class TimeLimitError(UserError):
    """Something that took longer than its time limit: it hangs, or the machine is slow."""
