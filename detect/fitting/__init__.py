"""Fit anchors to boxes: objectives, one solver, its certificate, and baselines."""
