"""What a user can mend."""


class UserError(Exception):
    """Bad input, in one message that names the file or key and the remedy.

    Commands print it as one line; any other exception is a bug and keeps its traceback. It is no ValueError: the parser
    of the command line takes those for arguments of a wrong type, and says so in eight lines.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader's worker hands its exception over as the text of the traceback, which ends with the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())
