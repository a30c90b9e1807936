"""Sweep over resize rules: metrics, small boxes, anchors and operations at several input sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_convention import Convention
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import COVERED, anchor_metrics
from detect.data import CocoDataset
from detect.data.resize import LARGEST_SIDE_PX, ResizeRule, parse_resize
from detect.errors import ResizeError
from detect.ops.exact_sums import mean_or_nan

SMALL_PX = (8, 16, 32)
MAX_LISTED = 1000  # annotation ids in a JSON object


@dataclass(frozen=True, eq=False, kw_only=True)
class Setting:
    """A dataset under one resize rule, and the metrics and cost of its anchors."""

    resize: str
    anchors: AnchorSet
    grid_average_iou: float
    grid_recall: float
    missed: Int64[ndarray, " m"]
    """Ids of the missed annotations; an annotation in several tiles can be listed several times."""
    under_px: tuple[float, ...]
    """Share of the instances with sqrt(area) below each of ``SMALL_PX``."""
    num_anchors: float
    """Mean number of anchors per image, over all its tiles; likewise the head's operations ``flops``."""
    flops: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "resize": self.resize,
            "levels": [msgspec.to_builtins(level) for level in self.anchors.levels],
            "grid_average_iou": self.grid_average_iou,
            "grid_recall": self.grid_recall,
            "missed": len(self.missed),
            "missed_ids": self.missed[:MAX_LISTED].tolist(),
            "under_px": {str(size): share for size, share in zip(SMALL_PX, self.under_px, strict=True)},
            "anchors": self.num_anchors,
            "flops": self.flops,
        }


def sweep_resize(
    dataset: CocoDataset,
    anchors: AnchorSet | Callable[[ResizedInstances], AnchorSet],
    *,
    rules: Sequence[str | ResizeRule],
    head: HeadSize | None = None,
    threshold: float = COVERED,
    convention: str | Convention = "exact",
) -> tuple[Setting, ...]:
    """Compute metrics and costs of anchors on a dataset under each of several resize rules.

    Args:
        dataset: boxes in pixels of their images.
        anchors: one set for all rules, or a function that fits a set to instances, such as ``partial(fit_anchors, k=9)``.
        rules: resize rules or their texts; :func:`rules_of_sizes` makes them.
        head: the head whose operations are counted; by default RetinaNet's, with the dataset's number of categories.
        threshold: IoU on the grid from which an instance counts as covered.
        convention: stride mode and rounding of corners.

    Raises:
        ResizeError: a text is not a resize rule.
        ValueError: the convention is not known.

    >>> from detect.anchors.known import load_anchors
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> rules = rules_of_sizes("letterbox:640", [320, 640])
    >>> small, large = sweep_resize(read_coco(sample_annotations("bccd")), load_anchors("retinanet"), rules=rules)
    >>> small.grid_recall < large.grid_recall, round(large.flops / small.flops, 1)
    (True, 4.0)
    """
    head = head or HeadSize.of_dataset(dataset)
    settings = []
    for rule in map(parse_resize, rules):
        instances = ResizedInstances.of(dataset, rule)
        own = anchors if isinstance(anchors, AnchorSet) else anchors(instances)
        metrics = anchor_metrics(instances, own, convention=convention)
        costs = level_costs(instances.image_canvas_wh, own, head)
        tiles_per_image = len(instances.dataset.images) / max(len(dataset.images), 1)
        size = np.sqrt(instances.shapes.prod(axis=1))
        settings.append(
            Setting(
                resize=str(rule),
                anchors=own,
                grid_average_iou=metrics.grid_average_iou,
                grid_recall=metrics.grid_recall(threshold),
                missed=instances.dataset.instances.ids[metrics.missed(threshold)],
                under_px=tuple(mean_or_nan(size < limit) for limit in SMALL_PX),
                num_anchors=tiles_per_image * sum(cost.anchors for cost in costs),
                flops=tiles_per_image * sum(cost.flops for cost in costs),
            )
        )
    return tuple(settings)


def rules_of_sizes(rule: str | ResizeRule, sizes: Sequence[int]) -> tuple[ResizeRule, ...]:
    """Replace a rule's first size by each of these; a second size keeps its ratio to the first.

    >>> [str(each) for each in rules_of_sizes("shortest:800:1333", [400, 1200])]
    ['shortest:400:666', 'shortest:1200:2000']

    Raises:
        ResizeError: the rule has no size, or a size is not from 1 to 65,536 pixels.
    """
    rule = parse_resize(rule)
    if not rule.sizes:
        raise ResizeError(
            f"resize rule '{rule}' has no size to change: use stretch:WxH, letterbox:S, shortest:S:MAX or tiles:S:OVERLAP"
        )
    rules = []
    for size in sizes:
        scaled = tuple(max(min(1, own), round(size * own / rule.sizes[0])) for own in rule.sizes)
        rules.append(replace(rule, sizes=scaled))
        if size < 1 or max(scaled) > LARGEST_SIDE_PX:
            raise ResizeError(
                f"resize rule '{rules[-1]}' for size {size}: sizes are whole pixels from 1 to {LARGEST_SIDE_PX}"
            )
    return tuple(rules)
