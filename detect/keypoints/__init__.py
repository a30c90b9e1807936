"""Keypoints, of which an image may have many of one type: target maps, points read back from maps, scores."""
