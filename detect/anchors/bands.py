"""Kinds of instances that are scored apart: by size, by ratio, by category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.instances import ResizedInstances
from detect.shapes import MEDIUM_LARGE_PX, SMALL_MEDIUM_PX

RATIO_EDGES = (1 / 3, 2 / 3, 3 / 2, 3.0)


@dataclass(frozen=True, eq=False)
class Band:
    """Some of the instances, by their rows."""

    name: str
    rows: Int64[ndarray, " m"]


def size_bands(instances: ResizedInstances) -> tuple[Band, ...]:
    """Small, medium and large, by the square root of the area after the resize rule (COCO's 32 and 96 pixels)."""
    size = np.sqrt(instances.shapes.prod(axis=1))
    names = (f"small, under {SMALL_MEDIUM_PX:.0f} px", "medium", f"large, from {MEDIUM_LARGE_PX:.0f} px")
    return banded(size, (SMALL_MEDIUM_PX, MEDIUM_LARGE_PX), names)


def ratio_bands(instances: ResizedInstances) -> tuple[Band, ...]:
    """Bands of height / width."""
    ratio = instances.shapes[:, 1] / instances.shapes[:, 0]
    names = ("wide, h/w under 1/3", "h/w 1/3 to 2/3", "h/w 2/3 to 3/2", "h/w 3/2 to 3", "tall, h/w from 3")
    return banded(ratio, RATIO_EDGES, names)


def category_bands(instances: ResizedInstances) -> tuple[Band, ...]:
    """One band for each category that has instances, in the order of their ids."""
    ids, rows = np.unique(instances.dataset.instances.category_ids, return_inverse=True)
    order = np.argsort(rows, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(rows, minlength=len(ids)))[:-1])
    name = instances.dataset.category_name
    return tuple(Band(name(int(key)), part) for key, part in zip(ids, parts, strict=False) if len(part))


def banded(values: Float64[ndarray, " n"], edges: Sequence[float], names: Sequence[str]) -> tuple[Band, ...]:
    """A band for each interval between edges; a value on an edge belongs above it.

    >>> [band.rows.tolist() for band in banded(np.array([5.0, 32.0, 7.0]), (32.0,), ("small", "large"))]
    [[0, 2], [1]]
    """
    band = np.searchsorted(edges, values, side="right")
    return tuple(Band(name, np.flatnonzero(band == number)) for number, name in enumerate(names))
