"""Anchors from data: the shapes, how good they are, and the file that holds them."""
