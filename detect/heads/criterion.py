"""What a RetinaNet head learns: anchors matched to instances; the losses of its output (Lin et al. 2017, section 4.1)."""

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
from detect.ops.boxes import BoxCoder, matched_iou
from detect.ops.grid_matcher import match_level_grids
from detect.ops.matcher import Atss, MaxIoU, ignore_regions, match_atss

Normalizer = Callable[[Tensor], Tensor]

RowLoss = Callable[[Tensor, Tensor], Tensor]

CLASS_LOSSES = ("focal", "quality_focal")
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
IOU_LOSSES: dict[str, RowLoss] = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """The instances of one image, boxes (x0, y0, x1, y1) in pixels of the network's input.

    Anchors of which ``ignored`` regions (crowds) cover half are not taught to be background. An image may have no instances:
    no boxes are (0, 4) or (0,). What cannot be learned is refused by :func:`checked_targets`, which knows the whole batch.
    """

    boxes: Float[Tensor, "n 4"] | Float[Tensor, " 0"]
    classes: Integer[Tensor, " n"] | Float[Tensor, " 0"]
    ignored: Float[Tensor, "r 4"] | Float[Tensor, " 0"] | None = None


def checked_targets(targets: Sequence[ImageTargets], num_classes: int | None = None) -> list[ImageTargets]:
    """Targets that can be learned, in one form: boxes (n, 4) and classes in int64.

    >>> checked_targets([ImageTargets(torch.tensor([[24.0, 8.0, 16.0, 9.0]]), torch.tensor([0]))])  # a width, a height
    Traceback (most recent call last):
    ValueError: targets of image 0: box 0 is [24.0, 8.0, 16.0, 9.0], need finite x0 < x1 and y0 < y1

    Args:
        targets: one for each image of a batch.
        num_classes: classes are from 0 to ``num_classes`` - 1; None leaves them open.

    Raises:
        ValueError: boxes, regions or classes of another shape or type, a class out of range, or a box or region that is not
            finite or has no extent; the message names the image by its place in the batch, and the row.
    """
    plain = [_in_one_form(image, number) for number, image in enumerate(targets)]
    if not plain:
        return plain
    boxes = torch.cat([rows for image in plain for rows in (image.boxes, image.ignored) if rows is not None])
    classes = torch.cat([image.classes for image in plain])
    right = torch.cat([_have_extent(boxes), _are_classes(classes, num_classes)])
    if (
        not right.all()
    ):  # waits for the device once a batch: what is wrong would be learned, or left out, without a sign
        raise ValueError(next(_faults(plain, num_classes)))
    return plain


class RetinaNetLosses(NamedTuple):
    """Two numbers, each divided already: their sum is what is minimised."""

    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]


class RetinaNetCriterion(nn.Module):
    """Matches anchors to instances and gives the losses of a head's output; no matrix of anchors and instances is made.

    Beneath ``torch.compile`` it runs as it does without: the number of matches depends on the data, and the focal loss is
    one operator already.

    Args:
        rule: which anchors are positive, ignored, background; by default :class:`~detect.ops.matcher.MaxIoU`.
        coder: how boxes are encoded against anchors.
        box_loss: ``"l1"`` or ``"smooth_l1"`` of the deltas; ``"giou"``, ``"diou"`` or ``"ciou"`` of the decoded boxes.
        beta: of the smooth L1 loss.
        box_weight: factor of the box loss.
        class_loss: ``"focal"``, or ``"quality_focal"`` (Li et al. 2020), which teaches a positive anchor's class the IoU of
            its predicted box with its instance.
        alpha: of the focal loss, see :func:`detect.losses.focal_loss`; the other has none.
        gamma: of either.
        normalizers: from each image's number of positives what divides its losses: :func:`detect.losses.image_normalizer` as
            torchvision, :func:`detect.losses.batch_normalizer` as mmdetection, :class:`detect.losses.EmaNormalizer` as
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
        normalizers: Normalizer = image_normalizer,
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
        self.normalizers = normalizers

    def match(self, placed: GridAnchors, targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
        """For each image and anchor the row of an instance, ``BACKGROUND`` or ``IGNORE``.

        Raises:
            ValueError: what :func:`checked_targets` refuses.
        """
        return self.match_checked(placed, checked_targets(targets))

    def match_checked(self, placed: GridAnchors, targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
        """As :meth:`match`, for checked targets: the method that a subclass with another rule replaces."""
        rows = []
        for image in targets:
            matches = self._match_image(placed, image.boxes)
            if image.ignored is not None:
                matches = ignore_regions(matches, placed.boxes, image.ignored)
            rows.append(matches)
        return torch.stack(rows)

    def _match_image(self, placed: GridAnchors, boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, " a"]:
        if isinstance(self.rule, MaxIoU):
            return match_level_grids(placed.lattices, boxes, self.rule)
        levels = torch.split(placed.boxes, placed.num_per_level)
        return match_atss(levels, boxes, num_candidates=self.rule.num_candidates)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, output: HeadOutput, placed: GridAnchors, targets: Sequence[ImageTargets]) -> RetinaNetLosses:
        """The losses of a batch.

        Raises:
            ValueError: outputs, anchors and targets are not of one number of images and anchors, or what
                :func:`checked_targets` refuses.
        """
        _check_sizes(output, placed, targets)
        targets = checked_targets(targets, num_classes=output.logits.shape[2])
        matches = self.match_checked(placed, targets)
        normalizers = self.normalizers((matches >= 0).sum(dim=1))
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
        box = (self._box_losses(deltas, anchors, boxes) / normalizers[image]).sum() * self.box_weight
        return RetinaNetLosses((focal / normalizers).sum(), box)

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


def _check_sizes(output: HeadOutput, placed: GridAnchors, targets: Sequence[ImageTargets]) -> None:
    num_images, num_anchors = output.logits.shape[:2]
    if num_anchors != len(placed.boxes):
        levels = ", ".join(map(str, placed.num_per_level))
        raise ValueError(f"the head gave {num_anchors} rows for {len(placed.boxes)} anchors ({levels} on its levels)")
    if output.deltas.shape != (num_images, num_anchors, 4):
        raise ValueError(
            f"deltas are ({num_images}, {num_anchors}, 4), one row for each of the logits, got {tuple(output.deltas.shape)}"
        )
    if num_images != len(targets):
        raise ValueError(f"targets of {len(targets)} images for outputs of {num_images}")


def _in_one_form(image: ImageTargets, number: int) -> ImageTargets:
    """Boxes and regions as (n, 4) floats, classes in int64. Only shapes and types are read: no wait for the device."""
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


def _are_classes(classes: Int64[Tensor, " n"], num_classes: int | None) -> Bool[Tensor, " n"]:
    return (classes >= 0) if num_classes is None else (classes >= 0) & (classes < num_classes)


def _faults(targets: Sequence[ImageTargets], num_classes: int | None) -> Iterator[str]:
    last = "" if num_classes is None else f" to {num_classes - 1}"
    for number, image in enumerate(targets):
        regions = image.boxes[:0] if image.ignored is None else image.ignored
        for name, rows, right, need in (
            ("box", image.boxes, _have_extent(image.boxes), "finite x0 < x1 and y0 < y1"),
            ("the class of box", image.classes, _are_classes(image.classes, num_classes), f"a class from 0{last}"),
            ("ignored region", regions, _have_extent(regions), "finite x0 < x1 and y0 < y1"),
        ):
            for row in (~right).nonzero()[:, 0].tolist():
                yield f"targets of image {number}: {name} {row} is {rows[row].tolist()}, need {need}"
