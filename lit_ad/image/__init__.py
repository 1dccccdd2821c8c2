"""From any image to network input, and back from an anomaly map to the image."""
