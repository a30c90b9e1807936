"""COCO files as Parquet and back: byte for byte, whatever is in them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.data.parquet_files import DESCRIPTION
from detect.data.parquet_to_coco import write_coco
from detect.data.parquet_writer import write_parquet
from detect.errors import CocoError
from detect.samples import sample_annotations

TACO = Path(__file__).parent / "taco" / "faults.json"
ODD = r"""
{
 "info": {"a": "}]\"{", "n": 1.50, "\u00e9": [1, {"b": [ ]}]}, "version" : 1e2,
 "annotations": [
  {"id": 9007199254740993, "image_id": 2, "category_id": 1, "bbox": [10.50, 1e2, 3, 4.0], "area": 10.50, "iscrowd": 0},
  {"id": 4611686018427387904, "image_id": 1, "category_id": 1, "bbox": [1, 2.5, 3, 4], "iscrowd": false, "segmentation": []},
  {"id": 4611686018427387905, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
  {"image_id": 1, "id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "note": "caf\u00e9 \"x\" \\ \/ é", "area": -0.0},
  {"id": 4, "image_id": 1, "category_id": 1, "bbox": null, "segmentation": [[1, 2, 3.0, 4, 5, 6.50]], "area": 1e400},
  {"id": 5, "image_id": 1, "category_id": 1, "segmentation": {"size": [4, 5], "counts": "042"}, "iscrowd": 1},
  {"id": 6, "image_id": 1, "category_id": 1, "bbox": [1, 2, NaN, 4], "x": 1, "raw": {"position": null}},
  {"id": 7, "image_id": 2, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "keypoints": [1, 2, 2], "num_keypoints": 1},
  {"id": 8, "image_id": 2, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "keypoints": [1.5, 2.0, 2]},
  {"id": 9, "image_id": 2, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "keypoints": [1.5, 2.0, 2.0, 1]},
  {"id": "a1", "image_id": "2", "category_id": 1, "bbox": ["1", 2, 3, 4], "attributes": {"rotation": 12.5}},
  {"id": 11, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "angle": 30, "rotation": 2.50},
  {"id": 12, "image_id": 2, "category_id": 1, "bbox": [1, 2, 123456789012345678901234567890, 4]},
  {"id": 13, "image_id": 2, "category_id": 1, "bbox": [1, 2, 9007199254740993, 4], "name": "\ud800"},
  {}, {"segments": [{"id": 1}, {"id": 2}]}, 17, null, {"id": 15, "id": 16}
 ],
 "images": [
  {"file_name": "a.jpg", "id": 2, "width": 640, "height": 480, "license": 1},
  {"id": 1, "file_name": "caf\u00e9.jpg", "width": 640.0, "height": 480}, {"id": 3, "file_name": null}, {"name": "x"}
 ],
 "categories": [{"id": 1, "name": "b", "keypoints": ["n"]}], "licenses": [], "empty": {}
}
"""


def round_trip(folder: Path, text: str | bytes) -> tuple[bytes, bytes]:
    """The compact text of a file, and that of the file that Parquet gives back."""
    path, there, back = folder / "in.json", folder / "there", folder / "back"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    write_parquet([str(path)], there, on_progress=lambda *_: None)
    write_coco(str(there), back, on_progress=lambda *_: None)
    return path.read_bytes(), (back / "annotations.json").read_bytes()


@pytest.mark.parametrize("source", [sample_annotations("bccd"), sample_annotations("nuclei"), TACO])
def test_files_come_back_byte_for_byte(tmp_path, source):
    before, after = round_trip(tmp_path, Path(source).read_bytes())
    assert after == msgspec.json.format(before, indent=-1)


def without_spaces(text: str) -> str:
    """JSON without spaces outside of texts, character by character."""
    kept, inside, escaped = [], False, False
    for sign in text:
        if inside or not sign.isspace():
            kept.append(sign)
        inside ^= sign == '"' and not escaped
        escaped = sign == "\\" and not escaped
    return "".join(kept)


def test_odd_numbers_texts_types_and_fields_come_back(tmp_path):
    before, after = round_trip(tmp_path, ODD)
    assert after.decode() == without_spaces(before.decode())


def test_empty_lists_come_back(tmp_path):
    assert round_trip(tmp_path, '{"images": [ ], "annotations":[]}')[1] == b'{"images":[],"annotations":[]}'


numbers = st.one_of(st.integers(), st.floats(), st.integers(-10, 700))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
entries = st.dictionaries(
    st.sampled_from(
        ["id", "image_id", "category_id", "area", "iscrowd", "x", "raw", "attributes", "segmentation", "a"]
    ),
    st.one_of(numbers, values),
    max_size=6,
)
annotations = st.tuples(
    entries,
    st.fixed_dictionaries(
        {"image_id": st.integers(0, 600), "category_id": st.just(1)},
        optional={
            "bbox": st.one_of(st.lists(numbers, min_size=4, max_size=4), values),
            "keypoints": st.lists(numbers, max_size=6),
        },
    ),
).map(lambda both: both[0] | both[1])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(annotations, entries), max_size=8),
    st.lists(st.one_of(entries, values), max_size=5),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_any_entries_come_back(tmp_path_factory, annotations, images, ascii_only, indent):
    content = {"annotations": annotations, "images": images, "categories": []}
    text = json.dumps(content, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    _, after = round_trip(tmp_path_factory.mktemp("any"), text)
    assert after.decode() == json.dumps(json.loads(text), ensure_ascii=ascii_only, separators=(",", ":"))


def test_order_is_kept_over_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("detect.data.parquet_writer.PART_BYTES", 2000)
    monkeypatch.setattr("detect.data.buckets.FLUSH_BYTES", 3000)
    monkeypatch.setattr("detect.data.coco_blocks.BLOCK_BYTES", 512)
    images = [{"id": 256 * number % 7919, "file_name": f"{number}.jpg"} for number in range(60)]
    boxes = [
        {"id": n, "image_id": images[n * 37 % 60]["id"], "category_id": 1, "bbox": [n, 0, 1, 1]} for n in range(400)
    ]
    before, after = round_trip(tmp_path, json.dumps({"annotations": boxes, "images": images, "categories": []}))
    assert len(list((tmp_path / "there" / "annotations").iterdir())) > 10
    assert json.loads(after) == json.loads(before)


def test_a_missing_part_leaves_nothing(tmp_path):
    write_parquet([str(sample_annotations("bccd"))], tmp_path / "in", on_progress=lambda *_: None)
    (tmp_path / "in" / "annotations" / "part-00000.parquet").unlink()
    with pytest.raises(CocoError, match=r"part-00000\.parquet: there is no such file"):
        write_coco(str(tmp_path / "in"), tmp_path / "out", on_progress=lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "in" / DESCRIPTION).unlink()
    with pytest.raises(CocoError, match=r"dataset\.json: there is no such file"):
        write_coco(str(tmp_path / "in"), tmp_path / "out", on_progress=lambda *_: None)
