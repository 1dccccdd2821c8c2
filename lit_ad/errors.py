"""What a user can mend."""


class UserError(Exception):
    """Bad input, in one message that names the file or key and the remedy.

    Commands print it as one line; any other exception is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader's worker hands its exception over as the text of the traceback, which ends with the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())
