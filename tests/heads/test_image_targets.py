"""Targets of images: brought into one form, or refused by image and row."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.testing import assert_close

from detect.heads.image_targets import ImageTargets, checked_targets

BOX, OTHER_BOX = [8.0, 0.0, 16.0, 8.0], [0.0, 0.0, 8.0, 8.0]
NO_BOXES = ImageTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def targets_of(boxes: list[list[float]], classes: list[int], **ignored: torch.Tensor) -> ImageTargets:
    return ImageTargets(torch.tensor(boxes), torch.tensor(classes), **ignored)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("classes", [[0], [0, 1, 1], [[0], [1]]])
def test_boxes_and_classes_of_different_numbers_are_refused_by_image(classes):
    # taken row by row over the batch, the first image's second box would have the class of the third image
    batch = [NO_BOXES, ImageTargets(torch.tensor([BOX, OTHER_BOX]), torch.tensor(classes)), targets_of([BOX], [1])]
    with pytest.raises(ValueError, match="image 1: one class for each box, got 2 boxes and classes") as raised:
        checked_targets(batch)
    assert str(raised.value).endswith(str(tuple(torch.tensor(classes).shape)))


@pytest.mark.parametrize(("wrong", "named"), [(-1, "-1"), (-2, "-2"), (2, "2")])
def test_a_class_that_the_head_does_not_have_is_refused_by_image_and_row(wrong, named):
    # -1 is BACKGROUND and -2 IGNORE for an anchor: a box of this class would be taught as nothing
    batch = [targets_of([BOX], [1]), targets_of([BOX, OTHER_BOX], [0, wrong])]
    with pytest.raises(ValueError, match=f"image 1: the class of box 1 is {named}, need a class from 0 to 1$"):
        checked_targets(batch, num_classes=2)


@pytest.mark.parametrize(
    "box",
    [
        [8.0, 8.0, 0.0, 0.0],  # turned over
        [16.0, 0.0, 8.0, 8.0],  # x, y, width, height of a box at 16
        [8.0, 0.0, 8.0, 8.0],  # no width
        [0.0, 8.0, 8.0, 8.0],  # no height
        [math.nan, 0.0, 8.0, 8.0],
        [0.0, 0.0, 8.0, math.nan],
        [0.0, 0.0, math.inf, 8.0],
        [-math.inf, 0.0, 8.0, 8.0],
        [math.inf, 0.0, math.inf, 8.0],
    ],
)
def test_a_box_without_extent_or_end_is_refused_by_image_and_row(box):
    batch = [targets_of([BOX], [1]), targets_of([BOX, OTHER_BOX, box], [0, 1, 1])]
    with pytest.raises(
        ValueError, match=rf"targets of image 1: box 2 is {re.escape(str(box))}, need finite x0 < x1 and y0 < y1$"
    ):
        checked_targets(batch)


def test_a_region_to_ignore_without_extent_is_refused_by_image_and_row():
    regions = torch.tensor([BOX, [8.0, 0.0, 4.0, 8.0]])
    with pytest.raises(ValueError, match=r"image 1: ignored region 1 is \[8\.0, 0\.0, 4\.0, 8\.0\], need finite"):
        checked_targets([NO_BOXES, targets_of([BOX], [1], ignored=regions)])


@pytest.mark.usefixtures("unchecked")
def test_arrays_of_another_form_are_refused_by_image():
    right = torch.tensor([BOX])
    for target, message in (
        (ImageTargets(torch.tensor([[*BOX, 0.9]]), torch.tensor([0])), r"boxes are \(n, 4\), got \(1, 5\)"),
        (ImageTargets(torch.tensor(BOX), torch.tensor([0])), r"boxes are \(n, 4\), got \(4,\)"),
        (ImageTargets(right, torch.tensor([0]), torch.tensor(BOX)), r"ignored regions are \(n, 4\), got \(4,\)"),
        (ImageTargets(right, torch.tensor([0.0])), r"classes are integers, got torch\.float32"),
        (ImageTargets(right, torch.tensor([True])), r"classes are integers, got torch\.bool"),
        (ImageTargets([BOX], torch.tensor([0])), "boxes are a tensor, got list"),
        ({"boxes": right, "labels": torch.tensor([0])}, "need ImageTargets, got dict"),
    ):
        with pytest.raises(ValueError, match=f"^targets of image 1: {message}$"):
            checked_targets([NO_BOXES, target])


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_any_type_come_in_one_form():
    nothing = torch.tensor([])  # of shape (0,), float
    given = [
        ImageTargets(nothing, nothing, ignored=nothing),
        ImageTargets(torch.tensor([[10, 0, 18, 8]]), torch.ones(1).int()),
    ]
    for dtype in (torch.int32, torch.uint8, torch.int16, torch.int64):
        given[1] = ImageTargets(torch.tensor([[10, 0, 18, 8]]), torch.ones(1, dtype=dtype))
        empty, whole = checked_targets(given)
        assert (empty.boxes.shape, empty.ignored.shape, empty.classes.dtype) == ((0, 4), (0, 4), torch.int64)
        assert_close(whole.boxes, torch.tensor([[10.0, 0.0, 18.0, 8.0]]))
        assert_close(whole.classes, torch.tensor([1]))
    assert checked_targets([]) == []


def test_targets_are_left_as_they_were():
    target = ImageTargets(torch.tensor([BOX]), torch.tensor([1], dtype=torch.int32), ignored=torch.tensor([OTHER_BOX]))
    before = [each.clone() for each in (target.boxes, target.classes, target.ignored)]
    checked_targets([target])
    assert_close([target.boxes, target.classes, target.ignored], before, rtol=0, atol=0)
