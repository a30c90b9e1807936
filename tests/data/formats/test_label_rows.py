"""Entries of label files: ids, findings that lead to their lines, areas of polygons."""

from __future__ import annotations

import numpy as np
import pytest
from builders import findings_below, label_folder
from hypothesis import given
from hypothesis import strategies as st

from detect.data.coco_entries import Finding
from detect.data.formats.label_rows import LabelBuilder, box_around, polygon_area
from detect.data.read_dataset import read_dataset
from detect.errors import CocoError


def labels_with_a_fault() -> LabelBuilder:
    labels = LabelBuilder("folder")
    for name in ("a.png", "b.png"):
        image = labels.image(name, source=f"{name}.xml", wh=(9, 9))
        for number, label in enumerate(("cat", None, "ant"), 1):
            with image.object(number) as found:
                if label is None:
                    raise ValueError("it is broken")
                found.box(label, (1, 2, 4, 6))
    return labels


def test_objects_are_numbered_in_order_also_those_that_cannot_be_used():
    rows = labels_with_a_fault().rows(keypoints=False)
    assert rows.annotations.ids.tolist() == [1, 3, 4, 6]
    assert rows.annotations.image_ids.tolist() == [1, 1, 2, 2]
    assert [(each.id, each.name) for each in rows.categories] == [(1, "ant"), (2, "cat")]
    assert rows.annotations.category_ids.tolist() == [2, 1, 2, 1]
    assert list(map(str, rows.faults)) == [
        "a.png.xml, object 2: annotation 2, image 1: it is broken",
        "b.png.xml, object 2: annotation 5, image 2: it is broken",
    ]


def test_a_finding_of_a_check_gets_the_file_and_object():
    rows = labels_with_a_fault().rows(keypoints=False)
    assert rows.locate(Finding("folder", 6, 2, "thin")).file == "b.png.xml, object 3"
    assert rows.locate(Finding("folder", None, 2, "thin")).file == "b.png.xml"
    for other in (
        Finding("elsewhere", 6, 2, "thin"),
        Finding("folder", None, None, "thin"),
        Finding("folder", 1, 9, ""),
    ):
        assert rows.locate(other) == other


def test_renumbering_shifts_ids_and_keeps_places():
    rows = labels_with_a_fault().rows(keypoints=False)
    rows.renumber(10, 100, {1: 7, 2: 3})
    assert [image.id for image in rows.images] == [11, 12]
    assert rows.annotations.ids.tolist() == [101, 103, 104, 106]
    assert rows.annotations.category_ids.tolist() == [3, 7, 3, 7]
    assert [(each.id, each.name) for each in rows.categories] == [(7, "ant"), (3, "cat")]
    assert (rows.faults[1].annotation_id, rows.faults[1].image_id) == (105, 12)
    assert rows.locate(Finding("folder", 106, 12, "thin")).file == "b.png.xml, object 3"


def test_points_have_a_keypoint_and_no_box_and_boxes_the_other_way_round():
    labels = LabelBuilder("a.csv")
    image = labels.image("a.png", source="a.csv")
    with image.object(2) as found:
        found.point("cell", 1.0, 2.0)
        found.box("cell", (1, 2, 4, 6))
    entries = labels.rows(keypoints=True).annotations
    assert entries.has_box.tolist() == [False, True]
    assert [points.tolist() for points in entries.keypoints] == [[[1, 2, 2]], []]
    assert labels.rows(keypoints=False).annotations.keypoints is None


def test_nothing_at_all_is_rows_without_entries():
    rows = LabelBuilder("a.csv").rows(keypoints=True)
    assert (len(rows.images), len(rows.annotations), rows.categories) == (0, 0, [])


def test_what_is_counted_is_one_note_with_the_first_place():
    labels = LabelBuilder("a.xml")
    for number in range(1, 1201):
        labels.count("circles", f"shape {number}")
    assert list(map(str, labels.rows(keypoints=False).suspicious)) == ["a.xml: circles: 1,200, the first is shape 1"]


@given(st.floats(1, 100), st.floats(1, 100), st.floats(0, 6.3))
def test_a_turned_rectangle_keeps_its_area_and_lies_in_the_box_around_its_corners(w, h, angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 @ turn.T + [5, 7]
    assert polygon_area(corners.tolist()) == pytest.approx(w * h)
    assert box_around((5, 7), (w, h), angle) == pytest.approx([*corners.min(axis=0), *corners.max(axis=0)])


LABELME = '{"flags": {}, "shapes": [{"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [4, 6]]}]}'
VOC = (
    "<annotation><object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6</ymax></bndbox>"
    "</object></annotation>"
)


@pytest.mark.parametrize(("suffix", "text", "reason"), [("json", LABELME, "not JSON"), ("xml", VOC, "not XML")])
def test_a_damaged_file_is_an_error_alone_and_a_finding_among_others(tmp_path, suffix, text, reason):
    label_folder(tmp_path, {f"a.{suffix}": text, f"b.{suffix}": text[:-30]})
    with pytest.raises(CocoError, match=rf"b\.{suffix}: {reason} \("):
        read_dataset(tmp_path / f"b.{suffix}")
    dataset = read_dataset(tmp_path)
    assert dataset.instances.boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert [each.partition(" (")[0] for each in findings_below(tmp_path, dataset.invalid)] == [f"b.{suffix}: {reason}"]
