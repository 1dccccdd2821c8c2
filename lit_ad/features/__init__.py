"""Features of frozen teachers, cached on disk."""
