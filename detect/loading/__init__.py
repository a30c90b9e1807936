"""Annotations and image files to training batches."""
