"""Sinks receive the verdicts of a watched line: each takes lines of JSON, and counts those it cannot deliver."""
