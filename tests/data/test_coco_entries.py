"""Entries of a COCO file as columns, and findings in words."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detect.data.coco_entries import (
    NO_ID,
    Annotation,
    AnnotationEntries,
    Box,
    Finding,
    Image,
    ImageEntries,
    KeypointAnnotation,
)


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding("a.json", 7, 2, "no"), "a.json: annotation 7, image 2: no"),
        (Finding("a.json", NO_ID, 2, "no"), "a.json: an annotation without a usable id, image 2: no"),
        (Finding("a.json", None, 2, "no"), "a.json: image 2: no"),
        (Finding("", None, None, "no"), "no"),
    ],
)
def test_a_finding_names_what_it_knows(finding, text):
    assert str(finding) == text


def test_missing_boxes_and_areas_are_nan():
    entries = [Annotation(1, 2, Box(1, 2, 3, 4), id=5, iscrowd=True, area=6), Annotation(1, 2)]
    columns = AnnotationEntries.of(entries, keypoints=False)
    assert_array_equal(columns.boxes_xywh, [[1, 2, 3, 4], [np.nan] * 4])
    assert_array_equal(columns.has_box, [True, False])
    assert_array_equal(columns.area, [6, np.nan])
    assert_array_equal(columns.ids, [5, NO_ID])
    assert_array_equal(columns.iscrowd, [True, False])
    assert columns.keypoints is None


def test_a_box_of_nan_is_a_box():
    nan = float("nan")
    (has_box,) = AnnotationEntries.of([Annotation(1, 2, Box(nan, nan, nan, nan))], keypoints=False).has_box
    assert has_box


def test_joined_parts_are_the_columns_of_all_entries():
    entries = [KeypointAnnotation(1, 2, id=id_, keypoints=[id_, 0, 2]) for id_ in range(5)]
    parts = [AnnotationEntries.of(part, keypoints=True) for part in (entries[:2], entries[2:])]
    joined, whole = AnnotationEntries.join(parts), AnnotationEntries.of(entries, keypoints=True)
    assert_array_equal(joined.ids, whole.ids)
    assert_array_equal(joined.boxes_xywh, whole.boxes_xywh)
    assert_array_equal(np.stack(joined.keypoints), np.stack(whole.keypoints))


def test_images_as_columns_are_those_of_the_list():
    images = [Image(3, 640, 480, "c.jpg"), Image(1, 20, 30), Image(2)]
    columns = ImageEntries.of(images)
    assert list(columns) == images
    assert (columns[-1], list(columns[1:])) == (images[-1], images[1:])
    assert ImageEntries.of(columns) is columns
    assert list(ImageEntries.join([columns, ImageEntries.of([]), columns])) == images + images
