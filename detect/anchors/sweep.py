"""What a larger input buys: coverage, small boxes, anchors and operations under several resize settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import anchor_metrics
from detect.data import CocoDataset
from detect.data.resize import LARGEST_SIDE_PX, ResizeRule
from detect.errors import ResizeError

COVERED = 0.5
SMALL_PX = (8, 16, 32)
MAX_LISTED = 1000  # annotation ids in a JSON object; their number is always whole


@dataclass(frozen=True, eq=False)
class Setting:
    """A dataset under one resize rule."""

    resize: str
    anchors: AnchorSet
    grid_average_iou: float
    grid_recall: float
    uncovered: Int64[ndarray, " m"]
    """Ids of the annotations that no anchor of the grid reaches; one in several tiles may stand here several times."""
    under_px: tuple[float, ...]
    """Shares of the instances whose size (the square root of the area) is under each of ``SMALL_PX``."""
    num_anchors: float
    flops: float
    """Both for an image, all its tiles together, on average; operations are the head's."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "resize": self.resize,
            "levels": [
                {"name": level.name, "stride": level.stride, "shapes": [list(shape) for shape in level.shapes]}
                for level in self.anchors.levels
            ],
            "grid_average_iou": self.grid_average_iou,
            "grid_recall": self.grid_recall,
            "uncovered": len(self.uncovered),
            "uncovered_ids": self.uncovered[:MAX_LISTED].tolist(),
            "under_px": {str(size): share for size, share in zip(SMALL_PX, self.under_px, strict=True)},
            "anchors": self.num_anchors,
            "flops": self.flops,
        }


def sweep_resize(
    dataset: CocoDataset,
    anchors: AnchorSet | Callable[[ResizedInstances], AnchorSet],
    rules: Sequence[ResizeRule],
    head: HeadSize | None = None,
    *,
    threshold: float = COVERED,
    strides: str = "exact",
    rounded: bool = False,
) -> tuple[Setting, ...]:
    """A dataset under each of some resize rules.

    Args:
        dataset: boxes in pixels of their images.
        anchors: the same for every rule, or what fits some to the instances of each, such as ``partial(fit_anchors, k=9)``.
        rules: such as those of :func:`rules_of_sizes`.
        head: what operations are counted for; by default RetinaNet's, for the categories of the dataset.
        threshold: IoU on the grid from which an instance counts as covered.
        strides: how anchors are laid, see :class:`detect.anchors.generator.AnchorGenerator`.
        rounded: likewise.

    >>> from detect.anchors.known import load_anchors
    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> rules = rules_of_sizes(parse_resize("letterbox:640"), [320, 640])
    >>> small, large = sweep_resize(read_coco(sample_annotations("bccd")), load_anchors("retinanet"), rules)
    >>> small.grid_recall < large.grid_recall, round(large.flops / small.flops, 1)
    (True, 4.0)
    """
    head = head or HeadSize(max(1, len(dataset.categories)))
    settings = []
    for rule in rules:
        instances = ResizedInstances.of(dataset, rule)
        own = anchors if isinstance(anchors, AnchorSet) else anchors(instances)
        score = anchor_metrics(instances, own, strides=strides, rounded=rounded)
        images = instances.dataset.images
        costs = level_costs(rule.resize_images(images.wh).canvas_wh, own, head)
        inputs = len(images) / max(len(dataset.images), 1)  # tiles to an image
        size = np.sqrt(instances.shapes.prod(axis=1))
        settings.append(
            Setting(
                str(rule),
                own,
                score.grid_average_iou,
                score.grid_recall(threshold),
                instances.dataset.instances.ids[score.uncovered(threshold)],
                tuple(float((size < limit).mean()) if len(size) else float("nan") for limit in SMALL_PX),
                inputs * sum(cost.anchors for cost in costs),
                inputs * sum(cost.flops for cost in costs),
            )
        )
    return tuple(settings)


def rules_of_sizes(rule: ResizeRule, sizes: Sequence[int]) -> tuple[ResizeRule, ...]:
    """The rule with its first size replaced by each of these; a second one keeps its ratio to the first.

    >>> from detect.data.resize import parse_resize
    >>> [str(each) for each in rules_of_sizes(parse_resize("shortest:800:1333"), [400, 1200])]
    ['shortest:400:666', 'shortest:1200:2000']

    Raises:
        ResizeError: the rule has no size, or a size is not from 1 to 65,536 pixels.
    """
    if not rule.sizes:
        raise ResizeError(
            f"resize rule '{rule}' has no size to change: use stretch:WxH, letterbox:S, shortest:S:MAX or tiles:S:OVERLAP"
        )
    first = rule.sizes[0]
    rules = [
        replace(rule, sizes=tuple(max(min(1, own), round(size * own / first)) for own in rule.sizes)) for size in sizes
    ]
    for size, each in zip(sizes, rules, strict=True):
        if size < 1 or max(each.sizes) > LARGEST_SIDE_PX:
            raise ResizeError(
                f"resize rule '{each}' for size {size}: sizes are whole pixels from 1 to {LARGEST_SIDE_PX}"
            )
    return tuple(rules)
