"""What a RetinaNet head learns: anchors matched to instances, and the losses of its output (Lin et al. 2017, 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor, nn

from detect.anchors.generator import GridAnchors
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
from detect.ops.boxes import BoxCoder, matched_iou, to_device
from detect.ops.matcher import Matcher, MaxIoU, ignore_regions

Normalizer = Callable[[Tensor], Tensor]
RowLoss = Callable[[Tensor, Tensor], Tensor]

CLASS_LOSSES = ("focal", "quality_focal")
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
IOU_LOSSES: dict[str, RowLoss] = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """The instances of one image.

    Boxes are (x0, y0, x1, y1) in pixels of the network's input; (0, 4) or (0,) for an image without instances. Classes count
    from 0. ``ignored`` are regions such as crowds: an anchor that one of them covers by half is not taught as background.
    """

    boxes: Float[Tensor, "n 4"] | Float[Tensor, " 0"]
    classes: Integer[Tensor, " n"] | Float[Tensor, " 0"]
    ignored: Float[Tensor, "r 4"] | Float[Tensor, " 0"] | None = None


def checked_targets(targets: Sequence[ImageTargets], num_classes: int | None = None) -> list[ImageTargets]:
    """The targets of a batch in one form, boxes (n, 4) and classes int64, if a detector can learn them.

    Classes are from 0 to ``num_classes`` - 1; None sets no upper limit.

    >>> checked_targets([ImageTargets(torch.tensor([[24.0, 8.0, 16.0, 9.0]]), torch.tensor([0]))])  # a width, a height
    Traceback (most recent call last):
    ValueError: targets of image 0: box 0 is [24.0, 8.0, 16.0, 9.0], need finite x0 < x1 and y0 < y1

    Raises:
        ValueError: an array has another shape or type, a class is out of range, or a box or region is not finite or has no
            extent. The message gives the image's place in the batch and the row.
    """
    plain = [_in_one_form(image, number) for number, image in enumerate(targets)]
    if not plain:
        return plain
    boxes = torch.cat([rows for image in plain for rows in (image.boxes, image.ignored) if rows is not None])
    classes = torch.cat([image.classes for image in plain])
    limit = math.inf if num_classes is None else num_classes
    valid = torch.cat([_have_extent(boxes), (classes >= 0) & (classes < limit)])
    if not valid.all():  # waits for the device, once a batch: an invalid target would train without a sign of it
        raise ValueError(next(_faults(plain, limit)))
    return plain


class RetinaNetLosses(NamedTuple):
    """The two losses of a batch, normalised already: training minimises their sum."""

    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]


class RetinaNetCriterion(nn.Module):
    """Matches anchors to instances and computes the losses of a head's output.

    On an accelerator it waits for the device only where a size depends on the data: once a batch for the check of targets,
    once for the number of positives, twice in the focal loss and once more for the quality focal loss. Only above
    :data:`~detect.ops.matcher.DENSE_PAIRS` pairs of anchor and instance :class:`~detect.ops.matcher.MaxIoU` waits too, for
    each image; ATSS always does.

    ``torch.compile`` runs it uncompiled: the number of matches depends on the data, and the focal loss is one operator
    already.

    Args:
        matcher: which anchors are positive, ignored and background; by default :class:`~detect.ops.matcher.MaxIoU`.
        box_loss: ``"l1"`` or ``"smooth_l1"`` of the deltas; ``"giou"``, ``"diou"`` or ``"ciou"`` of the decoded boxes.
        beta: of the smooth L1 loss.
        box_weight: factor of the box loss.
        class_loss: ``"focal"``, or ``"quality_focal"`` (Li et al. 2020), whose target for the class of a positive anchor is
            the IoU of its predicted box with its instance.
        alpha: weight of positives in the focal loss, -1 for none, see :func:`detect.losses.focal_loss`.
        gamma: exponent of either class loss.
        positive_weights: a factor for each class on the losses of its positive anchors, by default 1, see
            :func:`detect.anchors.positive_weights.positive_weights`. Negatives and the divisor stay as they are.
        normalizer: maps the number of positives of each image to the divisor of its losses:
            :func:`detect.losses.image_normalizer` as torchvision, :func:`detect.losses.batch_normalizer` as mmdetection,
            :class:`detect.losses.EmaNormalizer` as detectron2.
    """

    positive_weights: Tensor | None

    def __init__(
        self,
        *,
        matcher: Matcher | None = None,
        coder: BoxCoder | None = None,
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
        self.coder = coder or BoxCoder()
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

    def match(self, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
        """For each image and anchor the row of an instance, ``BACKGROUND`` or ``IGNORE``."""
        return self.match_checked(anchors, checked_targets(targets))

    def match_checked(self, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
        """The same for checked targets: the method to override where the matches depend on more than the boxes."""
        rows = []
        for image in targets:
            matches = self.matcher.match(anchors.level_grids, image.boxes)
            if image.ignored is not None:
                matches = ignore_regions(matches, anchors.boxes, image.ignored)
            rows.append(matches)
        return torch.stack(rows)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, output: HeadOutput, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> RetinaNetLosses:
        """The losses of a batch; raises ValueError if sizes differ, or as :func:`checked_targets`."""
        _check_sizes(output, anchors, targets)
        self._check_weights(output.logits.shape[2])
        targets = checked_targets(targets, num_classes=output.logits.shape[2])
        matches = self.match_checked(anchors, targets)
        positive = matches >= 0
        divisors = self.normalizer(positive.sum(dim=1))
        image, anchor = torch.nonzero(positive, as_tuple=True)
        instance = matches[image, anchor]
        boxes = _matched_rows([each.boxes for each in targets], image, instance)
        classes = matches.clone()  # BACKGROUND and IGNORE are classes already
        classes[image, anchor] = _matched_rows([each.classes for each in targets], image, instance)
        weights = self._weights(classes)
        deltas, matched = output.deltas[image, anchor], anchors.boxes[anchor]
        if self.class_loss == "focal":
            sums = focal_loss(output.logits, classes, alpha=self.alpha, gamma=self.gamma, positive_weights=weights)
        else:
            iou = matched_iou(self.coder.decode(deltas.detach(), matched), boxes)
            quality = iou.new_zeros(classes.shape).index_put((image, anchor), iou)
            sums = quality_focal_loss(
                output.logits, classes, quality=quality, gamma=self.gamma, positive_weights=weights
            )
        if self.decodes_boxes:
            box = self.box_loss(self.coder.decode(deltas, matched), boxes)
        else:
            box = self.box_loss(deltas, self.coder.encode(boxes, matched))
        if weights is not None:
            box = box * weights[image, anchor]
        return RetinaNetLosses((sums / divisors).sum(), (box / divisors[image]).sum() * self.box_weight)

    def _check_weights(self, num_classes: int) -> None:
        if self.positive_weights is not None and len(self.positive_weights) != num_classes:
            raise ValueError(f"{len(self.positive_weights)} positive_weights for {num_classes} classes")

    def _weights(self, classes: Int64[Tensor, "b a"]) -> Float[Tensor, "b a"] | None:
        """The weight of each anchor's class, where it has one."""
        return None if self.positive_weights is None else self.positive_weights[classes.clamp(min=0)]


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


def _in_one_form(image: ImageTargets, number: int) -> ImageTargets:
    """Boxes and regions as (n, 4) floats, classes in int64. Reads only shapes and types, so it does not wait."""
    name = f"targets of image {number}"
    boxes = _four_columns(image.boxes, f"{name}: boxes")
    regions = None if image.ignored is None else _four_columns(image.ignored, f"{name}: ignored regions")
    classes = image.classes
    if classes.shape != (len(boxes),):
        raise ValueError(f"{name}: one class for each box, got {len(boxes)} boxes and classes {tuple(classes.shape)}")
    if len(classes) and classes.dtype not in INTEGERS:
        raise ValueError(f"{name}: classes are integers, got {classes.dtype}")
    return ImageTargets(boxes, classes.long(), regions)


def _four_columns(rows: Tensor, name: str) -> Float[Tensor, "n 4"]:
    if rows.shape != (0,) and (rows.ndim != 2 or rows.shape[1] != 4):
        raise ValueError(f"{name} are (n, 4), got {tuple(rows.shape)}")
    rows = rows.reshape(-1, 4)
    return rows if rows.is_floating_point() else rows.float()


def _have_extent(boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
    size = boxes[:, 2:] - boxes[:, :2]  # NaN or infinite where a corner is
    return ((size > 0) & (size < math.inf)).all(dim=1)


def _faults(targets: Sequence[ImageTargets], limit: float) -> Iterator[str]:
    last = "" if limit == math.inf else f" to {limit - 1}"
    for number, image in enumerate(targets):
        classes, regions = image.classes, image.boxes[:0] if image.ignored is None else image.ignored
        for name, rows, valid, need in (
            ("box", image.boxes, _have_extent(image.boxes), "finite x0 < x1 and y0 < y1"),
            ("the class of box", classes, (classes >= 0) & (classes < limit), f"a class from 0{last}"),
            ("ignored region", regions, _have_extent(regions), "finite x0 < x1 and y0 < y1"),
        ):
            for row in (~valid).nonzero()[:, 0].tolist():
                yield f"targets of image {number}: {name} {row} is {rows[row].tolist()}, need {need}"
