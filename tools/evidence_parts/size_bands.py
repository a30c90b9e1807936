"""Weights of positives by size inside each category: whether small and large instances of one class should be evened out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from detect.anchors.assignment import Assignment
from detect.anchors.assignment_sums import balanced_weights
from detect.anchors.instances import rows_by_value
from detect.heads.criterion import Learned, RetinaNetCriterion

NUM_BANDS = 3  # of a category: thirds of its instances by area


@dataclass(frozen=True, eq=False)
class SizeBands:
    """Bands of area inside each class, with a weight for each."""

    edges: Float64[ndarray, "k b-1"]
    """Upper areas of all bands but the last, in pixels² of the network's input."""
    weights: Float64[ndarray, "k b"]

    @classmethod
    def of(cls, assignment: Assignment, num_bands: int = NUM_BANDS) -> SizeBands:
        """Bands of equally many instances, weighed as categories are: inversely to their mean positives."""
        areas = assignment.instances.shapes.prod(axis=1)
        positives = assignment.positives.sum(axis=1)
        of_category = rows_by_value(assignment.instances.dataset.instances.category_ids)
        shares = np.arange(1, num_bands) / num_bands
        edges = np.stack([np.quantile(areas[of_category[category]], shares) for category in sorted(of_category)])
        means: dict[int, float] = {}
        counts: dict[int, int] = {}
        for number, category in enumerate(sorted(of_category)):
            rows = of_category[category]
            bands = np.searchsorted(edges[number], areas[rows])
            for band in range(num_bands):
                own = positives[rows[bands == band]]
                means[number * num_bands + band], counts[number * num_bands + band] = float(own.mean()), len(own)
        weights = balanced_weights(means, counts)
        return cls(edges, np.array([weights[each] for each in sorted(weights)]).reshape(-1, num_bands))


class BandedCriterion(RetinaNetCriterion):
    """Another criterion, with positive anchors weighed by the band of their instance's area."""

    edges: Tensor
    weights: Tensor

    def __init__(self, like: RetinaNetCriterion, bands: SizeBands) -> None:
        super().__init__()
        vars(self).update(
            {name: dict(value) if isinstance(value, dict) else value for name, value in vars(like).items()}
        )
        self.register_buffer("edges", torch.tensor(bands.edges, dtype=torch.float32), persistent=False)
        self.register_buffer("weights", torch.tensor(bands.weights, dtype=torch.float32), persistent=False)

    def anchor_weights(self, learned: Learned) -> Float[Tensor, "b a"]:
        """The weight of each positive anchor; 1 for the others."""
        entries = learned.image, learned.anchor
        own = learned.classes[entries]
        area = (learned.boxes[:, 2:] - learned.boxes[:, :2]).prod(dim=1)
        band = torch.searchsorted(self.edges[own], area[:, None])[:, 0]
        return torch.ones(learned.classes.shape, device=own.device).index_put(entries, self.weights[own, band])
