"""What a RetinaNet head learns: anchors matched to instances; the losses of its output (Lin et al. 2017, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detect.anchors.grid import PlacedAnchors
from detect.box_coding import BoxCoder
from detect.box_overlap import matched_iou
from detect.heads.retinanet import HeadOutput
from detect.lattice_matching import match_lattices
from detect.losses import (
    ciou_loss,
    diou_loss,
    focal_loss,
    giou_loss,
    image_divisors,
    l1_loss,
    quality_focal_loss,
    smooth_l1_loss,
)
from detect.matching import Atss, MaxIoU, ignore_regions, match_atss

Divisors = Callable[[Tensor], Tensor]

RowLoss = Callable[[Tensor, Tensor], Tensor]

CLASS_LOSSES = ("focal", "quality_focal")
IOU_LOSSES: dict[str, RowLoss] = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """The instances of one image, boxes (x0, y0, x1, y1) in pixels of the network's input.

    Anchors of which ``ignored`` regions (crowds) cover half are not taught to be background. An image may have no instances.
    """

    boxes: Float[Tensor, "n 4"]
    classes: Int64[Tensor, " n"]
    ignored: Float[Tensor, "r 4"] | None = None


class RetinaNetLosses(NamedTuple):
    """Two numbers, each divided already: their sum is what is minimised."""

    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]


class RetinaNetCriterion(nn.Module):
    """Matches anchors to instances and gives the losses of a head's output; no matrix of anchors and instances is made.

    Beneath ``torch.compile`` it runs as it does without: the number of matches depends on the data, and the focal loss is
    one operator already.

    Args:
        rule: which anchors are positive, ignored, background; by default :class:`~detect.matching.MaxIoU`.
        coder: how boxes are encoded against anchors.
        box_loss: ``"l1"`` or ``"smooth_l1"`` of the deltas; ``"giou"``, ``"diou"`` or ``"ciou"`` of the decoded boxes.
        beta: of the smooth L1 loss.
        box_weight: factor of the box loss.
        class_loss: ``"focal"``, or ``"quality_focal"`` (Li et al. 2020), which teaches a positive anchor's class the IoU of
            its predicted box with its instance.
        alpha: of the focal loss, see :func:`detect.losses.focal_loss`; the other has none.
        gamma: of either.
        divisors: from each image's number of positives what divides its losses: :func:`detect.losses.image_divisors` as
            torchvision, :func:`detect.losses.batch_divisors` as mmdetection, :class:`detect.losses.MovingDivisors` as
            detectron2.

    Raises:
        ValueError: a loss that is not known.
    """

    def __init__(
        self,
        *,
        rule: MaxIoU | Atss | None = None,
        coder: BoxCoder | None = None,
        box_loss: str = "l1",
        beta: float = 1.0,
        box_weight: float = 1.0,
        class_loss: str = "focal",
        alpha: float = 0.25,
        gamma: float = 2.0,
        divisors: Divisors = image_divisors,
    ) -> None:
        super().__init__()
        losses: dict[str, RowLoss] = {"l1": l1_loss, "smooth_l1": partial(smooth_l1_loss, beta=beta), **IOU_LOSSES}
        if box_loss not in losses:
            raise ValueError(f"box_loss {box_loss!r} is not one of {', '.join(losses)}")
        if class_loss not in CLASS_LOSSES:
            raise ValueError(f"class_loss {class_loss!r} is not one of {', '.join(CLASS_LOSSES)}")
        self.rule: MaxIoU | Atss = rule or MaxIoU()
        self.coder = coder or BoxCoder()
        self.box_loss = losses[box_loss]
        self.on_boxes = box_loss in IOU_LOSSES
        self.box_weight = box_weight
        self.class_loss = class_loss
        self.alpha = alpha
        self.gamma = gamma
        self.divisors = divisors

    def match(self, placed: PlacedAnchors, targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
        """For each image and anchor the row of an instance, ``BACKGROUND`` or ``IGNORE``."""
        rows = []
        for image in targets:
            matches = self._match_image(placed, image.boxes)
            if image.ignored is not None:
                matches = ignore_regions(matches, placed.boxes, image.ignored)
            rows.append(matches)
        return torch.stack(rows)

    def _match_image(self, placed: PlacedAnchors, boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, " a"]:
        if isinstance(self.rule, MaxIoU):
            return match_lattices(placed.lattices, boxes, self.rule)
        levels = torch.split(placed.boxes, placed.num_per_level)
        return match_atss(levels, boxes, num_candidates=self.rule.num_candidates)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, output: HeadOutput, placed: PlacedAnchors, targets: Sequence[ImageTargets]) -> RetinaNetLosses:
        """The losses of a batch.

        Raises:
            ValueError: outputs, anchors and targets are not of one number of images and anchors.
        """
        _check_sizes(output, placed, targets)
        matches = self.match(placed, targets)
        divisors = self.divisors((matches >= 0).sum(dim=1))
        image, anchor = torch.nonzero(matches >= 0, as_tuple=True)
        boxes = _rows_of([each.boxes for each in targets], matches, image, anchor)
        deltas, anchors = output.deltas[image, anchor], placed.boxes[anchor]
        classes = _classes_of(matches, targets)
        if self.class_loss == "focal":
            focal = focal_loss(output.logits, classes, alpha=self.alpha, gamma=self.gamma)
        else:
            quality = placed.boxes.new_zeros(matches.shape)
            overlaps = matched_iou(self.coder.decode(deltas.detach(), anchors), boxes)
            quality[image, anchor] = overlaps.to(quality)  # of logits and deltas in double precision, too
            focal = quality_focal_loss(output.logits, classes, quality, gamma=self.gamma)
        box = (self._box_losses(deltas, anchors, boxes) / divisors[image]).sum() * self.box_weight
        return RetinaNetLosses((focal / divisors).sum(), box)

    def _box_losses(
        self, deltas: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, " n"]:
        if self.on_boxes:
            return self.box_loss(self.coder.decode(deltas, anchors), boxes)
        return self.box_loss(deltas, self.coder.encode(boxes, anchors))


def _classes_of(matches: Int64[Tensor, "b a"], targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
    """The class of each positive anchor; background and ignored anchors are so already."""
    classes = matches.clone()
    image, anchor = torch.nonzero(matches >= 0, as_tuple=True)
    classes[image, anchor] = _rows_of([each.classes for each in targets], matches, image, anchor)
    return classes


def _rows_of(
    of_images: list[Tensor], matches: Int64[Tensor, "b a"], image: Int64[Tensor, " n"], anchor: Int64[Tensor, " n"]
) -> Tensor:
    """Of each positive anchor, the row of its instance."""
    counts = torch.tensor([len(rows) for rows in of_images], device=matches.device)
    first = counts.cumsum(0) - counts
    return torch.cat(of_images)[first[image] + matches[image, anchor]]


def _check_sizes(output: HeadOutput, placed: PlacedAnchors, targets: Sequence[ImageTargets]) -> None:
    num_images, num_anchors = output.logits.shape[:2]
    if num_anchors != len(placed.boxes):
        levels = ", ".join(map(str, placed.num_per_level))
        raise ValueError(f"the head gave {num_anchors} rows for {len(placed.boxes)} anchors ({levels} on its levels)")
    if num_images != len(targets):
        raise ValueError(f"targets of {len(targets)} images for outputs of {num_images}")
