"""Datasets in several files and formats: one numbering, one set of categories, strictness, and COCO as before."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from builders import findings_below, label_folder, labels_in_words
from coco_files import coco_with_one_box
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.data import read_coco
from detect.data.read_dataset import read_dataset, shards_of
from detect.errors import CocoError
from detect.samples import sample_annotations

BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>22</ymax></bndbox>"
VOC = (
    "<annotation><filename>v.jpg</filename><size><width>100</width><height>50</height></size>"
    f"<object><name>cell</name>{BOX}</object><object><name>cat</name>{BOX}</object><object/></annotation>"
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """COCO, YOLO and VOC with a category in common."""
    label_folder(tmp_path, {"a.json": json.dumps(coco_with_one_box()), "v.xml": VOC, "classes.txt": "dog\ncell"})
    return label_folder(tmp_path, {"labels/y.txt": "0 .5 .5 .2 .6\n1 .5 .5 .2 .6", "images/y.png": (100, 50)})


def test_formats_read_together_are_one_dataset(folder):
    sources = [folder / "labels", folder / "v.xml", folder / "a.json"]
    dataset = read_dataset(sources)
    assert dataset.categories == {1: "cell", 2: "dog", 3: "cat"}  # the id of COCO's own stays
    assert labels_in_words(dataset) == [
        "a.jpg: cell 1 2 3 4",
        "y.png: dog 40 10 20 30",
        "y.png: cell 40 10 20 30",
        "v.jpg: cell 1 2 10 20",
        "v.jpg: cat 1 2 10 20",
    ]
    assert dataset.images.ids.tolist() == [1, 2, 3]
    assert dataset.annotations.ids.tolist() == [7, 8, 9, 10, 11]
    assert findings_below(folder, dataset.invalid) == ["v.xml, object 3: annotation 12, image 3: it has no bndbox"]


def test_findings_of_every_file_name_their_place(folder):
    (folder / "labels" / "y.txt").write_text("0 .5 .5 0 .6\n\n1 .5 .5 .2 .6\n1 .5 .5 .2 .6")
    dataset = read_dataset([str(folder / "labels"), str(folder / "v.xml")])
    assert findings_below(folder, dataset.invalid) == [
        "labels/y.txt, line 1: annotation 1, image 1: width 0 is not positive",
        "v.xml, object 3: annotation 6, image 2: it has no bndbox",
    ]
    assert findings_below(folder, dataset.suspicious) == [
        "labels/y.txt, line 4: annotation 3, image 1: the same box as annotation 2: kept",
        "v.xml, object 2: annotation 5, image 2: the same box as annotation 4, of another category: kept",
    ]


YOLO = {"labels/y.txt": "0 .5 .5 .2 .6", "images/y.png": (100, 50)}


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize(
    ("files", "source", "place"),
    [
        ({"a.json": json.dumps(coco_with_one_box())}, ".", "locked"),
        ({"v.xml": VOC.replace("<object/>", "")}, ".", "a/locked"),
        (YOLO, ".", "labels/locked"),
        (YOLO, "images", "labels/locked"),
        ({**YOLO, "data.yaml": "train: images\nnames: [cat]"}, ".", "labels/locked"),
        ({**YOLO, "data.yaml": "train: labels\nnames: [cat]"}, "data.yaml:train", "labels/locked"),
        (YOLO, "labels", "images/locked"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_invalid_wherever_labels_or_images_are_looked_for(
    tmp_path, files, source, place
):
    label_folder(tmp_path, files)
    (tmp_path / place).mkdir(parents=True)
    dataset = read_dataset(f"{tmp_path}/{source}", images=tmp_path / "images" if "images" in place else None)
    assert findings_below(tmp_path, dataset.invalid) == [f"{place}: a folder that cannot be read: Permission denied"]
    assert len(dataset.instances)


def test_shards_and_tables_of_points_are_refused_with_what_a_folder_leaves_out(tmp_path):
    label_folder(tmp_path, {"a.json": json.dumps(coco_with_one_box()), "b.json": ""})
    with pytest.raises(CocoError, match=r"b\.json: is empty: no label file: give the files by a pattern$"):
        shards_of(tmp_path)


def test_another_form_of_boxes_is_refused_where_there_is_one(tmp_path):
    label_folder(tmp_path, YOLO)
    with pytest.raises(
        CocoError, match=r"y\.txt: the form of boxes \(bbox=xyxy\) is for COCO: YOLO text has one form$"
    ):
        read_dataset(tmp_path / "labels", bbox="xyxy")


def test_strict_raises_the_first_finding_with_its_place(folder):
    with pytest.raises(CocoError, match=r"v\.xml, object 3: annotation 3, image 1: it has no bndbox$"):
        read_dataset(folder / "v.xml", strict=True)


def test_coco_is_read_as_by_read_coco():
    path = sample_annotations("nuclei")
    expected = read_coco(path, keypoints=True)
    for source in (path, str(path), [path], json.loads(path.read_text())):
        dataset = read_dataset(source, keypoints=True)
        np.testing.assert_array_equal(dataset.annotations.boxes_xywh, expected.annotations.boxes_xywh)
        assert dataset.categories == expected.categories
    assert read_dataset(path).files == read_coco(path).files


def test_a_folder_with_one_coco_file_is_read(tmp_path):
    label_folder(tmp_path, {"a.json": json.dumps(coco_with_one_box()), "images/a.jpg": (100, 80)})
    assert len(read_dataset(tmp_path).instances) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.json", r"nowhere\.json: No such file"),
        ("*.none", "no file matches this pattern"),
        ("words.txt", "starts with 'some words', which is none of COCO JSON"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(tmp_path, source, message):
    label_folder(tmp_path, {"words.txt": "some words"})
    with pytest.raises(CocoError, match=message) as caught:
        read_dataset(str(tmp_path / source))
    assert "\n" not in str(caught.value)


def test_splits_of_one_data_yaml_are_numbered_on(tmp_path):
    for split in ("train", "val"):
        label_folder(
            tmp_path, {f"images/{split}/{split}1.png": (100, 50), f"labels/{split}/{split}1.txt": "0 .5 .5 .2 -.6"}
        )
    label_folder(tmp_path, {"data.yaml": "train: images/train\nval: images/val\nnames: [cat]"})
    dataset = read_dataset([f"{tmp_path}/data.yaml:train", f"{tmp_path}/data.yaml:val"])
    assert dataset.images.ids.tolist() == [1, 2]
    assert findings_below(tmp_path, dataset.invalid) == [
        "labels/train/train1.txt, line 1: annotation 1, image 1: height -30 is not positive",
        "labels/val/val1.txt, line 1: annotation 2, image 2: height -30 is not positive",
    ]


SAMPLES = {
    "coco": json.dumps(coco_with_one_box()),
    "yolo": "0 .5 .5 .2 .6\n1 .1 .2 .3 .4 .5 .6 .7 .8\n",
    "yaml": "path: .\ntrain: images\nnames: {0: cat}\nkpt_shape: [2, 3]\n",
    "voc": VOC,
    "cvat": '<annotations><image name="y.png" width="9" height="9"><box label="a" xtl="1" ytl="1" xbr="5" ybr="5" '
    'rotation="30"/><points label="a" points="1,2;3,4"/></image></annotations>',
    "labelme": '{"version": "5", "shapes": [{"label": "a", "shape_type": "circle", "points": [[1, 2], [3, 4]]}, {"label": '
    '"b", "points": [[1, 2], [3, 4], [5, 1]]}], "imagePath": "y.png", "imageWidth": 9, "imageHeight": 9}',
    "label studio": '[{"id": 1, "data": {"image": "/x/y.png"}, "annotations": [{"result": [{"type": "rectanglelabels", '
    '"original_width": 9, "original_height": 9, "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 5, '
    '"rectanglelabels": ["a"]}}, {"type": "polygonlabels", "value": {"points": [[1, 2], [3, 4], [5, 1]], '
    '"polygonlabels": ["a"]}}]}]}]',
    "image folder": '{"file_name": "y.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [0]}}\n',
    "points": "index,axis-0,axis-1\n0,1.5,2.5\n1,2,3\n",
    "geojson": '{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": {"type": "Polygon", '
    '"coordinates": [[[1, 2], [3, 4], [5, 1]]]}, "properties": {"classification": {"name": "a"}}}]}',
}
inserted = st.sampled_from(
    ["", "0", "-1", "1e999", "9" * 400, "null", "[]", "{}", '"', "<", ">", "&x;", "\x00", "\n", "nan", ",", ":", "²"]
)


@pytest.mark.parametrize("kind", SAMPLES)
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("damaged")
    label_folder(folder, {"images/y.png": (9, 9), "labels/y.txt": "0 .5 .5 .2 .6"})
    text = SAMPLES[kind]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 8, len(text))))
        text = text[:start] + data.draw(inserted) + text[end:]
    (folder / "images" / "y.txt").write_text(text, "utf-8")
    printed = []
    try:
        dataset = read_dataset(folder / "images" / "y.txt", images=folder / "images", keypoints=True)
        assert np.isfinite(dataset.annotations.boxes_xywh).all()
        printed += [*dataset.invalid, *dataset.suspicious]
    except CocoError as error:
        printed.append(error)
    assert [str(each) for each in printed if "\n" in str(each)] == []


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("kind", SAMPLES)
def test_an_integer_of_5000_digits_at_any_place_refuses_at_most_its_row_or_is_named_by_its_line(tmp_path, kind, sign):
    label_folder(tmp_path, {"images/y.png": (9, 9), "labels/y.txt": "0 .5 .5 .2 .6"})
    file = tmp_path / "images" / ("y.yaml" if kind == "yaml" else "y.txt")
    for found in re.finditer(r"(?<![-\d])\d+", SAMPLES[kind]):
        file.write_text(f"{SAMPLES[kind][: found.start()]}{sign}{'9' * 5000}{SAMPLES[kind][found.end() :]}")
        if kind == "yaml":  # whose values are of the whole file
            with pytest.raises(CocoError, match=r"not YAML \(.*line \d"):
                read_dataset(file)
            continue
        dataset = read_dataset(file, images=tmp_path / "images", keypoints=True)
        assert max(len(str(each)) for each in (*dataset.invalid, *dataset.suspicious, "")) < 300
        assert np.isfinite(dataset.annotations.boxes_xywh).all()


HARD = (
    "1e999",
    "9" * 400,
    "9" * 5000,
    r'"\ud800"',
    "NaN",
    "-Infinity",
    "null",
    "[]",
    r'"\u0000"',
    "[[[1]]]",
    "-1",
    "[1e999]",
)
COCO = {
    "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.png"}],
    "categories": [{"id": 1, "name": "cat", "keypoints": ["nose"]}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0, "keypoints": [1, 2, 2]},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]},
    ],
}
LABELME = {
    "version": "5",
    "shapes": [{"label": "cat", "points": [[1, 2], [30, 40]], "shape_type": "rectangle", "flags": {}}],
    "imagePath": "a.png",
    "imageHeight": 100,
    "imageWidth": 100,
}


def places(value, path=()):
    """The way to each value inside a nested one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, item in inner for way in [(*path, key), *places(item, (*path, key))]]


def with_text(content, path, text: str) -> str:
    """The JSON of a content with any text in place of one value."""
    copied = json.loads(json.dumps(content))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "<here>"
    return json.dumps(copied).replace('"<here>"', text)


@pytest.mark.parametrize("content", [COCO, LABELME], ids=["coco", "labelme"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_value_at_any_place_is_read_or_named_and_every_text_can_be_written(tmp_path_factory, content, data):
    path = data.draw(st.sampled_from(places(content)))
    file = tmp_path_factory.mktemp("hard") / "a.json"
    file.write_text(with_text(content, path, data.draw(st.sampled_from(HARD))))
    with suppress(CocoError):
        read = read_dataset(file, keypoints=True)
        texts = [*map(str, (*read.invalid, *read.suspicious)), *map(read.category_name, read.category_ids)]
        assert "\ud800" not in "".join([*texts, *read.images.file_names])
