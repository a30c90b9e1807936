"""``detect convert`` as a user types it."""

from __future__ import annotations

import errno
import json
import sys
from typing import get_args

import msgspec
import pytest
from builders import label_folder, written
from coco_files import coco_with_one_box

from detect.cli.convert_labels import LabelFormat
from detect.data import read_coco
from detect.data.formats.label_files import WRITERS
from detect.samples import sample_annotations

YOLO = {
    "images/a.png": (100, 50),
    "labels/a.txt": "0 .5 .5 .2 .6\n0 .5 .5 .2\n",
    "data.yaml": "train: images\nnames: [cat]",
}
BCCD, NUCLEI = sample_annotations("bccd"), sample_annotations("nuclei")


def to(name: str, source: object, folder: object) -> tuple[object, ...]:
    return "convert", source, "--to", name, "-o", folder


def test_choices_are_the_writers():
    assert set(get_args(LabelFormat)) == {*WRITERS, "parquet"}


def test_a_folder_becomes_a_coco_file_and_what_is_lost_is_printed(detect, tmp_path):
    run = detect(*to("coco", label_folder(tmp_path / "in", YOLO), tmp_path / "out"))
    assert run.code == 0
    assert "written as coco: files 1, images 1, annotations 1, categories 1" in run.out
    assert "not held: segmentations" in run.out
    assert "1 invalid:" in run.out
    assert "labels/a.txt, line 2: annotation 2, image 1: 4 numbers are no box" in run.out
    assert run.err.endswith(f"wrote {tmp_path / 'out'}\n")
    assert read_coco(tmp_path / "out" / "annotations.json").instances.boxes_xywh.tolist() == [[40, 10, 20, 30]]


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_counts_are_an_object_on_request(detect, tmp_path, name):
    counts = detect(*to(name, label_folder(tmp_path / "in", YOLO), tmp_path / "out"), "--json").json
    assert [counts[key] for key in ("format", "images", "annotations", "invalid")] == [name, 1, 1, 1]
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == counts["files"]


def test_nothing_is_written_over_or_in_part(refused, tmp_path):
    names = [{"id": number, "width": 9, "height": 9, "file_name": f"a.{number}.png"} for number in (1, 2)]
    names[1]["file_name"] = "../b.png"
    content = {"images": names, "annotations": [], "categories": []}
    file, out = label_folder(tmp_path, {"a.json": json.dumps(content), "out/x": "kept"}) / "a.json", tmp_path / "out"
    assert f"{out}: cannot be written: it exists and is not an empty folder" in refused(*to("coco", file, out))
    message = refused(*to("yolo", file, tmp_path / "new"))
    assert "image 2: the name '../b.png' leads out of the folder" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "out"]


def test_coco_becomes_parquet_and_the_same_file_again(detect, tmp_path):
    run = detect(*to("parquet", BCCD, tmp_path / "there"))
    assert (run.code, run.out) == (0, "written as parquet: parts 1, images 364, annotations 4,888\n")
    run = detect(*to("coco", tmp_path / "there", tmp_path / "back"), "--json")
    assert run.json == {"format": "coco", "parts": 1, "images": 364, "annotations": 4888, "lost": []}
    text = msgspec.json.format(BCCD.read_bytes(), indent=-1)
    assert (tmp_path / "back" / "annotations.json").read_bytes() == text


def test_a_folder_and_a_pattern_become_parquet_and_coco_as_their_files(detect, tmp_path):
    content = label_folder(tmp_path / "in", {"a.json": json.dumps(coco_with_one_box())})
    for source, made in ((content, "one"), (f"{content}/*.json", "two")):
        assert (
            detect(*to("parquet", source, tmp_path / made)).out
            == "written as parquet: parts 1, images 1, annotations 1\n"
        )
    assert detect(*to("coco", tmp_path / "on*", tmp_path / "back")).code == 0
    assert json.loads((tmp_path / "back" / "annotations.json").read_text()) == coco_with_one_box()
    (content / "b.json").write_text("")
    run = detect(*to("parquet", content, tmp_path / "three"))
    assert "b.json: is empty: no label file" in run.out


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "parquet"])
def test_a_dataset_without_images_is_written(detect, tmp_path, kind):
    path = written(tmp_path / "a.json", {"images": [], "annotations": [], "categories": []})
    assert detect(*to(kind, path, tmp_path / "out")).code == 0


@pytest.mark.parametrize("command", [("anchors", "fit"), ("advise", "--for", "yolo11")])
def test_commands_read_the_folder_as_the_file(detect, tmp_path, command):
    detect(*to("parquet", NUCLEI, tmp_path / "out"))
    expected, found = (detect(*command, path, "--json") for path in (NUCLEI, tmp_path / "out"))
    assert found.code == expected.code == 0
    assert found.out.replace(str(tmp_path / "out"), str(NUCLEI)) == expected.out


def test_other_formats_and_options_go_through_memory(detect, tmp_path):
    run = detect(*to("parquet", label_folder(tmp_path / "in", YOLO), tmp_path / "out"))
    assert "written as parquet: files 3, images 1, annotations 1, categories 1" in run.out
    assert "not held: segmentations" in run.out
    assert detect(*to("yolo", tmp_path / "out", tmp_path / "back")).code == 0
    assert (tmp_path / "back" / "labels" / "a.txt").read_text() == "0 0.5 0.5 0.2 0.6\n"
    run = detect(*to("parquet", BCCD, tmp_path / "part"), "--ignore-category", "RBC")
    assert "annotations 733" in run.out


def test_without_the_extra_one_line_says_what_to_install(detect, refused, tmp_path, monkeypatch):
    there, out = tmp_path / "there", tmp_path / "out"
    detect(*to("parquet", BCCD, there))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for arguments in (to("parquet", BCCD, out), to("coco", there, out), ("anchors", "fit", there)):
        assert "Parquet needs pyarrow: pip install 'detect-heads[scale]'" in refused(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_full_disk_and_a_url_are_one_line(refused, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert "write to a local folder" in refused(*to("parquet", BCCD, "s3://bucket/out"))
    monkeypatch.setattr("detect.data.parquet_writer.pq.write_table", full)
    assert "out: cannot be written: No space left on device" in refused(*to("parquet", BCCD, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []
