"""Reading block by block gives what reading whole gives, or steps aside."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.data import coco_blocks, coco_reader
from detect.data.coco_entries import AnnotationEntries, Category, Image, KeypointAnnotation, Rows
from detect.samples import sample_annotations

COLUMNS = ("ids", "image_ids", "category_ids", "boxes_xywh", "has_box", "iscrowd", "area")

TRICKY = ['}, {"id": 1', '"annotations": [{', "}]", "\\", "[[", "é", '"']
numbers = st.integers(-3, 3) | st.floats(-1e3, 1e3)
nested = st.fixed_dictionaries(
    {}, optional={"segmentation": st.lists(st.lists(numbers, max_size=3), max_size=2), "note": st.sampled_from(TRICKY)}
)
annotations = st.fixed_dictionaries(
    {"image_id": st.integers(0, 9), "category_id": st.integers(0, 3)},
    optional={
        "id": st.integers(0, 2**40),
        "bbox": st.lists(numbers, min_size=4, max_size=4),
        "area": numbers,
        "iscrowd": st.sampled_from([0, 1, True]),
        "keypoints": st.lists(numbers, min_size=3, max_size=3),
        "attributes": st.lists(nested, max_size=3),
        "segmentation": st.just({"counts": "a}, {b", "size": [3, 4]}),
        "note": st.sampled_from(TRICKY),
    },
)
images = st.fixed_dictionaries({"id": st.integers(0, 9), "width": st.integers(1, 9), "height": st.integers(1, 9)})
contents = st.fixed_dictionaries(
    {"images": st.lists(images, max_size=4), "annotations": st.lists(annotations, max_size=30)},
    optional={
        "categories": st.lists(st.fixed_dictionaries({"id": st.integers(0, 3)}), max_size=2),
        "info": st.fixed_dictionaries(
            {"annotations": st.lists(annotations, max_size=2), "note": st.sampled_from(TRICKY)}
        ),
    },
)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"indent": "\t", "ensure_ascii": False}])


def text_of(content: dict[str, Any], order: list[str], layout: dict[str, Any]) -> bytes:
    return json.dumps({name: content[name] for name in order}, **layout).encode()


def in_blocks(text: bytes, *, keypoints: bool = False) -> Rows | None:
    return coco_reader.read_in_blocks(io.BytesIO(text), "a.json", keypoints=keypoints, on_block=lambda: None)


class WholeFile(msgspec.Struct):
    images: list[Image]
    annotations: list[KeypointAnnotation]
    categories: list[Category] | None = None


def assert_same(rows: Rows, text: bytes) -> None:
    whole = msgspec.json.decode(text, type=WholeFile)
    expected = AnnotationEntries.of(whole.annotations, keypoints=rows.annotations.keypoints is not None)
    for name in COLUMNS:
        assert_array_equal(getattr(rows.annotations, name), getattr(expected, name))
    for mine, theirs in zip(rows.annotations.keypoints or (), expected.keypoints or (), strict=True):
        assert_array_equal(mine, theirs)
    assert rows.images == whole.images
    assert rows.categories == (whole.categories or None)


@given(contents, st.data(), layouts, st.integers(1, 700), st.booleans())
def test_blocks_of_any_size_give_what_the_whole_file_gives(content, data, layout, block_bytes, keypoints):
    order = data.draw(st.permutations(sorted(content)))
    text = text_of(content, order, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_blocks, "BLOCK_BYTES", block_bytes)
        rows = in_blocks(text, keypoints=keypoints)
    if rows is not None:
        assert_same(rows, text)


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("order", [("images", "categories", "annotations"), ("annotations", "categories", "images")])
@pytest.mark.parametrize("block_bytes", [1, 999, 2**20])
def test_ordinary_files_are_read_in_blocks(monkeypatch, layout, order, block_bytes):
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", block_bytes)
    content = json.loads(sample_annotations("nuclei").read_text())
    content["annotations"] = content["annotations"][:200]
    text = text_of(content, list(order), layout)
    rows = in_blocks(text)
    assert rows is not None
    assert_same(rows, text)


QUIRKS = [
    {},
    {"image_id": "1"},
    {"area": float("nan")},
    {"iscrowd": None},
    {"bbox": None},
    {"attributes": {"rotation": -9}},
]


@pytest.mark.parametrize("quirk", QUIRKS, ids=str)
def test_memory_is_a_part_of_the_file_also_with_a_quirk(monkeypatch, quirk):
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 2**14)
    entry = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[0.5] * 800]}
    entries = [entry] * 500 + [{**entry, **quirk}] + [entry] * 499
    text = json.dumps({"images": [], "annotations": entries}).encode()
    file = io.BytesIO(text)  # made before memory is measured
    tracemalloc.start()
    rows = coco_reader.read_in_blocks(file, "a.json", keypoints=False, on_block=lambda: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows is not None
    assert len(rows.annotations) == 1000
    assert rows.annotations.image_ids.tolist() == [1] * 1000
    assert set(rows.odd) == ({500} if quirk else set())
    assert peak < len(text) / 4


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"images": [], "annotations": [{"image_id": 1, "category_id": 1}',
        b'{"images": [], "annotations": [{"image_id": 1, "category_id": 1}]',
        b'{"images": [], "annotations": [{"image_id": 1, "category_id": 1}, x]}',
        b'{"images": {}, "annotations": [{"image_id": "1", "category_id": 1}]}',
        b'{"images": {}, "annotations": [{"image_id": 1, "category_id": 1}], "categories": 3}',
        b'{"images": [], "annotations": [{"image_id": 1, "category_id": 1}], "annotations": []}',
    ],
)
def test_it_steps_aside_from_what_it_cannot_prove(text):
    assert in_blocks(text) is None


def test_the_end_of_a_list_is_found_behind_lists_of_objects_and_without_a_last_object():
    inner = b'"segments": [' + b", ".join([b'{"a": [{"b": 1}]}'] * 30) + b"]"
    entry = b'{"image_id": 1, "category_id": 1, ' + inner + b"}"
    for entries, count in ((b"", 0), (entry, 1), (b", ".join([entry] * 9), 9), (entry + b", null", 1)):
        found = in_blocks(b'{"annotations": [' + entries + b'], "images": [{"id": 1}, {"id": 2}]}')
        assert (len(found.annotations), len(found.images)) == (count, 2)


@pytest.mark.parametrize(
    ("rotation", "told"),
    [("0", False), ("0.0", False), ("-0.00", False), ("1", True), ("0.5", True), (" -90.0", True), ("1e-3", True)],
)
def test_a_rotation_is_told(rotation, told):
    entry = f'{{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "attributes": {{"rotation": {rotation}}}}}'
    rows = in_blocks(f'{{"images": [], "annotations": [{entry}]}}'.encode())
    assert (0 in rows.odd) == told


def test_a_byte_order_mark_and_numbers_that_are_not_json_are_read_in_blocks():
    text = (
        '\ufeff{"images": [{"id": 1, "width": NaN, "height": 5}], "annotations": [{"image_id": 1, "category_id": 1}]}'
    )
    rows = in_blocks(text.encode())
    assert rows.images == [Image(1, height=5)]
    assert [finding.reason for finding in rows.suspicious] == [
        "width is nan, not a whole number of pixels: taken as unknown"
    ]


@pytest.mark.parametrize("value", ["NaN", "1e999", "9" * 400, r'"\ud800"', '"x"', "[[1]]", "{}", "null"])
def test_one_bad_value_is_read_in_its_block_and_no_further_block_is_read_slowly(monkeypatch, value):
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 2**10)
    entries = [{"id": number, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]} for number in range(1, 301)]
    entries[150]["bbox"] = "<here>"
    text = json.dumps({"images": [{"id": 1}], "annotations": entries}).replace('"<here>"', value)
    slowly: list[int] = []
    read_slowly = coco_reader.TolerantReader.annotations

    def counted(reader: coco_reader.TolerantReader, entries: list[Any]) -> AnnotationEntries:
        slowly.append(len(entries))
        return read_slowly(reader, entries)

    monkeypatch.setattr(coco_reader.TolerantReader, "annotations", counted)
    rows = in_blocks(text.encode())
    assert len(rows.annotations) + len(rows.faults) == 300
    assert sum(slowly) < 40  # entries of a kilobyte or two


def test_an_annotation_longer_than_any_buffer_is_left_to_others(monkeypatch):
    monkeypatch.setattr(coco_blocks, "LONGEST_ANNOTATION_BYTES", 2**12)
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 2**8)
    entry = {"image_id": 1, "category_id": 1, "segmentation": [[0.5] * 3000]}
    assert in_blocks(json.dumps({"images": [], "annotations": [entry]}).encode()) is None


def test_a_packed_stream_is_read_in_blocks_too(monkeypatch):
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 2**12)
    text = sample_annotations("bccd").read_bytes()
    packed = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(text)))
    rows = coco_reader.read_in_blocks(packed, "a.json.gz", keypoints=False, on_block=lambda: None)
    assert rows is not None
    assert_same(rows, text)
