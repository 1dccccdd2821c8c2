"""The version of lit_ad, which stands here alone."""

__version__ = "0.2.0"
