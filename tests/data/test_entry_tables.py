"""Entries as tables, and back."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from detect.data.buckets import text_column
from detect.data.entry_columns import ANNOTATIONS, IMAGES
from detect.data.entry_tables import EntryJson, EntryTables
from detect.errors import CocoError

PLAIN = '[{"id":1,"image_id":3,"category_id":1,"bbox":[1,2.5,3,4],"note":"a"}]'


def decoded(text: str, kind=ANNOTATIONS, **options):
    content = text.encode()
    rows = EntryTables(kind, **options).decode(bytearray(content), len(content))
    return None if rows is None else table_of(rows)


def table_of(rows):
    names = {*rows.texts, "raw"}
    return pa.table(
        {name: rows.numbers[name] for name in rows.numbers.column_names}
        | {name: text_column(rows.texts.get(name) or [None] * len(rows)) for name in names}
    )


def test_plain_entries_need_no_text():
    (row,) = decoded(PLAIN).to_pylist()
    assert (row["id"], row["image_id"], row["x"], row["y"], row["note"]) == (1, 3, 1, 2.5, '"a"')
    assert (row["raw"], row["odd"], row["position"]) == (None, False, 0)


def test_an_entry_written_unusually_keeps_its_text_and_its_columns():
    (row,) = decoded('[{"id": 1, "image_id": 3, "category_id": 1, "bbox": [1.50, 2, 3, 4], "note": 1}]').to_pylist()
    assert row["raw"] == '{"id":1,"image_id":3,"category_id":1,"bbox":[1.50,2,3,4],"note":1}'
    assert (row["odd"], row["x"], row["note"]) == (False, 1.5, None)


def test_an_entry_of_other_types_is_odd_and_lies_beside_its_image():
    (row,) = decoded('[{"id": "a", "image_id": "3", "bbox": "none"}]').to_pylist()
    assert (row["odd"], row["image_id"], row["id"]) == (True, 3, None)
    assert decoded('[{"id": 1, "width": 0}]', IMAGES).to_pylist()[0]["odd"]


def test_fields_are_met_in_any_block_and_keep_the_order_of_the_file():
    tables = EntryTables(IMAGES)
    for text in ('[{"a":1,"id":1}]', '[{"a":1,"b":2,"id":2},{"c":0,"a":1,"id":3}]', '[{"id":4,"a":1}]'):
        table = table_of(tables.decode(text.encode(), len(text)))
        assert table["raw"].null_count == len(table) - ("4" in text)  # the last has the fields in another order
    assert tables.fields == ["c", "a", "b", "id"]
    assert tables.position == 4


def test_what_is_no_list_is_none_and_no_text_an_error():
    assert decoded('[{"id":1}') is None
    assert decoded('[{"id":1},NaN') is None
    with pytest.raises(CocoError, match="not text"):
        EntryTables(IMAGES).decode(b'["\xff"]', 5)


def test_json_of_rows():
    entries = EntryJson(ANNOTATIONS, ["id", "image_id", "category_id", "bbox", "note"])
    (batch,) = decoded(PLAIN).to_batches()
    assert [json.loads(text) for text in entries.texts(ANNOTATIONS, batch)] == json.loads(PLAIN)
