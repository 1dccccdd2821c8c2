"""A trained detector, outside of training."""
