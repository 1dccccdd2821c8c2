"""A trained detector: what it is, how it decides, and the program that judges images. No training code."""
