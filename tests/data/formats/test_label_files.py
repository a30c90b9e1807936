"""Written labels: read back, they are the same to half a pixel, or the losses are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import coco_content, label_folder
from coco_files import boxes_on_one_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detect.data import CocoDataset, read_coco
from detect.data.formats.label_files import UNREAD, WRITERS
from detect.data.read_dataset import read_dataset
from detect.errors import CocoError, ConvertError
from detect.files import write_folder
from detect.samples import sample_annotations


def written(dataset: CocoDataset, kind: str, folder: Path) -> tuple[str, ...]:
    """Write a dataset with blank images of its sizes; return the words about what is lost."""
    made = WRITERS[kind](dataset)
    write_folder(folder / kind, made.files)
    assert len([path for path in (folder / kind).rglob("*") if path.is_file()]) == made.num_files
    for name, wh in zip(dataset.images.file_names, dataset.images.wh.tolist(), strict=True):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", tuple(wh)).save(path)
    return made.lost


def boxes_by_image(dataset: CocoDataset) -> dict[tuple[str, str, bool], Any]:
    """The boxes of each image and category, crowd regions apart, sorted."""
    rows, found = dataset.annotations, {}
    for row, box in enumerate(rows.boxes_xywh.tolist()):
        name = dataset.images.file_names[rows.image_rows[row]]
        key = (name, dataset.category_name(int(rows.category_ids[row])), bool(rows.iscrowd[row]))
        found.setdefault(key, []).append((box[0], box[1], box[0] + box[2], box[1] + box[3]))
    return {key: np.array(sorted(boxes)) for key, boxes in found.items()}


def assert_same_boxes(found: CocoDataset, expected: CocoDataset, *, within_px: float) -> None:
    mine, theirs = boxes_by_image(found), boxes_by_image(expected)
    assert mine.keys() == theirs.keys()
    for key, boxes in theirs.items():
        order = [np.abs(mine[key] - box).max(axis=1).argmin() for box in boxes]  # rounding may change the order
        assert np.abs(mine[key][order] - boxes).max() <= within_px
        assert len(mine[key]) == len(boxes)
    assert set(found.images.file_names) == set(expected.images.file_names)


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_names_of_keypoints_are_kept(tmp_path, kind):
    content = boxes_on_one_image({"keypoints": [5, 6, 2, 7, 8, 2]})
    content["categories"][0]["keypoints"] = ["head", "tail"]
    dataset = read_coco(content, keypoints=True)
    written(dataset, kind, tmp_path)
    back = read_dataset(tmp_path / kind, images=tmp_path / "images", keypoints=True)
    assert list(back.keypoint_names.values()) == [("head", "tail")]


def test_files_that_name_keypoints_differently_are_no_shards_of_one_dataset(tmp_path):
    for number, names in enumerate((["head", "tail"], ["tail", "head"], None)):
        content = boxes_on_one_image({"keypoints": [5, 6, 2, 7, 8, 2]})
        content["categories"][0] |= {"keypoints": names}
        (tmp_path / f"{number}.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(CocoError, match=r"has the keypoints \['head', 'tail'\] and \['tail', 'head'\]: ids must be"):
        read_coco([tmp_path / "0.json", tmp_path / "1.json"], keypoints=True)
    names = read_coco([tmp_path / "0.json", tmp_path / "2.json"], keypoints=True).keypoint_names
    assert list(names.values()) == [("head", "tail")]


@pytest.mark.parametrize("sample", ["bccd", "nuclei"])
def test_samples_come_back_through_coco_with_ids_and_all(tmp_path, sample):
    dataset = read_coco(sample_annotations(sample), keypoints=True)
    written(dataset, "coco", tmp_path)
    back = read_dataset(tmp_path / "coco", keypoints=True)
    for name in ("ids", "image_rows", "category_ids", "boxes_xywh", "iscrowd", "area"):
        np.testing.assert_array_equal(getattr(back.annotations, name), getattr(dataset.annotations, name))
    np.testing.assert_array_equal(back.images.ids, dataset.images.ids)
    assert back.images.file_names == dataset.images.file_names
    assert back.categories == dataset.categories
    for mine, theirs in zip(back.annotations.keypoints, dataset.annotations.keypoints, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("kind", "within_px"), [("yolo", 1e-4), ("voc", 0.5)])
@pytest.mark.parametrize("sample", ["bccd", "nuclei"])
def test_samples_come_back_through_yolo_and_voc(tmp_path, sample, kind, within_px):
    dataset = read_coco(sample_annotations(sample))
    lost = written(dataset, kind, tmp_path)
    back = read_dataset(tmp_path / kind, images=tmp_path / "images")
    assert_same_boxes(back, dataset, within_px=within_px)
    assert back.invalid == ()
    assert not any("half a pixel" in each for each in lost)
    assert list(back.categories.values()) == [*dataset.categories.values()] if kind == "yolo" else True


def test_poses_come_back_through_yolo(tmp_path):
    dataset = read_coco(sample_annotations("nuclei"), keypoints=True)
    written(dataset, "yolo", tmp_path)
    back = read_dataset(tmp_path / "yolo" / "data.yaml", images=tmp_path / "images", keypoints=True)
    mine, theirs = (np.concatenate(each.annotations.keypoints) for each in (back, dataset))
    names = [[each.images.file_names[row] for row in each.annotations.image_rows] for each in (back, dataset)]
    order = [
        np.lexsort((points[:, 1].round(3), points[:, 0].round(3), own))
        for points, own in zip((mine, theirs), names, strict=True)
    ]
    np.testing.assert_allclose(mine[order[0]], theirs[order[1]], atol=1e-3)


boxes = st.tuples(st.floats(0, 60), st.floats(0, 60), st.floats(0.01, 60), st.floats(0.01, 60))


@pytest.mark.parametrize("kind", ["yolo", "voc"])
@given(rows=st.lists(st.tuples(boxes, st.integers(1, 2)), max_size=8))
def test_a_box_that_moves_by_more_than_half_a_pixel_is_counted(tmp_path_factory, kind, rows):
    content = coco_content([box for box, _ in rows], category_ids=[category for _, category in rows])
    for image in content["images"]:
        image["file_name"] = "a.png"
    dataset = read_coco(content)
    folder = tmp_path_factory.mktemp(kind)
    lost = written(dataset, kind, folder)
    back = read_dataset(folder / kind, images=folder / "images")
    assert len(back.annotations) == len(dataset.annotations)
    moved = sum(int(each.split(": ")[1].split()[0]) for each in lost if "half a pixel" in each)
    names = [[each.category_name(int(number)) for number in each.annotations.category_ids] for each in (back, dataset)]
    assert names[0] == names[1]
    mine, theirs = (each.annotations.boxes_xywh for each in (back, dataset))
    mine, theirs = (np.concatenate([each[:, :2], each[:, :2] + each[:, 2:]], axis=1) for each in (mine, theirs))
    assert int((np.abs(mine - theirs).max(axis=1, initial=0) > 0.5 + 1e-6).sum()) == moved
    assert kind == "voc" or not moved


def lost_words(kind: str, content: dict[str, Any]) -> str:
    return "; ".join(WRITERS[kind](read_coco(content, keypoints=True)).lost)


def test_what_a_format_cannot_hold_is_counted_and_named():
    content = boxes_on_one_image(
        {"bbox": [1, 1, 9, 9], "keypoints": [3, 4, 2]},
        {"bbox": [2, 2, 9, 9], "keypoints": [3, 4, 2, 5, 6, 2]},
        {"bbox": [3, 3, 40, 40], "iscrowd": 1},
        {"bbox": [10.7, 3, 0.6, 5]},
    )
    ids = f"{UNREAD}; ids of images, annotations and categories"
    assert lost_words("yolo", content).startswith(f"{UNREAD}; splits: train and val in data.yaml are all images")
    assert lost_words("yolo", content).endswith("; crowd regions: 1; keypoints, which differ in number: 2 objects")
    assert lost_words("voc", content) == (
        f"{ids}; keypoints: 2 objects; "
        "places to half a pixel: 1 box less than a pixel wide or high; categories without objects"
    )
    assert lost_words("coco", content) == UNREAD
    content["images"].append({"id": 5, "width": 10, "height": 10})
    unnamed = "which file an image is: 1 image without a file name, whose label file has its id"
    assert all(unnamed in lost_words(kind, content) for kind in ("yolo", "voc"))


def test_crowd_regions_are_difficult_objects_of_voc(tmp_path):
    dataset = read_coco(boxes_on_one_image({"bbox": [3, 3, 40, 40], "iscrowd": 1}, {"bbox": [1, 1, 9, 9]}))
    written(dataset, "voc", tmp_path)
    back = read_dataset(tmp_path / "voc")
    assert back.annotations.iscrowd.tolist() == [True, False]
    assert back.annotations.boxes_xywh.tolist() == [[3, 3, 40, 40], [1, 1, 9, 9]]


@pytest.mark.parametrize("kind", ["yolo", "voc"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([(1, "a.png"), (2, "a.jpg")], "images 'a.png' and 'a.jpg' would have one label file: a"),
        ([(1, "../a.png")], "image 1: the name '../a.png' leads out of the folder"),
        ([(1, "/etc/a.png")], "image 1: the name '/etc/a.png' leads out of the folder"),
    ],
)
def test_names_that_cannot_be_files_are_refused(kind, images, message):
    entries = [{"id": id_, "width": 9, "height": 9, "file_name": name} for id_, name in images]
    dataset = read_coco({"images": entries, "annotations": [], "categories": []})
    with pytest.raises(ConvertError, match=message):
        WRITERS[kind](dataset)


def test_names_are_escaped(tmp_path):
    content = boxes_on_one_image({"bbox": [1, 1, 9, 9]})
    content["categories"][0]["name"] = '<b> & "c": [d]'
    dataset = read_coco(content)
    for kind in ("yolo", "voc"):
        written(dataset, kind, tmp_path)
        back = read_dataset(tmp_path / kind, images=tmp_path / "images")
        assert '<b> & "c": [d]' in back.categories.values()
    content["categories"][0]["name"] = "bell \a"
    with pytest.raises(ConvertError, match="XML cannot hold this name"):
        WRITERS["voc"](read_coco(content))


def test_images_without_names_are_named_by_their_ids(tmp_path):
    dataset = read_coco(coco_content([[1, 1, 9, 9]]))
    assert [name for name, _ in WRITERS["yolo"](dataset).files] == ["data.yaml", "labels/000000000001.txt"]


def test_written_coco_is_coco(tmp_path):
    label_folder(tmp_path, {"a.csv": "x,y\n3,4\n", "a.png": (50, 40)})
    points = read_dataset(tmp_path / "a.csv", images=tmp_path, keypoints=True)
    ((_, text),) = WRITERS["coco"](points).files
    (annotation,) = json.loads(text)["annotations"]
    assert annotation["keypoints"] == [3, 4, 2]
    assert annotation["num_keypoints"] == 1
    assert annotation["bbox"] == [2.5, 3.5, 1, 1]
