"""The page that shows what a test found, made from the files in a run's directory."""
