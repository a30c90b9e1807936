"""Broken COCO files: each gives one line with its name and the reason; unusual files are read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import written
from coco_files import (
    MISSING,
    ONE_BOX_TEXT,
    assert_one_box,
    coco_error,
    coco_with,
    coco_with_one_box,
    name_of,
    text_with,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.data import read_coco
from detect.data.coco_reader import EXPECTED
from detect.errors import CocoError

DEEP = 100_000
LONG = b"9" * 5_000_000
PACKED = gzip.compress(ONE_BOX_TEXT, mtime=0)
TOO_DEEP = f"nested too deeply: {EXPECTED}"


def nested(opening: bytes, closing: bytes = b"", inner: bytes = b"") -> bytes:
    return opening * DEEP + inner + closing * DEEP


# Whole files: what stands after the file's name, in full or as far as it is ours to say.
BROKEN_FILES = {
    "empty": (b"", f"the file is empty: {EXPECTED}"),
    "blank": (b" \n\n", "the JSON breaks off: the file is truncated (3 bytes)"),
    "words": (b"hello world", f"not JSON (line 1, column 1: Expecting value): {EXPECTED}"),
    "truncated": (ONE_BOX_TEXT[:-5], f"the JSON breaks off: the file is truncated ({len(ONE_BOX_TEXT) - 5} bytes)"),
    "two_files_in_one": (
        ONE_BOX_TEXT + ONE_BOX_TEXT,
        f"not JSON (line 1, column {len(ONE_BOX_TEXT) + 1}: Extra data): {EXPECTED}",
    ),
    "a_last_comma": (ONE_BOX_TEXT[:-1] + b",}", "not JSON (line 1, column "),
    "latin_1": (text_with(b"a.jpg", "\xe4.jpg".encode("latin-1")), "not text (byte 64 is not utf-8)"),
    "control_character": (text_with(b"a.jpg", b"a\x01"), "not JSON (line 1, column 66: Invalid control character"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), f"not text (byte 0 is not utf-8): {EXPECTED}"),
    "list": (b"[]", f"a list at the top: {EXPECTED}"),
    "results": (
        b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
        f"a results file (a list of detections with scores): {EXPECTED}",
    ),
    "number": (b"3", f"3 at the top: {EXPECTED}"),
    "null": (b"null", f"null at the top: {EXPECTED}"),
    "empty_object": (b"{}", f"no 'images' in it (it has nothing): {EXPECTED}"),
    "no_annotations": (b'{"images": []}', f"no 'annotations' in it (it has 'images'): {EXPECTED}"),
    "no_images": (b'{"info": 1, "annotations": []}', f"no 'images' in it (it has 'annotations', 'info'): {EXPECTED}"),
    "a_line_break_in_a_key": (b'{"a\\nb": 1}', f"no 'images' in it (it has 'a\\nb'): {EXPECTED}"),
    "a_key_of_a_megabyte": (b'{"' + b"k" * 2**20 + b'": 1}', f"no 'images' in it (it has '{'k' * 40}'): {EXPECTED}"),
    "annotations_an_object": (
        b'{"images": [], "annotations": {}}',
        f"'annotations' is an object, not a list: {EXPECTED}",
    ),
    "images_null": (b'{"images": null, "annotations": []}', f"'images' is null, not a list: {EXPECTED}"),
    "categories_a_text": (
        b'{"images": [], "annotations": [], "categories": "cat"}',
        f"'categories' is the text 'cat', not a list: {EXPECTED}",
    ),
    "brackets": (nested(b"["), TOO_DEEP),
    "objects": (nested(b'{"a": ', b"}", b"1"), TOO_DEEP),
    "brackets_in_bbox": (text_with(b"[1, 2, 3, 4]", nested(b"[", b"]")), TOO_DEEP),
    "brackets_in_a_field_stepped_over": (
        text_with(b'"area"', b'"segmentation": ' + nested(b"[", b"]") + b', "area"'),
        TOO_DEEP,
    ),
    "objects_beside_the_lists": (ONE_BOX_TEXT[:-1] + b', "info": ' + nested(b'{"a": ', b"}", b"1") + b"}", TOO_DEEP),
    "image_ids_that_disagree": (
        text_with(b'"images": [', b'"images": [{"id": 1, "width": 9, "height": 80, "file_name": "b.jpg"}, '),
        "image id 1 is both 'b.jpg' (9x80) and 'a.jpg' (100x80): ids must be unique over all files read together",
    ),
    "category_ids_that_disagree": (
        text_with(b'"categories": [', b'"categories": [{"id": 1, "name": "dog"}, '),
        "category id 1 is both 'dog' and 'cell': ids must be unique over all files read together",
    ),
}


BROKEN_PACKED_FILES = {
    "truncated": (PACKED[:-12], "a damaged or truncated .gz file (Compressed file ended before"),
    "only_the_magic": (PACKED[:2], "a damaged or truncated .gz file (Compressed file ended before"),
    "wrong_checksum": (PACKED[:-8] + bytes(8), "a damaged or truncated .gz file (CRC check failed"),
    "rubbish_behind": (PACKED + b"rubbish", "a damaged or truncated .gz file (Not a gzipped file"),
    "rubbish_inside": (PACKED[:20] + b"\xff" * 20 + PACKED[40:], "a damaged or truncated .gz file (Error -3"),
    "nothing_inside": (gzip.compress(b""), "the file is empty"),
    "no_json_inside": (gzip.compress(b"hello"), f"not JSON (line 1, column 1: Expecting value): {EXPECTED}"),
    "truncated_json_inside": (gzip.compress(ONE_BOX_TEXT[:-5]), "the JSON breaks off: the file is truncated"),
    "packed_twice": (gzip.compress(PACKED), f"not text (byte 1 is not utf-8): {EXPECTED}"),
}


GOOD_FILES = {
    "utf_8": ONE_BOX_TEXT,
    "byte_order_mark": b"\xef\xbb\xbf" + ONE_BOX_TEXT,
    "utf_16_without_mark": ONE_BOX_TEXT.decode().encode("utf-16-le"),
    "utf_16": ONE_BOX_TEXT.decode().encode("utf-16"),
    "packed_under_another_name": PACKED,
    "a_key_twice_the_last_counts": text_with(b'"id": 7', b'"id": 6, "id": 7'),
    "half_a_surrogate_pair": text_with(b"a.jpg", b"\\ud800"),
    "a_long_number_stepped_over": text_with(b'"area"', b'"score": ' + LONG + b', "area"'),
    "a_long_fraction": text_with(b"[1, 2", b"[1." + b"0" * 5_000_000 + b", 2"),
}


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (b'"id": 7', b'"id": ', "an annotation without a usable id, image 1: it has no id: kept"),
        (b'"image_id": 1', b'"image_id": ', "annotation 7: image_id is inf, not an id"),
        (b'"area": 12', b'"area": -', "annotation 7, image 1: area is -inf: taken as width * height"),
        (b"[1, ", b"[", "annotation 7, image 1: bbox [inf, 2, 3, 4] is not finite"),
    ],
)
def test_an_integer_longer_than_python_reads_is_a_fault_of_its_entry(tmp_path, old, new, finding):
    path = tmp_path / "long.json"
    path.write_bytes(text_with(old, new + LONG + old[len(old.rstrip(b", ")) :]))
    dataset = read_coco(path)
    assert [str(each) for each in (*dataset.invalid, *dataset.suspicious)] == [f"{path}: {finding}"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, "json") for name in BROKEN_FILES), *((name, "json.gz") for name in BROKEN_PACKED_FILES)],
)
def test_a_broken_file_is_named_with_what_it_is(tmp_path, name, suffix):
    data, reason = (BROKEN_FILES if suffix == "json" else BROKEN_PACKED_FILES)[name]
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(data)
    assert coco_error(path).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("name", GOOD_FILES)
def test_an_unusual_file_is_read(tmp_path, name):
    path = tmp_path / "unusual.json"
    path.write_bytes(GOOD_FILES[name])
    assert_one_box(read_coco(path))


@pytest.mark.parametrize(
    ("saved", "given"),
    [
        ("plain.json.gz", "plain.json.gz"),
        ("fold[1].json", "fold[1].json"),  # brackets need not be a pattern
        ("fold1.json", "fold[1].json"),
    ],
)
def test_a_file_is_found_whatever_its_name_looks_like(tmp_path, saved, given):
    (tmp_path / saved).write_bytes(ONE_BOX_TEXT)
    assert_one_box(read_coco(tmp_path / given))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "a folder: give the JSON file in it, or a pattern such as FOLDER/*.json"),
        ("none.json", "No such file or directory"),
        ("a.json/b.json", "Not a directory"),
        ("train_*.json", "no file matches this pattern"),
        ("a" * 300, "File name too long"),
    ],
)
def test_a_path_that_cannot_be_read_is_named(tmp_path, name, reason):
    (tmp_path / "a.json").write_bytes(ONE_BOX_TEXT)
    path = tmp_path / name
    assert coco_error(path) == f"{path}: {reason}".replace("FOLDER", str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    assert coco_error(path) == f"{path}: not a regular file: write it to disk first"


@pytest.mark.parametrize(
    "source", [None, 3, 2.5, object(), b"a.json", [None], [3], [[]], [coco_with_one_box()], "a\0b"]
)
def test_what_is_no_source_at_all(source):
    assert coco_error(source).startswith("expected paths, patterns or one COCO structure in memory, got ")
    assert coco_error([]) == "no annotation file given"


def test_the_same_shard_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.json"
    path.write_bytes(ONE_BOX_TEXT)
    assert coco_error([path, path]) == f"{path}: given twice: each shard is read once"
    assert coco_error([path, str(tmp_path / "*.json")]) == f"{path}: given twice: each shard is read once"
    assert coco_error([path, "a.json"]) == f"a.json: given twice, also as {path}: each shard is read once"
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert coco_error([path, link]) == f"{link}: given twice, also as {path}: each shard is read once"


def test_no_annotations_is_an_ordinary_dataset():
    dataset = read_coco(coco_with("annotations", None, []))
    assert (len(dataset.images), len(dataset.annotations), len(dataset.instances), len(dataset.crowd)) == (1, 0, 0, 0)
    assert dataset.annotations.boxes_xywh.shape == (0, 4)
    assert dataset.images.wh.shape == (1, 2)
    assert (dataset.invalid, dataset.suspicious) == ((), ())


@pytest.mark.parametrize("value", [MISSING, None], ids=name_of)
def test_without_categories_every_id_is_taken(tmp_path, value):
    nameless = coco_with("categories", None, value)
    path = written(tmp_path / "nameless.json", nameless)
    for source in (nameless, path):
        dataset = read_coco(source)
        assert_one_box(dataset)
        assert dataset.category_name(1) == "category 1"


def test_no_categories_and_one_broken_entry_are_two_matters(tmp_path):
    nameless = coco_with("categories", None, None)
    nameless["annotations"].append(3)
    path = written(tmp_path / "nameless.json", nameless)
    assert_array_equal(read_coco(path).instances.ids, [7])


def test_numpy_values_are_numbers():
    made = coco_with_one_box()
    made["images"][0].update(id=np.int64(1), width=np.int32(100), file_name=np.str_("a.jpg"))
    made["annotations"][0].update(
        id=np.int64(7), image_id=np.int32(1), bbox=np.array([1, 2, 3, 4], np.float32), iscrowd=np.bool_(False)
    )
    assert_one_box(read_coco(made))


def test_fields_not_asked_for_are_not_looked_at():
    made = coco_with_one_box()
    made["annotations"][0].update({"itself": made["annotations"][0], 3: "a key that is no text", "object": object()})
    assert_one_box(read_coco(made))


def test_a_list_inside_itself_is_refused():
    made = coco_with_one_box()
    box: list[Any] = [1, 2, 3]
    box.append(box)
    made["annotations"][0]["bbox"] = box
    (finding,) = read_coco(made).invalid
    assert str(finding).endswith("annotation 7, image 1: bbox[3] is a list, not a number")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 120) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


places = st.sampled_from(
    [(kind, field) for kind in ("images", "categories", "annotations") for field in (None, "*", "id")]
    + [("images", field) for field in ("width", "height", "file_name")]
    + [("annotations", field) for field in ("image_id", "category_id", "bbox", "iscrowd", "area", "keypoints")]
    + [("annotations", field) for field in ("segmentation", "attributes")]
    + [("categories", "name")]
)


def outcome(source: Any) -> tuple[Any, ...]:
    """Everything that reading gives, without the name of the file."""
    try:
        dataset = read_coco(source, keypoints=True)
    except CocoError as error:
        (line,) = str(error).splitlines()
        return ("error", line.partition(": ")[2])
    annotations = dataset.annotations
    assert np.isfinite(annotations.boxes_xywh).all()
    assert (annotations.boxes_xywh >= 0).all()
    columns = (annotations.ids, annotations.category_ids, annotations.boxes_xywh, annotations.area)
    findings = [(each.annotation_id, each.image_id, each.reason) for each in dataset.invalid + dataset.suspicious]
    return (*(column.tolist() for column in columns), dataset.images.wh.tolist(), findings)


@given(value=json_values)
def test_any_json_at_the_top_gives_one_line(tmp_path_factory, value):
    path = written(Path(tmp_path_factory.getbasetemp()) / "any.json", value)
    assert outcome(path)[0] == "error"


@given(place=places, value=json_values)
def test_any_json_in_any_place_reads_the_same_from_file_and_memory(tmp_path_factory, place, value):
    broken = coco_with(*place, value)
    path = written(Path(tmp_path_factory.getbasetemp()) / "any.json", broken)
    assert outcome(path) == outcome(broken)


@given(cut=st.integers(0, len(ONE_BOX_TEXT) - 1), byte=st.integers(0, 255))
def test_any_damaged_byte_gives_a_dataset_or_one_line(tmp_path_factory, cut, byte):
    path = Path(tmp_path_factory.getbasetemp()) / "damaged.json"
    for data in (
        ONE_BOX_TEXT[:cut] + bytes([byte]) + ONE_BOX_TEXT[cut + 1 :],
        PACKED[:cut] + bytes([byte]) + PACKED[cut + 1 :],
    ):
        path.write_bytes(data)
        outcome(path)


def test_whole_numbers_written_as_floats_and_missing_names_are_read(tmp_path):
    """As tables write them: 640.0 for a size, 7.0 for an id, null for a name."""
    table = {
        "images": [{"id": 1.0, "width": 640.0, "height": 480.0, "file_name": None}],
        "categories": [{"id": 1, "name": None}],
        "annotations": [{"id": 7.0, "image_id": 1.0, "category_id": 1.0, "bbox": [1, 2, 3, 4], "iscrowd": 0.0}],
    }
    for source in (table, written(tmp_path / "table.json", table)):
        dataset = read_coco(source)
        assert_one_box(dataset)
        assert dataset.invalid == ()
        assert dataset.instances.ids.tolist() == [7]
        assert dataset.images.wh.tolist() == [[640, 480]]
        assert dataset.images.file_names == ("",)
        assert dataset.category_name(1) == "category 1"
