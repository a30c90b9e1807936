"""``detect convert`` as a user types it."""

from __future__ import annotations

import errno
import json
import sys
from typing import get_args

import msgspec
import pytest
from builders import label_folder

from detect.cli.convert_labels import LabelFormat
from detect.data import read_coco
from detect.data.formats.label_files import WRITERS
from detect.samples import sample_annotations

YOLO = {
    "images/a.png": (100, 50),
    "labels/a.txt": "0 .5 .5 .2 .6\n0 .5 .5 .2\n",
    "data.yaml": "train: images\nnames: [cat]",
}


def test_choices_are_the_writers():
    assert set(get_args(LabelFormat)) == {*WRITERS, "parquet"}


def test_a_folder_becomes_a_coco_file_and_what_is_lost_is_printed(detect, tmp_path):
    folder = label_folder(tmp_path / "in", YOLO)
    run = detect("convert", folder, "--to", "coco", "-o", tmp_path / "out")
    assert run.code == 0
    assert "written as coco: files 1, images 1, annotations 1, categories 1" in run.out
    assert "not held: segmentations" in run.out
    assert "1 invalid:" in run.out
    assert "labels/a.txt, line 2: annotation 2, image 1: 4 numbers are no box" in run.out
    assert run.err.endswith(f"wrote {tmp_path / 'out'}\n")
    assert read_coco(tmp_path / "out" / "annotations.json").instances.boxes_xywh.tolist() == [[40, 10, 20, 30]]


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_counts_are_an_object_on_request(detect, tmp_path, to):
    folder = label_folder(tmp_path / "in", YOLO)
    run = detect("convert", folder, "--to", to, "-o", tmp_path / "out", "--json")
    assert {key: run.json[key] for key in ("format", "images", "annotations", "invalid")} == {
        "format": to,
        "images": 1,
        "annotations": 1,
        "invalid": 1,
    }
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == run.json["files"]


def test_nothing_is_written_over_or_in_part(detect, tmp_path):
    names = [{"id": number, "width": 9, "height": 9, "file_name": f"a.{number}.png"} for number in (1, 2)]
    names[1]["file_name"] = "../b.png"
    label_folder(
        tmp_path, {"a.json": json.dumps({"images": names, "annotations": [], "categories": []}), "out/x": "kept"}
    )
    run = detect("convert", tmp_path / "a.json", "--to", "coco", "-o", tmp_path / "out")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'out'}: cannot be written: it exists and is not an empty folder" in run.err
    run = detect("convert", tmp_path / "a.json", "--to", "yolo", "-o", tmp_path / "new")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "image 2: the name '../b.png' leads out of the folder" in run.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "out"]


def test_coco_becomes_parquet_and_the_same_file_again(detect, tmp_path):
    run = detect("convert", sample_annotations("bccd"), "--to", "parquet", "-o", tmp_path / "there")
    assert (run.code, run.out) == (0, "written as parquet: parts 1, images 364, annotations 4,888\n")
    run = detect("convert", tmp_path / "there", "--to", "coco", "-o", tmp_path / "back", "--json")
    assert run.json == {"format": "coco", "parts": 1, "images": 364, "annotations": 4888, "lost": []}
    text = msgspec.json.format(sample_annotations("bccd").read_bytes(), indent=-1)
    assert (tmp_path / "back" / "annotations.json").read_bytes() == text


@pytest.mark.parametrize("command", [("anchors", "fit"), ("advise", "--for", "yolo11")])
def test_commands_read_the_folder_as_the_file(detect, tmp_path, command):
    detect("convert", sample_annotations("nuclei"), "--to", "parquet", "-o", tmp_path / "out")
    expected, found = (detect(*command, path, "--json") for path in (sample_annotations("nuclei"), tmp_path / "out"))
    assert found.code == expected.code == 0
    assert found.out.replace(str(tmp_path / "out"), str(sample_annotations("nuclei"))) == expected.out


def test_other_formats_and_options_go_through_memory(detect, tmp_path):
    folder = label_folder(tmp_path / "in", YOLO)
    run = detect("convert", folder, "--to", "parquet", "-o", tmp_path / "out")
    assert run.code == 0
    assert "written as parquet: files 3, images 1, annotations 1, categories 1" in run.out
    assert "not held: segmentations" in run.out
    run = detect("convert", tmp_path / "out", "--to", "yolo", "-o", tmp_path / "back")
    assert run.code == 0
    assert (tmp_path / "back" / "labels" / "a.txt").read_text() == "0 0.5 0.5 0.2 0.6\n"
    run = detect(
        "convert", sample_annotations("bccd"), "--to", "parquet", "-o", tmp_path / "part", "--ignore-category", "RBC"
    )
    assert "annotations 733" in run.out


def test_without_the_extra_one_line_says_what_to_install(detect, tmp_path, monkeypatch):
    detect("convert", sample_annotations("bccd"), "--to", "parquet", "-o", tmp_path / "there")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for arguments in (
        ("convert", sample_annotations("bccd"), "--to", "parquet", "-o", tmp_path / "out"),
        ("convert", tmp_path / "there", "--to", "coco", "-o", tmp_path / "out"),
        ("anchors", "fit", tmp_path / "there"),
    ):
        run = detect(*arguments)
        assert (run.code, run.err.count("\n")) == (2, 1)
        assert "Parquet needs pyarrow: pip install 'detect-heads[scale]'" in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_full_disk_and_a_url_are_one_line(detect, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = detect("convert", sample_annotations("bccd"), "--to", "parquet", "-o", "s3://bucket/out")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "write to a local folder" in run.err
    monkeypatch.setattr("detect.data.parquet_writer.pq.write_table", full)
    run = detect("convert", sample_annotations("bccd"), "--to", "parquet", "-o", tmp_path / "out")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "out: cannot be written: No space left on device" in run.err
    assert list(tmp_path.iterdir()) == []
