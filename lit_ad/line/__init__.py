"""A line that is watched: where images come from, where verdicts go to, and how its detector grows."""
