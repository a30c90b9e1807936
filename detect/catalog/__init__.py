"""Detectors known by name: what each expects of its anchors, and how it matches them."""
