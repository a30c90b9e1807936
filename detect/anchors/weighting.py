"""How much each instance counts in a fit: rare categories or sizes raised to the others, or factors of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.bands import Band, category_bands, size_bands
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.errors import FitError

BALANCES = ("none", "category", "size")


def instance_weights(
    instances: ResizedInstances, *, balance: str = "none", factors: Mapping[str, float] | None = None
) -> Float64[ndarray, " n"]:
    """A weight for each instance; their mean is 1.

    Args:
        instances: boxes after the detector's resize rule.
        balance: ``category`` or ``size`` (small, medium, large): each that has instances has the same weight in all.
        factors: by the name of a category, or ``small``, ``medium`` or ``large``; they multiply.

    Raises:
        FitError: a name is neither; or nothing has a weight.
        ValueError: another balance, or a factor below 0 or not finite.

    >>> from detect.coco import read_coco
    >>> from detect.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), parse_resize("none"))
    >>> weights = instance_weights(instances, balance="category")
    >>> [float(round(weights[band.rows].sum() / len(instances), 3)) for band in category_bands(instances)]
    [0.333, 0.333, 0.333]
    """
    if balance not in BALANCES:
        raise ValueError(f"balance {balance!r} is not one of {', '.join(BALANCES)}")
    categories, sizes = category_bands(instances), size_bands(instances)
    weights = np.ones(len(instances))
    for band in {"none": (), "category": categories, "size": sizes}[balance]:
        weights[band.rows] = 1 / max(len(band.rows), 1)
    named = {band.name.split(",")[0]: band for band in sizes} | {band.name: band for band in categories}
    for name, factor in (factors or {}).items():
        if not 0 <= factor < np.inf:
            raise ValueError(f"weight of {name!r} must be a finite number from 0, got {factor}")
        weights[_band(named, name, instances).rows] *= factor
    if len(weights) and not weights.any():
        raise FitError("all instances have weight 0")
    return weights / (weights.mean() if len(weights) else 1.0)


def weighted_histograms(
    shapes: Float64[ndarray, "n 2"], weights: Float64[ndarray, " n"], cells_per_octave: int
) -> tuple[list[ShapeHistogram], list[float]]:
    """A histogram for each weight above 0 that occurs, and these weights.

    >>> histograms, weights = weighted_histograms(np.ones((3, 2)), np.array([2.0, 0.5, 0.5]), 16)
    >>> [histogram.num_boxes for histogram in histograms], weights
    ([2, 1], [0.5, 2.0])
    """
    values = np.unique(weights[weights > 0])
    parts = [ShapeHistogram.of(shapes[weights == value], cells_per_octave=cells_per_octave) for value in values]
    return parts, values.tolist()


def _band(named: Mapping[str, Band], name: str, instances: ResizedInstances) -> Band:
    if name in named:
        return named[name]
    if name in _names(instances):
        return Band(name, np.zeros(0, np.int64))
    raise FitError(
        f"no category or size is named {name!r}: {', '.join([*_names(instances)[:20], 'small', 'medium', 'large'])}"
    )


def _names(instances: ResizedInstances) -> Sequence[str]:
    dataset = instances.dataset
    return [dataset.category_name(key) for key in sorted(dataset.categories)]
