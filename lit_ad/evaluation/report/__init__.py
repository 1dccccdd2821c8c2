"""The page of a test, made from the files in a run's directory."""
