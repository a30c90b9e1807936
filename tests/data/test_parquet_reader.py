"""Parquet datasets are read as the COCO files they were made of."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detect.data import entry_columns
from detect.data.coco_dataset import image_sources
from detect.data.parquet_files import parquet_parts
from detect.data.parquet_reader import read_columns, read_image_field, read_part
from detect.data.parquet_writer import write_parquet
from detect.data.read_dataset import read_dataset
from detect.errors import CocoError
from detect.samples import sample_annotations

TACO = Path(__file__).parent / "taco" / "faults.json"
IMAGES = [{"id": number, "width": 64, "height": 48, "file_name": f"{number}.jpg"} for number in (1, 2, 3)]
PLAIN = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
ODD = {
    "images": [*IMAGES, {"id": 4, "file_name": "d.jpg"}, {"id": "5", "width": 0, "height": 4}, {"id": 6, "width": 9.0}],
    "annotations": [
        {"id": 1, **PLAIN},
        {**PLAIN, "image_id": 2},
        {"id": "x", **PLAIN, "bbox": ["1", 2, 3, 4]},
        {"id": 3, **PLAIN, "bbox": None, "segmentation": [[1, 2, 9, 2, 9, 9]]},
        {"id": 13, **PLAIN, "bbox": [1, 2, 3, 4, 30], "segmentation": [[1, 2, 9, 2, 9, 9]]},
        {"id": 4, **PLAIN, "attributes": {"rotation": 30}},
        {"id": 5, **PLAIN, "angle": 12.5, "keypoints": [1, 2, 2, 3, 4, 0]},
        {"id": 6, **PLAIN, "keypoints": [1, 2]},
        {"id": 7, **PLAIN, "image_id": 99},
        {"id": 8, **PLAIN, "category_id": 77},
        {"id": 9, "image_id": 3, "category_id": 1, "keypoints": [4, 5, 2]},
        {"id": 10, **PLAIN, "bbox": [60, 2, 30, 4], "iscrowd": True, "area": "12"},
        {"id": 11, **PLAIN, "image_id": 4, "bbox": [1, 2, -3, 4]},
        {"image_id": 1},
    ],
    "categories": [{"id": 1, "name": "a", "keypoints": ["p", "q"]}],
}


def convert(source, folder: Path) -> Path:
    write_parquet([str(source)], folder, on_progress=lambda *_: None)
    return folder


@pytest.fixture
def odd(tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps(ODD))
    return tmp_path / "odd.json"


def test_an_integer_longer_than_python_reads_refuses_its_row(tmp_path):
    text = json.dumps({**ODD, "annotations": [{"id": 1, **PLAIN}, {"id": 2, **PLAIN, "bbox": ["here", 2, 3, 4]}]})
    for also in ("1", "NaN"):  # which only Python's reader takes
        (tmp_path / "a.json").write_text(
            text.replace('"here"', "9" * 5000).replace('"id": 1, "im', f'"x": {also}, "id": 1, "im')
        )
        dataset = read_dataset(convert(tmp_path / "a.json", tmp_path / also))
        assert [each.reason for each in dataset.invalid if each.annotation_id == 2] == [
            "bbox [inf, 2, 3, 4] is not finite"
        ]
        assert dataset.annotations.ids.tolist() == [1]


def findings(dataset):
    found = [(each.annotation_id, each.image_id, each.reason) for each in (*dataset.invalid, *dataset.suspicious)]
    return [each for each in found if "entry " not in each[2]]


@pytest.mark.parametrize("options", [{}, {"keypoints": True}, {"angles": True, "keypoints": True}])
@pytest.mark.parametrize("source", [sample_annotations("bccd"), sample_annotations("nuclei"), TACO, "odd"])
def test_the_dataset_is_that_of_the_file(tmp_path, odd, source, options):
    source = odd if source == "odd" else source
    expected, found = read_dataset(source, **options), read_dataset(convert(source, tmp_path / "out"), **options)
    assert findings(found) == findings(expected)
    assert len(found.invalid) == len(expected.invalid)
    assert (found.categories, found.images.file_names, found.unsized) == (
        *(expected.categories, expected.images.file_names, expected.unsized),
    )
    assert (found.keypoint_names, found.angle_fields) == (expected.keypoint_names, expected.angle_fields)
    for name, column in {**vars(expected.annotations), "wh": expected.images.wh}.items():
        own = {**vars(found.annotations), "wh": found.images.wh}[name]
        if name == "keypoints" and column is not None:
            np.testing.assert_array_equal(np.concatenate(own), np.concatenate(column))
        else:
            np.testing.assert_array_equal(own, column)


def test_a_folder_is_read_by_url(tmp_path):
    local = convert(sample_annotations("nuclei"), tmp_path / "out")
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/nuclei", recursive=True)
    found, expected = read_dataset("memory://nuclei", keypoints=True), read_dataset(local, keypoints=True)
    assert found.files == ("memory://nuclei",)
    np.testing.assert_array_equal(found.annotations.boxes_xywh, expected.annotations.boxes_xywh)
    part = read_dataset("memory://nuclei/annotations/part-00000.parquet")
    assert len(part.annotations) == len(expected.annotations)
    memory.rm("/nuclei/images/part-00000.parquet")
    with pytest.raises(CocoError, match=r"memory://nuclei/images/part-00000\.parquet: there is no such file"):
        read_dataset("memory://nuclei")


def test_images_have_the_sources_of_their_file(tmp_path):
    images = [image | source for image, source in zip(IMAGES, ({"source": "a"}, {}, {"source": "a"}), strict=True)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": []}))
    found = read_dataset(convert(tmp_path / "a.json", tmp_path / "out"))
    np.testing.assert_array_equal(image_sources(found), image_sources(read_dataset(tmp_path / "a.json")))
    assert len(set(image_sources(found).tolist())) == 2
    assert read_image_field(str(tmp_path / "out"), "source") == [{"id": 1, "source": "a"}, {"id": 3, "source": "a"}]
    assert read_image_field(str(tmp_path / "out"), "nothing") == []


def test_a_single_part_is_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("detect.data.parquet_writer.PART_BYTES", 100_000)
    out = convert(sample_annotations("bccd"), tmp_path / "out")
    parts = parquet_parts(str(out))
    assert sum(len(read_part(part).annotations) for part in parts) == 4888
    one = read_dataset(parts[1].annotations_file)
    assert (len(one.images), len(one.annotations)) == (parts[1].num_images, parts[1].num_annotations - len(one.invalid))


def rewrite(path: Path, change) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "a truncated or damaged Parquet file"),
        (lambda path: path.write_bytes(b""), "a truncated or damaged Parquet file"),
        (lambda path: path.write_bytes(b"PAR1" + bytes(50) + b"PAR1"), "a truncated or damaged Parquet file"),
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: rewrite(path, lambda table: table.slice(1)), "4,887 rows, and dataset.json says 4,888"),
        (lambda path: rewrite(path, lambda table: table.drop_columns("area")), "no column 'area'"),
        (
            lambda path: rewrite(path, lambda table: table.set_column(1, "id", pa.array(["a"] * len(table)))),
            "column 'id' is",
        ),
    ],
)
def test_a_damaged_part_is_named_with_the_reason(tmp_path, damage, reason):
    out = convert(sample_annotations("bccd"), tmp_path / "out")
    damage(out / "annotations" / "part-00000.parquet")
    with pytest.raises(CocoError, match=rf"annotations/part-00000\.parquet: {reason}"):
        read_dataset(out)


def test_damage_inside_a_column_is_named(tmp_path):
    path = convert(sample_annotations("bccd"), tmp_path / "out") / "annotations" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    with pytest.raises(CocoError, match=r"part-00000\.parquet: a truncated or damaged Parquet file"):
        read_dataset(tmp_path / "out")


def test_other_categories_are_findings_of_their_part(tmp_path):
    out = convert(sample_annotations("bccd"), tmp_path / "out")
    path = out / "annotations" / "part-00000.parquet"
    rewrite(path, lambda table: table.set_column(4, "category_id", pa.array([99] * len(table))))
    invalid = read_dataset(out).invalid
    assert len(invalid) == 4888
    assert str(invalid[0]).startswith(f"{path}: annotation 1")
    assert str(invalid[0]).endswith("no category has the id 99")


def test_an_empty_dataset_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    dataset = read_dataset(convert(tmp_path / "a.json", tmp_path / "out"), keypoints=True, angles=True)
    assert (len(dataset.images), len(dataset.annotations)) == (0, 0)


def test_a_foreign_parquet_file_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CocoError, match=r"a\.parquet: a Parquet file that is no part of a dataset"):
        read_dataset(tmp_path / "a.parquet")
    with pytest.raises(CocoError, match=r"a\.parquet: no column 'id'"):
        read_columns(str(tmp_path / "a.parquet"), entry_columns.IMAGES, ["id"], 1)
