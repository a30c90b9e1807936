"""Which instance each anchor learns: maximum IoU (sparse on lattices, chunked on any boxes), ATSS, ignored regions.

A match is the row of an instance, ``BACKGROUND`` or ``IGNORE``. Boxes are (x0, y0, x1, y1) in continuous pixels. Without
instances every anchor is background. An instance that overlaps no anchor makes none positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detect.conventions import BACKGROUND, IGNORE
from detect.ops.boxes import matched_iou, pairwise_ioa, pairwise_iou

CHUNK_PAIRS = 2**22  # pairs of anchor and instance looked at together


@dataclass(frozen=True)
class MaxIoU:
    """The rule of Lin et al. 2017, section 4.1: positive from ``foreground`` on, background below ``background``.

    ``low_quality`` gives every instance its best anchors (all that tie), however low their IoU, if only it is above 0.
    ``"own"``, as in torchvision and detectron2: such an anchor takes the instance that it overlaps most itself.
    ``"forced"``, as in mmdetection: it takes the instance whose best it is, of several the last. None leaves them out.
    """

    foreground: float = 0.5
    background: float = 0.4
    low_quality: str | None = "own"

    def __post_init__(self) -> None:
        if not 0 < self.background <= self.foreground <= 1:
            raise ValueError(f"need 0 < background <= foreground <= 1, got {self.background=}, {self.foreground=}")
        if self.low_quality not in ("own", "forced", None):
            raise ValueError(f"low_quality is 'own', 'forced' or None, got {self.low_quality!r}")


@dataclass(frozen=True)
class Atss:
    """Adaptive training sample selection, with so many candidates of each level: see :func:`match_atss`."""

    num_candidates: int = 9

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"need num_candidates from 1, got {self.num_candidates}")


def match_boxes(
    anchors: Float[Tensor, "a 4"], boxes: Float[Tensor, "n 4"], rule: MaxIoU | None = None
) -> Int64[Tensor, " a"]:
    """Match any anchors by maximum IoU, some instances at a time: memory is O(a), whatever the number of instances.

    >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 22.0], [50.0, 50.0, 60.0, 60.0]])
    >>> match_boxes(anchors, torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    tensor([ 0, -2, -1])
    """
    rule = rule or MaxIoU()
    best = anchors.new_zeros(len(anchors))
    instance = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    best_of_instance = [anchors.new_zeros(0)]
    step = max(1, CHUNK_PAIRS // max(len(anchors), 1))
    for start in range(0, len(boxes), step):
        iou = pairwise_iou(boxes[start : start + step], anchors)
        value, row = iou.max(dim=0)
        better = value > best  # strictly: of equals the first stays
        best, instance = torch.where(better, value, best), torch.where(better, row + start, instance)
        best_of_instance.append(iou.max(dim=1).values if len(anchors) else iou.new_zeros(len(iou)))
    matches = graded(best, instance, rule)
    if not rule.low_quality:
        return matches
    tops = torch.cat(best_of_instance)
    for start in range(0, len(boxes), step):
        top = tops[start : start + step, None]
        rows, at = torch.nonzero((pairwise_iou(boxes[start : start + step], anchors) == top) & (top > 0), as_tuple=True)
        add_low_quality(matches, at, rows + start, instance[at], rule)
    return matches


def match_atss(
    anchors: Sequence[Float[Tensor, "_ 4"]], boxes: Float[Tensor, "n 4"], *, num_candidates: int = 9
) -> Int64[Tensor, " a"]:
    """Adaptive training sample selection (Zhang et al. 2020, section 3.2), for the anchors of each level.

    An instance's candidates are, of each level, the ``num_candidates`` anchors whose centres are nearest. Positive are those
    whose IoU reaches the mean plus the standard deviation of the candidates' IoUs, and whose centre lies inside the
    instance. An anchor that several instances want takes the one that it overlaps most.
    """
    candidates, instances, iou = atss_pairs(anchors, boxes, num_candidates)
    best, instance = best_per_anchor(candidates, iou, instances, sum(map(len, anchors)))
    return torch.where(best > 0, instance, BACKGROUND)


def atss_pairs(
    anchors: Sequence[Float[Tensor, "_ 4"]], boxes: Float[Tensor, "n 4"], num_candidates: int
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"], Float[Tensor, " p"]]:
    """Anchors that each instance would get were it alone (:func:`match_atss`), the instances, and their IoU."""
    every = torch.cat(list(anchors))
    offsets = [0]
    for level in anchors:
        offsets.append(offsets[-1] + len(level))
    candidates = torch.cat(
        [_nearest(level, boxes, num_candidates) + start for level, start in zip(anchors, offsets, strict=False)], dim=1
    )
    row = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(candidates)
    iou = matched_iou(every[candidates.flatten()], boxes[row.flatten()]).view_as(candidates)
    mean = iou.mean(dim=1, keepdim=True)
    deviation = ((iou - mean).square().sum(dim=1, keepdim=True) / max(iou.shape[1] - 1, 1)).sqrt()
    centers = (every[:, :2] + every[:, 2:])[candidates] / 2
    inside = ((centers > boxes[:, None, :2]) & (centers < boxes[:, None, 2:])).all(dim=2)
    wanted = (iou >= mean + deviation) & inside & (iou > 0)
    return candidates[wanted], row[wanted], iou[wanted]


def ignore_regions(
    matches: Int64[Tensor, " a"],
    anchors: Float[Tensor, "a 4"],
    regions: Float[Tensor, "r 4"],
    *,
    threshold: float = 0.5,
) -> Int64[Tensor, " a"]:
    """Background anchors of whose area a region (crowd, unlabelled) covers ``threshold`` take no part in the loss.

    Raises:
        ValueError: other matches than one for each anchor.
    """
    if matches.shape != (len(anchors),):
        raise ValueError(f"{len(anchors)} anchors need one match each, got {tuple(matches.shape)}")
    covered = anchors.new_zeros(len(anchors))
    step = max(1, CHUNK_PAIRS // max(len(anchors), 1))
    for start in range(0, len(regions), step):
        share = pairwise_ioa(anchors, regions[start : start + step])
        covered = torch.maximum(covered, share.max(dim=1).values)
    return torch.where((matches == BACKGROUND) & (covered >= threshold), IGNORE, matches)


def graded(best: Float[Tensor, " a"], instance: Int64[Tensor, " a"], rule: MaxIoU) -> Int64[Tensor, " a"]:
    matches = torch.where(best < rule.foreground, IGNORE, instance)
    return torch.where(best < rule.background, BACKGROUND, matches)


def add_low_quality(
    matches: Int64[Tensor, " a"],
    anchors: Int64[Tensor, " m"],
    triggers: Int64[Tensor, " m"],
    own: Int64[Tensor, " m"],
    rule: MaxIoU,
) -> None:
    """Make these anchors positive, in place; ``triggers`` are the instances whose best they are."""
    if rule.low_quality == "own":
        matches[anchors] = own
    else:
        last = torch.full_like(matches, -1).scatter_reduce_(0, anchors, triggers, "amax")
        torch.where(last >= 0, last, matches, out=matches)


def _nearest(level: Float[Tensor, "a 4"], boxes: Float[Tensor, "n 4"], count: int) -> Int64[Tensor, "n k"]:
    """Rows of the anchors whose centres are nearest to each box's, some boxes at a time."""
    count = min(count, len(level))
    centers = (level[:, :2] + level[:, 2:]) / 2
    parts = [torch.zeros(0, count, dtype=torch.int64, device=level.device)]
    for some in torch.split(boxes, max(1, CHUNK_PAIRS // max(len(level), 1))):
        distance = torch.cdist((some[:, :2] + some[:, 2:]) / 2, centers)
        parts.append(distance.topk(count, dim=1, largest=False).indices)
    return torch.cat(parts)


def best_per_anchor(
    anchors: Int64[Tensor, " m"], iou: Float[Tensor, " m"], instances: Int64[Tensor, " m"], num_anchors: int
) -> tuple[Float[Tensor, " a"], Int64[Tensor, " a"]]:
    """The highest IoU of each anchor over pairs, and the first instance that has it."""
    best = iou.new_zeros(num_anchors).scatter_reduce_(0, anchors, iou, "amax")
    winners = iou == best[anchors]
    none = torch.iinfo(torch.int64).max
    instance = torch.full((num_anchors,), none, dtype=torch.int64, device=iou.device)
    instance.scatter_reduce_(0, anchors[winners], instances[winners], "amin")
    return best, torch.where(instance == none, 0, instance)
