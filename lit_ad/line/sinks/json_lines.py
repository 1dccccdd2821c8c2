"""A sink that writes messages as lines of a file, or to standard output."""

import sys
import threading
from pathlib import Path
from typing import Any

from lit_ad.files import explain_write_errors


class JsonLines:
    """Appends each message to a file, as one line.

    Args:
        path: The file. "-": standard output. If its reader is slow, judging waits, and no message is lost.

    Raises:
        UserError: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.sent = self.dropped = 0
        self.trouble = ""
        self._writing = threading.Lock()
        if path == "-":
            self.file = sys.stdout
        else:
            with explain_write_errors(Path(path), "give another --to.json_lines"):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self.file = Path(path).open("a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - it stays open

    def send(self, text: str) -> None:
        """Write a message. If that fails, count it as dropped."""
        try:
            with self._writing:
                self.file.write(text + "\n")
                self.file.flush()
        except (OSError, ValueError) as error:  # for example a full disk; ValueError: the file is closed
            self.dropped, self.trouble = self.dropped + 1, f"{self.path}: {error}"
        else:
            self.sent, self.trouble = self.sent + 1, ""

    def close(self) -> None:
        """Close the file."""
        if self.path != "-":
            try:
                self.file.close()
            except OSError as error:
                self.trouble = f"{self.path}: {error}"

    def status(self) -> dict[str, Any]:
        """Return counts and trouble: see `Sink.status`."""
        return {"sent": self.sent, "dropped": self.dropped, "waiting": 0, "trouble": self.trouble or None}
