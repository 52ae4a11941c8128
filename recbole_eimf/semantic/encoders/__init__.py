"""Text encoders and their cache."""
