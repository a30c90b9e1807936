"""Whole detectors: a backbone, a pyramid and a head, with their losses and what is read from their outputs."""
