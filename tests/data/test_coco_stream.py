"""The top level of COCO files, streamed."""

from __future__ import annotations

import gzip
import io
import json
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.data.coco_stream import compact_json, open_json, read_top_level
from detect.errors import CocoError


def raw_entries(buffer: bytearray, end: int) -> list[bytes] | None:
    try:
        return list(map(bytes, msgspec.json.decode(bytes(buffer[:end]), type=list[msgspec.Raw])))
    except msgspec.DecodeError:
        return None


def read(text: str | bytes) -> list[tuple[str, object]]:
    content = text if isinstance(text, bytes) else text.encode()
    lists = {"images": raw_entries, "annotations": raw_entries}
    return list(read_top_level(io.BytesIO(content), "a.json", lists, on_block=lambda: None))


def test_lists_come_in_parts_and_other_values_as_text():
    found = read(
        '\ufeff{"info": {"a": "}]\\"{ "}, "images": [{"id": 1}, {"id": 2}], "n": -1.50, "annotations": [ ]} \n'
    )
    assert found[:2] == [("info", b'{"a":"}]\\"{ "}'), ("images", None)]
    assert [entry for key, part in found if key == "images" and part for entry in part] == [b'{"id": 1}', b'{"id": 2}']
    assert found[-2:] == [("n", b"-1.50"), ("annotations", None)]
    assert read("{}") == []


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    st.lists(st.dictionaries(st.text(), values)),
    st.booleans(),
)
def test_any_object_is_read_as_a_json_reader_does(others, images, indent):
    content = {**others, "images": images}
    text, found = json.dumps(content, indent=1 if indent else None), {}
    for key, value in read(text):
        if key == "images":
            found[key] = found.get(key, []) + [json.loads(entry) for entry in value or ()]
        else:
            found[key] = json.loads(value)
    assert found == content
    assert list(found) == list(content)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" ", "the file is empty"),
        ("[1]", "no object at the top"),
        ('{"a":1', r"the JSON breaks off: the file is truncated \(6 bytes\)"),
        ('{"images":[{"id":1},{"id"', r"the JSON breaks off: the file is truncated \(25 bytes\)"),
        ('{"a":1 "b":2}', "not JSON"),
        ('{"a":[1,2}', "not JSON"),
        ('{"a":1}}', "not JSON"),
        ('{"a":1,"a":2}', "'a' occurs twice"),
        ('{"images":[{"id":1},}', "not JSON"),
    ],
)
def test_broken_files_are_named_with_the_reason(text, reason):
    with pytest.raises(CocoError, match=f"a.json: {reason}"):
        read(text)


def test_a_value_too_large_for_memory_is_an_error(monkeypatch):
    monkeypatch.setattr("detect.data.coco_stream.MAX_VALUE_BYTES", 1000)
    monkeypatch.setattr("detect.data.coco_blocks.BLOCK_BYTES", 100)
    with pytest.raises(CocoError, match="'info' is larger than"):
        read(json.dumps({"info": list(range(1000))}))


def test_gzip_is_unpacked_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}'))
    with open_json(str(path)) as (stream, tell):
        assert stream.read() == b'{"a": 1}'
        assert tell() == path.stat().st_size
    path.write_bytes(gzip.compress(b'{"a": 1}')[:-9])
    with pytest.raises(CocoError, match=r"a damaged or truncated \.gz file"), open_json(str(path)) as (stream, _):
        stream.read()


def test_spaces_in_texts_and_odd_numbers_are_kept():
    assert compact_json(b'[ 1.50 , "a \\" b" , NaN ]') == b'[1.50,"a \\" b",NaN]'


def test_what_is_no_file_is_named_and_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for name, reason in (("pipe.json", "not a regular file"), (".", "Is a directory"), ("none.json", "No such file")):
        with pytest.raises(CocoError, match=rf"{name}: {reason}"), open_json(f"{tmp_path}/{name}"):
            pass
