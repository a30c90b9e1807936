"""COCO files as Parquet datasets."""

from __future__ import annotations

import errno
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detect.data.parquet_files import read_description
from detect.data.parquet_writer import write_parquet, write_parts
from detect.data.read_dataset import read_dataset
from detect.errors import CocoError

IMAGE = {"id": 1, "width": 64, "height": 48, "file_name": "a.jpg"}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}


def written(folder, *contents):
    files = []
    for number, content in enumerate(contents):
        files.append(str(folder / f"{number}.json"))
        (folder / f"{number}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    write_parquet(files, folder / "out", on_progress=lambda *_: None)
    return folder / "out"


def test_a_part_holds_images_and_their_annotations_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr("detect.data.parquet_writer.PART_BYTES", 4000)
    images = [{**IMAGE, "id": 1000 * number % 997} for number in range(1, 60)]
    boxes = [{**BOX, "id": n, "image_id": images[n * 31 % 59]["id"]} for n in range(200)] + [{**BOX, "image_id": 5000}]
    out = written(tmp_path, {"annotations": boxes, "images": images, "categories": [{"id": 1}], "info": {"n": 1}})
    parts = sorted((out / "annotations").iterdir())
    assert len(parts) == len(list((out / "images").iterdir())) > 3
    for part in parts:
        annotations, own = pq.read_table(part).to_pydict(), pq.read_table(out / "images" / part.name)["id"].to_pylist()
        assert own == sorted(own)
        keys = list(zip(annotations["image_id"], annotations["id"], strict=True))
        assert keys == sorted(keys)
        found = [own[row] if row >= 0 else 5000 for row in annotations["image_row"]]
        assert found == annotations["image_id"]
    described = json.loads((out / "dataset.json").read_text())
    assert described["others"] == {"categories": [{"id": 1}], "info": {"n": 1}}
    assert np.sum(described["parts"], axis=0).tolist() == [59, 201]


def test_shards_share_images_and_categories(tmp_path):
    first = {"images": [IMAGE], "annotations": [BOX], "categories": [{"id": 1, "name": "a"}], "info": 1}
    second = {
        "images": [IMAGE],
        "annotations": [{**BOX, "id": 2, "bbox": [5, 6, 7, 8]}],
        "categories": [{"id": 2, "name": "b"}],
        "info": 2,
    }
    out = written(tmp_path, first, second)
    dataset = read_dataset(out)
    assert (len(dataset.images), len(dataset.annotations), dict(dataset.categories)) == (1, 2, {1: "a", 2: "b"})
    assert dataset.suspicious == ()  # the image is not repeated
    described = read_description(str(out))
    assert bytes(described.others["info"]) == b"1"
    assert described.lost == [f"'info' of {tmp_path / '1.json'}, which is another than before"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"images": []}', "no list 'annotations' in it"),
        ('{"images": {}, "annotations": []}', "'images' is not a list"),
        ('{"images": [], "annotations": [{"id": 1}, {"id"', "the JSON breaks off"),
        ("[]", "no object at the top"),
    ],
)
def test_files_that_are_not_coco_leave_nothing(tmp_path, text, reason):
    with pytest.raises(CocoError, match=f"0.json: {reason}"):
        written(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]


def test_categories_of_shards_that_are_no_lists_are_an_error(tmp_path):
    shards = [{"images": [], "annotations": [], "categories": own} for own in ([], {"a": 1})]
    with pytest.raises(CocoError, match=r"1\.json: its categories, or those of the files before it, are no list"):
        written(tmp_path, *shards)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("detect.data.parquet_writer.pq.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path, {"images": [IMAGE], "annotations": [BOX]})
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]


def test_an_image_with_more_objects_than_are_sorted_at_once_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("detect.data.parquet_writer.SORTED_BYTES", 100)
    boxes = [{**BOX, "id": number} for number in range(50, 0, -1)]
    out = written(tmp_path, {"images": [IMAGE], "annotations": boxes, "categories": [{"id": 1}]})
    assert read_dataset(out).annotations.ids.tolist() == list(range(1, 51))


def test_columns_become_a_dataset(tmp_path):
    images = pa.table({"id": [3], "width": [64], "height": [48]})
    boxes = {name: [1.5, 2.0] for name in ("x", "y", "width", "height")}
    annotations = pa.table({"id": [1, 2], "image_id": [3, 3], "category_id": [1, 1], **boxes})
    write_parts(tmp_path / "out", [(images, annotations)], {"categories": [{"id": 1, "name": "a"}]})
    dataset = read_dataset(tmp_path / "out")
    assert dataset.annotations.boxes_xywh.tolist() == [[1.5] * 4, [2.0] * 4]
    assert dataset.annotations.area.tolist() == [2.25, 4.0]
    assert dict(dataset.categories) == {1: "a"}
