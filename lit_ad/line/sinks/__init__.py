"""Where the verdicts of a watched line go to: each sink takes a line of JSON, and counts what it could not deliver."""
