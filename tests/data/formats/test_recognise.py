"""The format of files and folders, told from their content; and what is said of others."""

from __future__ import annotations

import gzip

import pytest
from builders import findings_below, label_folder
from coco_files import ONE_BOX_TEXT

from detect.data.formats.recognise import NAMES, FolderLabels, format_of, labels_in
from detect.errors import CocoError

CONTENTS: dict[str, list[str | bytes]] = {
    "coco": [
        ONE_BOX_TEXT,
        gzip.compress(ONE_BOX_TEXT),
        b"\xef\xbb\xbf" + ONE_BOX_TEXT,
        '{"images": [',
        "[1]",
        "{broken",
    ],
    "yolo": ["0 .5 .5 .2 .6\n", "0 1e-3 .5 .2 .6 .4 .2\r\n", b"\xef\xbb\xbf0 .5 .5 .2 .6", "0 0,5 0,5 0,2 0,6"],
    "yolo-yaml": ["path: .\ntrain: images\nnames:\n  0: cat\n", "# data\nnames: [a]\nval: x\n"],
    "darknet": ["data/obj/a.jpg\n", "C:\\images\\a b.PNG\n", "classes= 2\ntrain  = data/train.txt\n"],
    "voc": ["<annotation>\n<folder/></annotation>", '<?xml version="1.0"?>\n<annotation verified="yes">'],
    "cvat": ['<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>'],
    "labelme": ['{"version": "5", "flags": {}, "shapes": [{"label": "a"}]}', '{"imageData": "QQ==", "shapes": []}'],
    "label-studio": ['[{"id": 1, "annotations": [], "data": {"image": "a.png"}}]'],
    "image-folder": ['{"file_name": "a.png", "objects": {"bbox": []}}\n{"file_name": "b.png"}\n'],
    "points": ["index,axis-0,axis-1\n0,1,2", "x;y\n1;2", '\ufeff"Label","X","Y"\n'],
    "geojson": ['{"type": "FeatureCollection", "features": []}', '[{"type": "Feature", "geometry": {}}]'],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", ["a", "a.txt", "a.json"])
def test_a_format_is_told_from_the_content_not_from_the_name(tmp_path, kind, name):
    for content in CONTENTS[kind]:
        label_folder(tmp_path, {name: content})
        assert format_of(str(tmp_path / name)) == kind


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ("Dear reader,\nthese are no labels", "starts with 'Dear reader, these are no labels'"),
        ('{"name": "a package"}', 'starts with \'{"name": "a package"}\''),
        ("<html><body/></html>", "starts with '<html>"),
        (b"\x89PNG\r\n\x1a\n\x00", "starts with "),
    ],
)
def test_of_other_content_the_message_says_what_was_seen_and_what_is_understood(tmp_path, content, seen):
    label_folder(tmp_path, {"a.txt": content})
    with pytest.raises(CocoError) as caught:
        format_of(str(tmp_path / "a.txt"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.txt'}: {seen}")
    assert "none of COCO JSON, YOLO text" in message
    assert "\n" not in message


def test_an_empty_text_is_the_label_file_of_an_image_without_objects_and_nothing_else_is(tmp_path):
    label_folder(tmp_path, {"a.txt": "\n", "a.json": "", "a.xml": " "})
    assert format_of(str(tmp_path / "a.txt")) == "yolo"
    for name in ("a.json", "a.xml"):
        with pytest.raises(CocoError, match="is empty, which is none of"):
            format_of(str(tmp_path / name))


def test_a_folder_has_the_format_of_its_labels_whatever_else_is_in_it(tmp_path):
    label_folder(tmp_path / "a", {"x/1.xml": "<annotation/>", "package.json": '{"name": "a"}', "README.txt": "Hello"})
    assert labels_in(str(tmp_path / "a")) == FolderLabels("voc", [str(tmp_path / "a" / "x" / "1.xml")], [])
    texts = {
        "labels/1.txt": "",
        "labels/2.txt": "broken",
        "labels/3.txt": "0 .5 .5 .2 .6",
        "labels/train.txt": "0 1 1 1 1",
    }
    label_folder(tmp_path / "b", {**texts, "classes.txt": "cat", "val.txt": "images/1.png", "notes.json": '{"a": 1}'})
    assert labels_in(str(tmp_path / "b")) == FolderLabels("yolo", [str(tmp_path / "b" / name) for name in texts], [])


def test_a_json_file_of_no_format_among_json_labels_is_left_out_and_told(tmp_path):
    files = {"1.json": CONTENTS["labelme"][0], "2.json": "", "3.json": '{"a": 1}', "4.json/x": "", "5.txt": "Hello"}
    label_folder(tmp_path, files)
    found = labels_in(str(tmp_path))
    assert (found.format, found.files) == ("labelme", [str(tmp_path / "1.json")])
    assert findings_below(tmp_path, found.left_out) == [
        "2.json: is empty: no label file",
        "3.json: starts with '{\"a\": 1}': no label file",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no labels in this folder: understood are COCO JSON"),
        ({"a.png": (4, 4)}, "no labels in this folder"),
        (
            {"1.xml": "<annotation/>", "1.txt": "0 .5 .5 .2 .6", "2.txt": ""},
            r"several formats: VOC XML \(1\.xml\), YOLO text \(1\.txt, and 1 more\): give the files of one",
        ),
    ],
)
def test_a_folder_without_labels_or_with_several_formats_is_refused(tmp_path, files, message):
    label_folder(tmp_path, files)
    with pytest.raises(CocoError, match=message):
        labels_in(str(tmp_path))
