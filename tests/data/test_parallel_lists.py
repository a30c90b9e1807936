"""Lists decoded by several processes."""

from __future__ import annotations

import json

import pytest

from detect.data.coco_stream import compact_json
from detect.data.parallel_lists import decode_ranges
from detect.data.parquet_to_coco import write_coco
from detect.data.parquet_writer import OpenRange, write_parquet

START = len('{"annotations": [')


def written(path, entries, after=()):
    path.write_text(json.dumps({"annotations": entries, "after": list(after)}))
    return path


def ranges(path, range_bytes):
    """The ranges of a file, and the ids of their entries."""
    open_range = OpenRange(path.parent / "ranges", 1)
    found = list(decode_ranges(str(path), START, open_range, range_bytes=range_bytes, num_processes=2))
    files = [file for each in found for file in each.result.files]
    ids = [number for file in files for number in file.table(0)["id"].to_pylist()]
    assert len(ids) == sum(each.result.count for each in found)
    return found, ids


def test_ranges_are_the_list_in_order(tmp_path):
    entries = [{"id": number, "note": '},{"a":1' * (number % 3)} for number in range(400)]
    path = written(tmp_path / "a.json", entries, after=[{"x": number} for number in range(300)])
    found, ids = ranges(path, 2000)
    assert len(found) > 3
    assert ids == list(range(400))
    assert [each.ended for each in found] == [False] * (len(found) - 1) + [True]
    assert path.read_text()[found[-1].end :].startswith(', "after"')


def test_a_place_inside_of_an_entry_stops_before_it(tmp_path):
    plain = [{"id": number} for number in range(300)]
    nested = {"id": 300, "parts": [{"a": number} for number in range(500)]}
    path = written(tmp_path / "a.json", [*plain, nested, *plain])
    found, ids = ranges(path, 1500)
    assert 0 < len(found) < 6
    assert not found[-1].ended
    assert ids == list(range(len(ids)))
    assert path.read_text()[found[-1].end :].startswith(f' {{"id": {len(ids)}}}')


@pytest.mark.parametrize("inner", [[], [{"a": 1}, {"b": '},{"c":1'}]])
def test_a_file_read_by_processes_comes_back(tmp_path, monkeypatch, inner):
    monkeypatch.setattr("detect.data.parquet_writer.SPLIT_BYTES", 1000)
    monkeypatch.setattr("detect.data.parquet_writer.RANGE_BYTES", 20_000)
    monkeypatch.setattr("detect.data.parquet_writer.NUM_THREADS", 2)
    images = [{"id": number, "file_name": str(number)} for number in range(500)]
    boxes = [
        {
            "id": n,
            "image_id": n * 7 % 500,
            "category_id": 1,
            "bbox": [1, 2, n / 8, 4],
            "inner": inner if n > 1000 else [],
        }
        for n in range(1500)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": boxes, "images": images, "info": {"a": [1]}}))
    write_parquet([str(tmp_path / "a.json")], tmp_path / "out", on_progress=lambda *_: None)
    write_coco(str(tmp_path / "out"), tmp_path / "back", on_progress=lambda *_: None)
    assert (tmp_path / "back" / "annotations.json").read_bytes() == compact_json((tmp_path / "a.json").read_bytes())
