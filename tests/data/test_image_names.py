"""Names of images as label tools write them, found below a folder."""

from __future__ import annotations

import os

import pytest
from builders import findings_below, label_folder

from detect.data.image_names import ImageFolder, files_below, image_names, name_hint, without_suffix
from detect.errors import CocoError

NAMES = ("a.png", "b/c.jpg", "b/c.png", "b/d.x.TIF", "e/f.png", "g/f.png", "h/i.png")


@pytest.fixture
def folder(tmp_path) -> ImageFolder:
    label_folder(tmp_path, {**dict.fromkeys(NAMES, b""), "b/c.txt": "", "notes.md": ""})
    return ImageFolder(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", "a.png"),
        ("a", "a.png"),
        ("b/c.jpg", "b/c.jpg"),
        ("b\\c.png", "b/c.png"),
        ("b/c", None),  # a jpg and a png
        ("b/d.x", "b/d.x.TIF"),
        ("a.jpeg", "a.png"),  # converted since
        ("i.png", "h/i.png"),
        ("/home/me/h/i.png", "h/i.png"),
        ("/home/me/e/f.png", "e/f.png"),
        ("f.png", None),  # in two folders
        ("nothing", None),
        ("", None),
    ],
)
def test_a_name_is_found_with_and_without_suffix_and_folders(folder, name, found):
    assert folder.find(name) == found


def test_only_images_are_named_in_order(folder, tmp_path):
    assert image_names(str(tmp_path)) == ["a.png"]
    assert sorted(folder.names()) == sorted(NAMES)
    assert image_names(str(tmp_path / "nowhere")) == []


@pytest.mark.usefixtures("locked")
def test_links_are_followed_once_hidden_names_are_not_and_a_folder_that_cannot_be_listed_is_told(tmp_path):
    files = ["a/1.txt", "a/locked/2.txt", "far/3.txt"]
    label_folder(tmp_path, dict.fromkeys([*files, "a/.hidden/4.txt", "a/._1.txt", "a/5.png"], ""))
    for name, target in {
        "0": "a",
        "loop": "",
        "out": "far",
    }.items():  # a link to the folder itself, above it, elsewhere
        (tmp_path / "a" / name).symlink_to(tmp_path / target)
    found = files_below(str(tmp_path / "a"), lambda _, name: name.endswith(".txt"))
    assert [os.path.relpath(file, tmp_path) for file in found.files] == ["a/1.txt", "a/loop/far/3.txt"]
    assert findings_below(tmp_path, found.left_out) == ["a/locked: a folder that cannot be read: Permission denied"]
    with pytest.raises(CocoError, match=r"locked: Permission denied$"):
        files_below(str(tmp_path / "a" / "locked"), lambda _, name: True)


def test_a_suffix_is_only_that_of_an_image_or_label():
    names = ["a.png", "a.b.JPG", "frame.0001", "a.b/c", "a.txt", ".png"]
    assert list(map(without_suffix, names)) == ["a", "a.b", "frame.0001", "a.b/c", "a", ".png"]


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(CocoError, match=r"nowhere: not a folder of images$"):
        ImageFolder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("b\\c.png", ": the file exists as FOLDER/b/c.png: write 'b/c.png' in the annotations"),
        ("http://host/set/b/c.png", ": the file exists as FOLDER/b/c.png: write 'b/c.png' in the annotations"),
        ("/home/me/a.png", ": the file exists as FOLDER/a.png: write 'a.png' in the annotations"),
        ("images/a.png", ": the file exists as FOLDER/a.png: write 'a.png' in the annotations"),
        ("i.png", ": the file exists as FOLDER/h/i.png: set data.images=FOLDER/h (--images FOLDER/h)"),
        ("https://host/x.png", ": file names are paths of files, not URLs: download the images"),
        ("..\\images\\a.png", ": the file exists as FOLDER/a.png: write 'a.png' in the annotations"),
        ("../b/c.png", ": the file exists as FOLDER/b/c.png: write 'b/c.png' in the annotations"),
        ("x.png", ""),
        ("", ""),
    ],
)
def test_what_would_lead_to_the_file_is_said(folder, name, hint):
    assert name_hint(folder.root, name) == hint.replace("FOLDER", folder.root)


def test_a_folder_that_is_named_twice_is_said(folder, monkeypatch):
    monkeypatch.chdir(folder.root)
    assert name_hint("b", "b/c.png") == ": the file exists as b/c.png: set data.images=. (--images .)"
    assert name_hint("e", "g/f.png") == ": the file exists as g/f.png: set data.images=. (--images .)"
    assert name_hint("none", "x.png") == ""
