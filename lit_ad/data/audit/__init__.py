"""What is in a data set, and what looks wrong with it."""
