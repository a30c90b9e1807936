"""The best pairs of anchor and class of each level: those whose score is above the threshold of their class, at most k.

Thresholds are one number for all classes, or one for each. Scores are sigmoids, in single precision at least. Equal scores
are in the order anchor, class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detect.ops.boxes import at_most, to_device

Thresholds = Sequence[float]


class Pairs(NamedTuple):
    """Pairs of anchor and class of all images, with their scores."""

    image: Int64[Tensor, " n"]
    anchor: Int64[Tensor, " n"]
    classes: Int64[Tensor, " n"]
    scores: Float[Tensor, " n"]


def best_pairs(
    logits: Float[Tensor, "b a c"], num_per_level: Sequence[int], *, thresholds: Thresholds, topk_per_level: int
) -> Pairs:
    """The best pairs of all images, sorted by image, level and falling score.

    >>> pairs = best_pairs(torch.tensor([[[1.0, 0.0], [-1.0, 0.5]]]), [2], thresholds=(0.6,), topk_per_level=9)
    >>> pairs.anchor, pairs.classes  # sigmoids are .73, .5, .27 and .62
    (tensor([0, 1]), tensor([0, 1]))
    """
    lowest = min(_logit_below(score, logits.dtype) for score in thresholds)
    image, anchor = (~(logits.amax(dim=-1) <= lowest)).nonzero(as_tuple=True)  # few anchors have any class above it
    rows = logits[image, anchor]
    row, classes = (rows > _logits_below(thresholds, rows)).nonzero(as_tuple=True)
    scores = rows[row, classes].to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    above = scores > thresholds_of(classes, thresholds, scores)
    row, classes, scores = row[above], classes[above], scores[above]
    image, anchor = image[row], anchor[row]
    ends = to_device(torch.tensor(num_per_level).cumsum(dim=0), logits.device)
    part = image * len(ends) + torch.bucketize(anchor, ends, right=True)
    order = scores.argsort(descending=True, stable=True)
    order = order[part[order].argsort(stable=True)]
    part = part[order]
    rank = torch.arange(len(part), device=part.device) - torch.searchsorted(part, part)
    order = order[rank < topk_per_level]
    return Pairs(image[order], anchor[order], classes[order], scores[order])


def top_pairs(
    logits: Float[Tensor, "b a c"],
    num_per_level: Sequence[int],
    *,
    thresholds: Thresholds,
    topk_per_level: int,
    most: int,
) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Anchor, class and score of the ``most`` best pairs of each image, in falling order of score.

    No shape depends on the data: pairs that are not above their threshold have score 0.
    """
    if len(thresholds) > 1:  # what is below the threshold of its class takes no place of another class
        logits = logits.where(logits > _logits_below(thresholds, logits), -math.inf)
    start, num_classes = 0, logits.shape[-1]
    values, pairs = [], []
    for level in torch.split(logits, list(num_per_level), dim=1):
        count = min(topk_per_level, most)
        best = level.amax(dim=-1)  # the best pairs are in the best rows
        anchor = best.topk(at_most(count, best.shape[1])).indices
        value, place = rows_of(level, anchor).flatten(1).topk(at_most(count, anchor.shape[1] * num_classes))
        values.append(value)
        pairs.append((start + anchor.gather(1, place // num_classes)) * num_classes + place % num_classes)
        start += level.shape[1]
    joined = torch.cat(values, dim=1)
    scores = joined.to(torch.promote_types(joined.dtype, torch.float32)).sigmoid()
    scores, place = scores.topk(at_most(most, scores.shape[1]))
    pair = torch.cat(pairs, dim=1).gather(1, place)
    ties = scores[:, None] == scores[..., None]
    ahead = (scores[:, None] > scores[..., None]) | (ties & (pair[:, None] < pair[..., None]))
    order = ahead.sum(dim=-1).argsort()  # ONNX has no stable sort
    pair, scores = pair.gather(1, order), scores.gather(1, order)
    classes = pair % num_classes
    return pair // num_classes, classes, scores.where(scores > thresholds_of(classes, thresholds, scores), 0)


def thresholds_of(
    classes: Int64[Tensor, "*n"], thresholds: Thresholds, scores: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"] | float:
    """The score threshold of each class, in the precision of the scores."""
    if len(thresholds) == 1:
        return thresholds[0]
    return to_device(torch.tensor(thresholds, dtype=scores.dtype), classes.device)[classes]


def rows_of(values: Float[Tensor, "b a d"], rows: Int64[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Rows of each image's values, by index."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def _logits_below(thresholds: Thresholds, logits: Float[Tensor, "*n c"]) -> Float[Tensor, " c"] | float:
    below = [_logit_below(score, logits.dtype) for score in thresholds]
    if len(below) == 1:
        return below[0]
    return to_device(torch.tensor(below, dtype=logits.dtype), logits.device)


def _logit_below(score: float, dtype: torch.dtype) -> float:
    """A logit a little below that of a score, so that rounding never puts a higher score under it."""
    if score == 0:
        return -math.inf
    logit = math.log(score / (1 - score))
    return logit - 4 * torch.finfo(dtype).eps * (1 + abs(logit)) / (1 - score)
