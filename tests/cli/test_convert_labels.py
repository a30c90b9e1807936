"""``detect convert`` as a user types it."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from builders import label_folder

from detect.cli.convert_labels import LabelFormat
from detect.data import read_coco
from detect.data.formats.label_files import WRITERS

YOLO = {
    "images/a.png": (100, 50),
    "labels/a.txt": "0 .5 .5 .2 .6\n0 .5 .5 .2\n",
    "data.yaml": "train: images\nnames: [cat]",
}


def test_choices_are_the_writers():
    assert set(get_args(LabelFormat)) == set(WRITERS)


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
