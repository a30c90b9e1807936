"""What a RetinaNet head learns: anchors matched to instances, and the losses of its output (Lin et al. 2017, 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detect.anchors.generator import GridAnchors
from detect.heads.image_targets import ImageTargets, checked_targets
from detect.heads.retinanet import HeadOutput
from detect.losses import (
    ciou_loss,
    diou_loss,
    focal_loss,
    giou_loss,
    image_normalizer,
    l1_loss,
    quality_focal_loss,
    smooth_l1_loss,
)
from detect.ops.boxes import BoxCoder, Coder, matched_iou, to_device
from detect.ops.matcher import Matcher, MaxIoU, Predictions, SoftMatcher, ignore_regions
from detect.ops.uncompiled import uncompiled

Normalizer = Callable[[Tensor], Tensor]
RowLoss = Callable[[Tensor, Tensor], Tensor]

CLASS_LOSSES = ("focal", "quality_focal")
IOU_LOSSES: dict[str, RowLoss] = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


class RetinaNetLosses(NamedTuple):
    """The two losses of a batch, normalised already: training minimises their sum."""

    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class Learned:
    """What the anchors of a batch learn; image, anchor and box have a row for each positive anchor."""

    classes: Int64[Tensor, "b a"]
    image: Int64[Tensor, " n"]
    anchor: Int64[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    soft: Float[Tensor, "b a"] | None
    """Targets of the scores, if the matcher gives them."""
    amounts: Tensor
    """What the normalizer divides by: positives, or the sum of their soft targets, of each image."""
    weights: Float[Tensor, "b a"] | None = None


class RetinaNetCriterion(nn.Module):
    """Matches anchors to instances and computes the losses of a head's output.

    On an accelerator it waits for the device only where a size depends on the data: once a batch for the check of targets,
    once for the number of positives, twice in the focal loss and once more for the quality focal loss. Only above
    :data:`~detect.ops.matcher.DENSE_PAIRS` pairs of anchor and instance :class:`~detect.ops.matcher.MaxIoU` waits too, for
    each image; ATSS and SimOTA always do, and task-aligned assignment by ultralytics' rule.

    ``torch.compile`` runs it uncompiled: the number of matches depends on the data, and the focal loss is one operator
    already.

    Args:
        matcher: which anchors are positive, ignored and background; by default :class:`~detect.ops.matcher.MaxIoU`.
        box_loss: ``"l1"`` or ``"smooth_l1"`` of the deltas; ``"giou"``, ``"diou"`` or ``"ciou"`` of the decoded boxes.
        beta: of the smooth L1 loss.
        box_weight: factor of the box loss.
        class_loss: ``"focal"``, or ``"quality_focal"`` (Li et al. 2020), whose target for the class of a positive anchor is
            the IoU of its predicted box with its instance. A matcher with a ``quality`` gives the target instead, which then
            also weighs the box loss, and the divisor is their sum instead of the number of positives.
        alpha: weight of positives in the focal loss, -1 for none, see :func:`detect.losses.focal_loss`.
        gamma: exponent of either class loss.
        positive_weights: a factor for each class on the losses of its positive anchors, by default 1, see
            :func:`detect.anchors.positive_weights.positive_weights`. Negatives and the divisor stay as they are.
        normalizer: maps the number of positives of each image to the divisor of its losses:
            :func:`detect.losses.image_normalizer` as torchvision, :func:`detect.losses.batch_normalizer` as mmdetection,
            :class:`detect.losses.EmaNormalizer` as detectron2.
    """

    positive_weights: Tensor | None
    divisor: Tensor
    """The mean divisor of the last batch."""

    def __init__(
        self,
        *,
        matcher: Matcher | None = None,
        coder: Coder | None = None,
        box_loss: str = "l1",
        beta: float = 1.0,
        box_weight: float = 1.0,
        class_loss: str = "focal",
        alpha: float = 0.25,
        gamma: float = 2.0,
        positive_weights: Sequence[float] | None = None,
        normalizer: Normalizer = image_normalizer,
    ) -> None:
        super().__init__()
        losses: dict[str, RowLoss] = {"l1": l1_loss, "smooth_l1": partial(smooth_l1_loss, beta=beta), **IOU_LOSSES}
        if box_loss not in losses:
            raise ValueError(f"box_loss {box_loss!r} is not one of {', '.join(losses)}")
        if class_loss not in CLASS_LOSSES:
            raise ValueError(f"class_loss {class_loss!r} is not one of {', '.join(CLASS_LOSSES)}")
        self.matcher: Matcher = matcher or MaxIoU()
        self.coder: Coder = coder or BoxCoder()
        self.box_loss = losses[box_loss]
        self.decodes_boxes = box_loss in IOU_LOSSES
        self.box_weight = box_weight
        self.class_loss = class_loss
        self.alpha = alpha
        self.gamma = gamma
        self.register_buffer("positive_weights", None, persistent=False)
        self.weigh_positives(positive_weights)
        self.normalizer = normalizer

    def weigh_positives(self, weights: Sequence[float] | None) -> None:
        """Set ``positive_weights``.

        Raises:
            ValueError: a weight is not a finite number above 0.
        """
        if weights is not None and not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"positive_weights are finite and above 0, got {list(weights)}")
        self.positive_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def match(
        self, anchors: GridAnchors, targets: Sequence[ImageTargets], output: HeadOutput | None = None
    ) -> Int64[Tensor, "b a"]:
        """For each image and anchor the row of an instance, ``BACKGROUND`` or ``IGNORE``.

        A matcher that chooses by predictions needs the head's ``output``.
        """
        targets = checked_targets(targets)
        return self._match(anchors, targets, self._predictions(output, anchors, targets))[0]

    @torch.no_grad()
    def _predictions(
        self, output: HeadOutput | None, anchors: GridAnchors, targets: Sequence[ImageTargets]
    ) -> Sequence[Predictions | None]:
        """The predictions for each image, None if the matcher does not read them."""
        if output is None or not self.matcher.uses_predictions:
            return [None] * len(targets)
        parts = zip(output.logits, output.deltas, targets, strict=True)
        return [
            Predictions(logits, self.coder.decode(deltas, anchors.boxes), own.classes) for logits, deltas, own in parts
        ]

    @torch.no_grad()
    def _match(
        self, anchors: GridAnchors, targets: Sequence[ImageTargets], predictions: Sequence[Predictions | None]
    ) -> tuple[Int64[Tensor, "b a"], Float[Tensor, "b a"] | None]:
        """The matches, and the targets of positive anchors' scores where the matcher gives some and the loss takes them."""
        matcher, rows, soft = self.matcher, [], []
        for image, predicted in zip(targets, predictions, strict=True):
            if self.class_loss != "focal" and isinstance(matcher, SoftMatcher):
                matches, quality = matcher.match_softly(anchors.level_grids, image.boxes, predicted)
                soft.append(quality)
            else:
                matches = matcher.match(anchors.level_grids, image.boxes, predicted)
            if image.ignored is not None:
                matches = ignore_regions(matches, anchors.boxes, image.ignored)
            rows.append(matches)
        return torch.stack(rows), torch.stack(soft) if soft else None

    @uncompiled
    def forward(self, output: HeadOutput, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> RetinaNetLosses:
        """The losses of a batch; raises ValueError if sizes differ, or as :func:`checked_targets`."""
        _check_sizes(output, anchors, targets)
        self._check_weights(output.logits.shape[2])
        learned = self._learned(output, anchors, checked_targets(targets, num_classes=output.logits.shape[2]))
        divisors = self.normalizer(learned.amounts)
        self.divisor = divisors.detach().mean()
        class_sums, box_rows = self._class_sums(output, anchors, learned), self._box_rows(output, anchors, learned)
        box = (box_rows / divisors[learned.image]).sum() * self.box_weight
        return RetinaNetLosses((class_sums / divisors).sum(), box)

    def _learned(self, output: HeadOutput, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> Learned:
        matches, soft = self._match(anchors, targets, self._predictions(output, anchors, targets))
        image, anchor = torch.nonzero(matches >= 0, as_tuple=True)
        instance = matches[image, anchor]
        classes = matches.clone()  # BACKGROUND and IGNORE are classes already
        classes[image, anchor] = _matched_rows([each.classes for each in targets], image, instance)
        boxes = _matched_rows([each.boxes for each in targets], image, instance)
        amounts = (matches >= 0).sum(dim=1) if soft is None else soft.sum(dim=1)
        learned = Learned(classes, image, anchor, boxes, soft, amounts)
        return replace(learned, weights=self.anchor_weights(learned))

    def anchor_weights(self, learned: Learned) -> Float[Tensor, "b a"] | None:
        """A factor for each positive anchor, by its class; a subclass may use its instance's box."""
        weights = self.positive_weights
        return None if weights is None else to_device(weights, learned.classes.device)[learned.classes.clamp(min=0)]

    def _class_sums(self, output: HeadOutput, anchors: GridAnchors, learned: Learned) -> Float[Tensor, " b"]:
        weights = learned.weights
        if self.class_loss == "focal":
            return focal_loss(
                output.logits, learned.classes, alpha=self.alpha, gamma=self.gamma, positive_weights=weights
            )
        quality = learned.soft
        if quality is None:
            entries = learned.image, learned.anchor
            predicted = self.coder.decode(output.deltas[entries].detach(), anchors.boxes[learned.anchor])
            iou = matched_iou(predicted, learned.boxes)
            quality = iou.new_zeros(learned.classes.shape).index_put(entries, iou)
        return quality_focal_loss(
            output.logits, learned.classes, quality=quality, gamma=self.gamma, positive_weights=weights
        )

    def _box_rows(self, output: HeadOutput, anchors: GridAnchors, learned: Learned) -> Float[Tensor, " n"]:
        deltas, matched = output.deltas[learned.image, learned.anchor], anchors.boxes[learned.anchor]
        if self.decodes_boxes:
            rows = self.box_loss(self.coder.decode(deltas, matched), learned.boxes)
        else:
            rows = self.box_loss(deltas, self.coder.encode(learned.boxes, matched))
        for factors in (learned.weights, learned.soft):
            rows = rows if factors is None else rows * factors[learned.image, learned.anchor]
        return rows

    def _check_weights(self, num_classes: int) -> None:
        if self.positive_weights is not None and len(self.positive_weights) != num_classes:
            raise ValueError(f"{len(self.positive_weights)} positive_weights for {num_classes} classes")


def _matched_rows(images: list[Tensor], image: Int64[Tensor, " n"], instance: Int64[Tensor, " n"]) -> Tensor:
    """The row of each positive anchor's instance, from one tensor for each image."""
    counts = torch.tensor([len(rows) for rows in images])
    first = to_device(counts.cumsum(0) - counts, image.device)
    return torch.cat(images)[first[image] + instance]


def _check_sizes(output: HeadOutput, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> None:
    num_images, num_anchors = output.logits.shape[:2]
    if num_anchors != len(anchors.boxes):
        levels = ", ".join(map(str, anchors.num_per_level))
        raise ValueError(f"the head gave {num_anchors} rows for {len(anchors.boxes)} anchors ({levels} on its levels)")
    if output.deltas.shape != (num_images, num_anchors, 4):
        raise ValueError(
            f"deltas are ({num_images}, {num_anchors}, 4), one row for each of the logits, got {tuple(output.deltas.shape)}"
        )
    if num_images != len(targets):
        raise ValueError(f"targets of {len(targets)} images for outputs of {num_images}")
