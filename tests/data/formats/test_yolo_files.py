"""The files of YOLO and Darknet datasets: folders, data.yaml, lists, and where their images lie."""

from __future__ import annotations

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.read_dataset import read_dataset
from detect.errors import CocoError

BOX = "0 .5 .5 .2 .6\n"
WH = (100, 50)
A, B = "a.png: cat 40 10 20 30", "b.png: cat 40 10 20 30"


def split(name: str, stem: str, order: str) -> dict:
    """An image and its label in images/train or train/images."""
    images, labels = (f"{kind}/{name}" if order == "kind first" else f"{name}/{kind}" for kind in ("images", "labels"))
    return {f"{images}/{stem}.png": WH, f"{labels}/{stem}.txt": BOX}


@pytest.mark.parametrize(
    ("order", "entries", "names"),
    [
        ("kind first", "path: .\ntrain: images/train\nval: images/val\n", ["train/", "val/"]),
        ("kind first", "train: [images/train, images/val]\n", ["train/", "val/"]),
        ("kind first", "path: {folder}\ntrain: {folder}/images/train\nval: images/val\n", ["train/", "val/"]),
        ("split first", "train: ../train/images\nval: ../val/images\n", ["train/images/", "val/images/"]),
        (
            "split first",
            "path: /no/such/folder\ntrain: train/images\nval: val/images\n",
            ["train/images/", "val/images/"],
        ),
    ],
    ids=["ultralytics", "a list", "absolute", "roboflow", "another machine"],
)
def test_data_yaml_names_splits_in_many_ways(tmp_path, order, entries, names):
    label_folder(tmp_path, {**split("train", "a", order), **split("val", "b", order)})
    yaml = tmp_path / "data.yaml"
    yaml.write_text(entries.replace("{folder}", str(tmp_path)) + "names: [cat]\n")
    assert labels_in_words(read_dataset(yaml)) == [names[0] + A, names[1] + B]
    assert labels_in_words(read_dataset(tmp_path)) == [names[0] + A, names[1] + B]
    if "[" not in entries:
        assert labels_in_words(read_dataset(f"{yaml}:val")) == [B]


def test_a_folder_of_labels_takes_names_from_the_files_above_it(tmp_path):
    label_folder(tmp_path, {**split("train", "a", "kind first"), "data.yaml": "train: images/train\nnames: [cat]"})
    assert labels_in_words(read_dataset(tmp_path / "labels" / "train")) == [A]
    assert labels_in_words(read_dataset(str(tmp_path / "labels" / "train" / "*.txt"))) == [A]


def test_labels_may_lie_beside_their_images_with_a_list_of_names(tmp_path):
    label_folder(tmp_path, {"a.png": WH, "a.txt": BOX, "classes.txt": "cat\r\ndog\r\n"})
    dataset = read_dataset(tmp_path)
    assert labels_in_words(dataset) == [A]
    assert dataset.categories == {1: "cat", 2: "dog"}


def test_images_without_a_label_file_have_no_objects_and_are_counted(tmp_path):
    label_folder(tmp_path, {**split("train", "a", "kind first"), "images/train/b.png": WH, "images/val/c.png": WH})
    dataset = read_dataset(tmp_path / "labels")
    assert dataset.images.file_names == ("a.png", "b.png")  # not those of a folder without any label
    assert findings_below(tmp_path, dataset.suspicious) == [
        "labels/train/a.txt: images without a label file are read as images without objects: 1, the first is b.png"
    ]


def test_of_images_that_differ_in_their_suffix_one_has_the_label_and_the_other_is_told(tmp_path):
    label_folder(tmp_path, {"images/a.jpg": WH, "images/a.png": WH, "labels/a.txt": BOX, "classes.txt": "cat"})
    dataset = read_dataset(tmp_path / "labels")
    assert labels_in_words(dataset) == [A]
    assert findings_below(tmp_path, dataset.invalid) == ["images/a.jpg: another image has its label file"]


def test_images_are_found_in_a_given_folder(tmp_path):
    label_folder(tmp_path, {"labels/train/a.txt": BOX, "labels/train/b.txt": BOX, "classes.txt": "cat"})
    label_folder(tmp_path, {"pictures/train/a.png": WH, "pictures/other/b.png": WH, "pictures/third/c.png": WH})
    dataset = read_dataset(tmp_path / "labels", images=tmp_path / "pictures")
    assert labels_in_words(dataset) == ["other/" + B, "train/" + A]


def test_a_missing_image_is_a_finding_on_that_image(tmp_path):
    label_folder(tmp_path, {**split("train", "a", "kind first"), "labels/train/b.txt": BOX, "classes.txt": "cat"})
    dataset = read_dataset(tmp_path / "labels")
    assert labels_in_words(dataset) == [A]
    assert findings_below(tmp_path, dataset.invalid) == [
        "labels/train/b.txt: image 2: there is no image images/train/b.*: its size is unknown",
        "labels/train/b.txt, line 1: annotation 2, image 2: its image cannot be used",
    ]


def test_without_any_images_the_message_asks_for_their_folder(tmp_path):
    label_folder(tmp_path, {"labels/a.txt": BOX})
    with pytest.raises(
        CocoError, match=r"fractions of images, and there is no image .*images/a\.\*: give --images FOLDER"
    ):
        read_dataset(tmp_path / "labels")
    with pytest.raises(CocoError, match=r"nowhere: not a folder of images$"):
        read_dataset(tmp_path / "labels", images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "lines", ["images/a.png\nimages/b.png\n", "{folder}/images/a.png\r\n{folder}/images/b.png\r\n"]
)
def test_darknet_lists_name_images_with_labels_beside_them(tmp_path, lines):
    files = {"images/a.png": WH, "images/a.txt": BOX, "images/b.png": WH, "labels/b.txt": BOX, "obj.names": "cat\n"}
    label_folder(tmp_path, files)
    (tmp_path / "train.txt").write_text(lines.replace("{folder}", str(tmp_path)))
    (tmp_path / "obj.data").write_text("classes = 1\ntrain = train.txt\nnames = obj.names\n")
    for source in (tmp_path / "train.txt", tmp_path / "obj.data", tmp_path):
        assert labels_in_words(read_dataset(source)) == [A, B]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: nowhere\nnames: [cat]", "no label files: train: there is no nowhere"),
        ("names: [cat]", "no label files: no entry or empty folders for train or val or valid or test"),
        ("train: images\nnames: 5", "names is neither a list nor names by class number"),
        ("train: images\nnames: [cat]\nkpt_shape: [17]", r"kpt_shape is \[17\], not"),
        ("train: [images\nnames: [cat]", "not YAML"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_one_line(tmp_path, yaml, message):
    label_folder(tmp_path, {"images/a.png": WH, "labels/a.txt": BOX, "data.yaml": yaml})
    with pytest.raises(CocoError, match=rf"data\.yaml: {message}") as caught:
        read_dataset(tmp_path / "data.yaml")
    assert "\n" not in str(caught.value)


def test_a_split_that_is_not_there_is_named(tmp_path):
    label_folder(tmp_path, {"images/a.png": WH, "labels/a.txt": BOX})
    (tmp_path / "data.yaml").write_text("train: images\nval: nowhere\nnames: [cat]")
    assert findings_below(tmp_path, read_dataset(tmp_path).suspicious) == [
        "data.yaml: val: there is no nowhere: left out"
    ]
