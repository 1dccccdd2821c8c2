"""Watch a line: sources of images (feeds), receivers of verdicts (sinks), and a detector that grows by labels."""
