"""Summarise a data set, and find what looks wrong with it."""
