"""Columns of entries."""

from __future__ import annotations

import pyarrow as pa
from msgspec import UNSET, Raw

from detect.data.entry_columns import ANNOTATIONS, IMAGES, field_values, needs_reading, typed_columns


def test_core_columns_are_always_there_and_others_are_texts():
    schema = ANNOTATIONS.schema(["segmentation", "keypoints", "id"])
    names = ["position", "id", "image_id", "category_id", "x", "y", "width", "height", "area", "iscrowd"]
    assert schema.names == [*names, "segmentation", "keypoints", "style", "odd", "raw"]
    assert schema.field("segmentation").type == pa.string()
    assert schema.field("keypoints").type == pa.list_(pa.float64())
    assert IMAGES.schema([]).names == ["position", "id", "width", "height", "file_name", "style", "odd", "raw"]


def test_names_that_columns_have_are_no_fields():
    assert [ANNOTATIONS.is_field(name) for name in ("area", "x", "raw", "", "a\n", 'a"', "segmentation")] == [
        *(True, False, False, False, False, False, True)
    ]
    assert IMAGES.is_field("width")


def test_values_come_back_as_they_were():
    values = {
        "bbox": [(1, 2.5, 3, 4.0), UNSET],
        "area": [UNSET, 12],
        "iscrowd": [True, 0],
        "keypoints": [[1, 2, 2], UNSET],
        "id": [2**62, UNSET],
    }
    columns, style, inexact = typed_columns(ANNOTATIONS, values, 2)
    assert not inexact.any()
    lists = {name: column.to_pylist() for name, column in columns.items()} | {"style": style.tolist()}
    assert {name: list(map(str, field_values(ANNOTATIONS, name, lists))) for name in values} == {
        name: list(map(str, own)) for name, own in values.items()
    }


def test_entries_that_commands_read_one_by_one_are_told():
    outline, nothing = Raw(b"[[1,2]]"), UNSET
    values = {
        "image_id": [1, 1, UNSET, 1, 1],
        "category_id": [1, 1, 1, 1, 1],
        "bbox": [nothing, nothing, (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)],
        "segmentation": [outline, nothing, outline, outline, outline],
        "attributes": [nothing, nothing, nothing, Raw(b'{"rotation":0}'), Raw(b'{"occluded":false}')],
    }
    assert needs_reading(ANNOTATIONS, values, 5).tolist() == [True, False, True, True, False]
    assert needs_reading(ANNOTATIONS, {"keypoints": [[1, 2]], "image_id": [1], "category_id": [1]}, 1).tolist() == [
        True
    ]
