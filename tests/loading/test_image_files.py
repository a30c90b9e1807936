"""Image files as a dataset: order, names, folders within folders, and files that are no images."""

from __future__ import annotations

import json
import os
import socket
import warnings

import pytest
from PIL import Image
from process_groups import IN_PROCESSES

from detect.data import read_coco
from detect.data.images import ImageFiles, open_image
from detect.errors import ImageError
from detect.loading.image_files import (
    BrokenImage,
    broken_message,
    dataset_from_files,
    find_broken_images,
    images_json,
)
from detect.loading.labels import LabelMap

LABELS = LabelMap((3, 7), ("cell", "speck"))
CHECKED = """
import json
from detect.errors import ImageError
from detect.loading.image_files import find_broken_images

def body(rank):
    opened = []
    def open_row(row):
        opened.append(row)
        if row % 3 == 1:
            raise ImageError(f"{row}: broken")
    broken = find_broken_images(open_row, 8, shared=True)
    say(json.dumps([opened, [[each.image_row, each.reason] for each in broken]]))
    distributed.barrier()

in_processes(3, body)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for number, name in enumerate(("a/2.png", "a/1.jpg", "a/b/3.PNG", "4.tif"), 1):
        Image.new("L", (10 * number, 20)).save(tmp_path / name)
    for name in ("notes.txt", "paper.pdf"):
        (tmp_path / "a" / name).write_text("no image", "utf-8")
    return tmp_path


def test_files_come_in_the_order_given_and_those_of_a_folder_by_name(folder):
    dataset, root = dataset_from_files([folder / "4.tif", folder / "a"], LABELS)
    assert root == folder.resolve()
    assert dataset.images.file_names == ("4.tif", "a/1.jpg", "a/2.png", "a/b/3.PNG")
    assert dataset.images.ids.tolist() == [1, 2, 3, 4]
    assert dataset.images.wh.tolist() == [[40, 20], [20, 20], [10, 20], [30, 20]]
    assert dataset.categories == {3: "cell", 7: "speck"}


def test_a_file_that_comes_again_is_taken_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    dataset, root = dataset_from_files(
        [folder / "a" / "2.png", folder / "a", (folder / "a" / ".." / "a" / "2.png")], LABELS
    )
    assert root == (folder / "a").resolve()
    assert dataset.images.file_names == ("2.png", "1.jpg", "b/3.PNG")


def test_a_link_is_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("links")
    (elsewhere / "link.png").symlink_to(folder / "a" / "2.png")
    dataset, root = dataset_from_files([elsewhere], LABELS)
    assert (root / dataset.images.file_names[0]) == (folder / "a" / "2.png").resolve()


def test_the_images_are_a_coco_file_that_results_belong_to(folder):
    dataset, root = dataset_from_files([folder], LABELS)
    again = read_coco(json.loads(images_json(ImageFiles(dataset, root))))
    assert again.images.file_names == dataset.images.file_names
    assert again.images.wh.tolist() == dataset.images.wh.tolist()
    assert again.categories == dataset.categories


def test_what_is_not_there_is_an_error(folder, tmp_path_factory):
    with pytest.raises(ImageError, match=r"no\.png: No such file"):
        dataset_from_files([folder / "no.png"], LABELS)
    with pytest.raises(ImageError, match="no image in this folder"):
        dataset_from_files([tmp_path_factory.mktemp("empty")], LABELS)
    with pytest.raises(ImageError, match="no image given"):
        dataset_from_files([], LABELS)


def test_the_rows_of_broken_images_come_in_order_with_their_reasons():
    def open_row(row: int) -> None:
        if row % 3 == 1:
            raise ImageError(f"{row}.png: broken")

    broken = find_broken_images(open_row, 8)
    assert broken == (BrokenImage(1, "1.png: broken"), BrokenImage(4, "4.png: broken"), BrokenImage(7, "7.png: broken"))


def test_processes_share_the_check_and_get_the_same_answer(fresh_python):
    opened, answers = [], []
    for line in fresh_python(IN_PROCESSES + CHECKED).splitlines():
        rows, broken = json.loads(line)
        opened += rows
        answers.append(broken)
    assert sorted(opened) == list(range(8))
    assert answers == [[[1, "1: broken"], [4, "4: broken"], [7, "7: broken"]]] * 3


def test_no_images_are_not_broken():
    assert find_broken_images(open, 0) == ()


def test_of_many_the_first_are_named_and_the_others_counted():
    message = broken_message([BrokenImage(row, f"{row}.png: broken") for row in range(12)], 30)
    named = "; ".join(f"{row}.png: broken" for row in range(5))
    assert message == f"12 of 30 images cannot be used: {named}; and 7 more"


def test_a_name_that_is_not_utf8_is_a_broken_image_and_its_table_can_be_written(folder):
    os.rename(folder / "4.tif", os.fsencode(folder) + b"/\xff\x1b.tif")  # noqa: PTH104 - bytes
    dataset, root = dataset_from_files([folder], LABELS)
    files = ImageFiles(dataset, root)
    broken = find_broken_images(files.open, len(dataset.images))
    assert [dataset.images.file_names[each.image_row] for each in broken] == ["\\udcff\x1b.tif"]
    assert len(json.loads(images_json(files))["images"]) == 4


@pytest.mark.usefixtures("locked")
def test_whatever_in_a_folder_cannot_be_read_is_a_broken_image_and_named(folder):
    """Links that lead nowhere, in a circle, or to a folder above; a locked folder, a pipe and a socket named as images."""
    (folder / "a" / "nowhere.png").symlink_to(folder / "none.png")
    (folder / "a" / "circle.png").symlink_to(folder / "a" / "circle.png")
    (folder / "a" / "above").symlink_to(folder)
    (folder / "a" / "locked").mkdir()
    os.mkfifo(folder / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "a" / "socket.png"))  # the length of its name is limited
    dataset, root = dataset_from_files([folder], LABELS)
    broken = find_broken_images(ImageFiles(dataset, root).open, len(dataset.images))
    reasons = {dataset.images.file_names[each.image_row]: each.reason.rpartition(": ")[2] for each in broken}
    assert len(dataset.images) == 4 + len(reasons)
    assert reasons == {
        "a/above": f"file name 'a/above' leads to no file in {root}",
        "a/circle.png": "Too many levels of symbolic links",
        "a/locked": "Permission denied",
        "a/nowhere.png": "No such file or directory",
        "a/pipe.png": "write it to disk first",
        "a/socket.png": "No such device or address",
    }


def test_a_folder_is_read_once_whatever_links_lead_to_it(folder, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    (linked / "one").symlink_to(folder / "a")
    (linked / "two").symlink_to(folder / "a")
    dataset, root = dataset_from_files([linked], LABELS)
    broken = find_broken_images(ImageFiles(dataset, root).open, len(dataset.images))
    assert len(dataset.images) == 4
    assert [each.reason.rpartition(": ")[2] for each in broken] == ["a link to a folder that was read already"]


def test_filters_of_warnings_are_left_as_they_were(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    for _ in range(20):
        assert find_broken_images(lambda _: open_image(tmp_path, "a.png"), 32) == ()
    assert list(warnings.filters) == before
