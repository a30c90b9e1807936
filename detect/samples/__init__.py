"""Two small datasets inside the package: blood cells (BCCD, MIT) and cell nuclei (Data Science Bowl 2018, CC0)."""

from __future__ import annotations

from pathlib import Path

SAMPLES = ("bccd", "nuclei")


def sample_annotations(name: str) -> Path:
    """The COCO file of a sample.

    >>> sample_annotations("bccd").name
    'annotations.json'
    """
    if name not in SAMPLES:
        raise ValueError(f"sample {name!r} is not one of {SAMPLES}")
    return Path(__file__).parent / name / "annotations.json"
