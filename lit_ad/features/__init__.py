"""The outputs of frozen teachers, kept on disk."""
