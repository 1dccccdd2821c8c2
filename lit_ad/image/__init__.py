"""Turn any image into network input, and bring an anomaly map back to the image."""
