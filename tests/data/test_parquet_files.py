"""The folder of a Parquet dataset, and what describes it."""

from __future__ import annotations

import json
import sys

import pytest

from detect.data.parquet_files import Part, is_parquet_dataset, needed, open_file, parquet_parts
from detect.data.parquet_writer import write_parquet
from detect.errors import CocoError, MissingExtraError
from detect.samples import sample_annotations


@pytest.fixture
def folder(tmp_path):
    write_parquet([str(sample_annotations("nuclei"))], tmp_path / "in", on_progress=lambda *_: None)
    return tmp_path / "in"


def test_parts_are_known_from_the_description(folder):
    part = Part(str(folder), 0, 80, 318)
    assert parquet_parts(str(folder)) == parquet_parts(f"{folder}/") == parquet_parts(part.annotations_file) == [part]
    with pytest.raises(CocoError, match=r"part-00001\.parquet: not a part of the dataset .*, which has 1"):
        parquet_parts(str(folder / "images" / "part-00001.parquet"))


def test_a_dataset_is_told_from_other_folders(folder, tmp_path):
    assert is_parquet_dataset(str(folder))
    assert is_parquet_dataset(str(folder / "annotations" / "part-00000.parquet"))
    assert is_parquet_dataset("s3://bucket/folder")
    assert not is_parquet_dataset(str(tmp_path))
    (tmp_path / "dataset.json").write_text('{"images": []}')
    assert not is_parquet_dataset(str(tmp_path))


def test_a_newer_version_or_another_file_is_named(folder):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(
        CocoError, match=r"dataset\.json: a newer version of detect wrote it \(format 2, this one reads 1"
    ):
        parquet_parts(str(folder))
    for text in ("{}", "[1]", '{"format": "detect-parquet"'):
        path.write_text(text)
        with pytest.raises(CocoError, match=r"dataset\.json: not the description of a Parquet dataset"):
            parquet_parts(str(folder))


def test_a_description_has_each_key_and_field_once_with_what_belongs_to_it(folder):
    path = folder / "dataset.json"
    whole = json.loads(path.read_text())
    fields = whole["fields"]
    for change in (
        {"keys": [*whole["keys"], "images"]},
        {"keys": [*whole["keys"], "info"]},
        {"keys": whole["keys"][1:]},
        {"fields": {"images": fields["images"]}},
        {"fields": {**fields, "images": [*fields["images"], "id"]}},
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(CocoError, match=r"dataset\.json: not the description of a Parquet dataset"):
            parquet_parts(str(folder))
    path.write_text(json.dumps(whole))
    assert len(parquet_parts(str(folder))) == 1


def test_urls_are_opened_by_fsspec():
    with pytest.raises(CocoError, match="memory://no/such: there is no such file"), open_file("memory://no/such"):
        pass
    with pytest.raises(CocoError, match="nonsense://a: Protocol not known"), open_file("nonsense://a"):
        pass


def test_any_error_of_a_connection_is_one_line(monkeypatch):
    class UnreachableError(Exception):
        """As the packages of clouds have them: no OSError."""

    def offline(url, mode):
        raise UnreachableError("Could not connect\nto the endpoint")

    monkeypatch.setattr("fsspec.open", offline)
    with pytest.raises(CocoError, match=r"^s3://a/b: Could not connect to the endpoint$"), open_file("s3://a/b"):
        pass


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"^data: Parquet needs pyarrow: pip install 'detect-heads\[scale\]'$"):
        needed("pyarrow", "data")
