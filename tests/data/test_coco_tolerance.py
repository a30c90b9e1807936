"""Quirky files: which entries are kept, listed as suspicious, or invalid; read from a file and from memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from builders import written
from coco_files import coco_error, findings_in_words
from numpy.testing import assert_array_equal

from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset, coco_blocks, read_coco
from detect.data.coco_fields import label_id
from detect.errors import CocoError

A1, UUID = label_id("a1"), "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
SQUARE = [[10, 20, 30, 20, 30, 25, 10, 25]]


class Quirk(NamedTuple):
    """Changes of fields of an ordinary file, and what becomes of it."""

    annotations: Mapping[str, Any] = MappingProxyType({})  # of annotation 7; ``REMOVED`` removes a field
    images: Mapping[str, Any] = MappingProxyType({})  # of image 1
    categories: Any = ()  # of the category, or another list
    kept: int = 3
    suspicious: tuple[tuple[int | None, int | None, str], ...] = ()
    invalid: tuple[tuple[int | None, int | None, str], ...] = ()


REMOVED, NULL = object(), None

QUIRKS = {
    "an image id that is a text": Quirk(
        {"image_id": "1"}, suspicious=((7, 1, "image_id is the text '1': read as the number 1"),)
    ),
    "all ids as texts": Quirk(
        {"image_id": "1", "category_id": "1", "id": "7"},
        {"id": "1"},
        {"id": "1"},
        suspicious=(
            (None, None, "category 1: id is the text '1': read as the number 1"),
            (None, 1, "id is the text '1': read as the number 1"),
            (
                7,
                1,
                "id is the text '7': read as the number 7; image_id is the text '1': read as the number 1; "
                "category_id is the text '1': read as the number 1",
            ),
        ),
    ),
    "an annotation id that is a label": Quirk(
        {"id": "a1"}, suspicious=((A1, 1, f"id is the text 'a1': read as the id {A1}"),)
    ),
    "a label that no image has": Quirk(
        {"image_id": UUID},
        kept=2,
        invalid=(
            (
                7,
                label_id(UUID),
                f"no image has this id (image_id is the text '{UUID}': read as the id {label_id(UUID)})",
            ),
        ),
    ),
    "iscrowd null": Quirk({"iscrowd": NULL}, suspicious=((7, 1, "iscrowd is null: read as 0"),)),
    "no categories": Quirk(categories=[]),
    "area NaN, as NumPy writes it": Quirk(
        {"area": float("nan")}, suspicious=((7, 1, "area is nan: taken as width * height"),)
    ),
    "numbers of a box as texts": Quirk(
        {"bbox": ["10", "20", "20.0", "5"]}, suspicious=((7, 1, "bbox holds texts: read as numbers"),)
    ),
    "a polygon and no box": Quirk(
        {"bbox": REMOVED, "segmentation": SQUARE}, suspicious=((7, 1, "it has no bbox: taken from its segmentation"),)
    ),
    "run lengths and no box": Quirk(  # columns 10 to 29 of 40 rows: rows 20 to 24
        {
            "bbox": NULL,
            "segmentation": {"size": [40, 60], "counts": [420, *[5, 35] * 19, 5, 40 * 60 - 420 - 19 * 40 - 5]},
        },
        suspicious=((7, 1, "it has no bbox: taken from its segmentation"),),
    ),
    "a rotated box of five numbers": Quirk(
        {"bbox": [10, 20, 20, 5, 0.3]},
        kept=2,
        invalid=((7, 1, "bbox has 5 numbers, not 4 (x, y, width, height): a rotated box is not read"),),
    ),
    "five numbers and a polygon": Quirk(
        {"bbox": [10, 20, 20, 5, 0.3], "segmentation": SQUARE},
        suspicious=(
            (
                7,
                1,
                "bbox has 5 numbers, not 4 (x, y, width, height): a rotated box is not read: taken from its segmentation",
            ),
        ),
    ),
    "CVAT's rotation": Quirk(
        {"attributes": {"occluded": False, "rotation": 12.5}},
        suspicious=((7, 1, "it is rotated by 12.5 degrees: its box is taken without the rotation"),),
    ),
    "CVAT's rotation of nothing": Quirk({"attributes": {"occluded": False, "rotation": 0.0}}),
    "sizes as texts": Quirk(
        {},
        {"width": "100", "height": "80.0"},
        suspicious=(
            (
                None,
                1,
                "width is the text '100': read as the number 100; height is the text '80.0': read as the number 80",
            ),
        ),
    ),
    "no size": Quirk(
        {},
        {"width": REMOVED, "height": NULL},
        suspicious=((None, 1, "it has no width and height: taken as the extent of its boxes"),),
    ),
    "no width": Quirk(
        {}, {"width": NULL}, suspicious=((None, 1, "it has no width: taken as the extent of its boxes"),)
    ),
    "a size of -1": Quirk(
        {},
        {"width": -1},
        kept=1,
        invalid=(
            (None, 1, "size -1x80 is not positive"),
            (7, 1, "its image cannot be used"),
            (8, 1, "its image cannot be used"),
        ),
    ),
    "a file name that is a number": Quirk(
        {}, {"file_name": 5}, suspicious=((None, 1, "file_name is 5, not a text: left out"),)
    ),
    "a category name that is a number": Quirk(
        categories={"name": 5}, suspicious=((None, None, "category 1: name is 5: read as a text"),)
    ),
    "an entry without an image": Quirk({"image_id": REMOVED}, kept=2, invalid=((7, None, "it has no image_id"),)),
}


def content_of(quirk: Quirk) -> dict[str, Any]:
    """Two images, the first with annotations 7 and 8, the second with 9; the quirk is in annotation 7 and its image."""
    content = {
        "images": [{"id": number, "width": 100, "height": 80, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": box, "iscrowd": 0, "area": 9.0}
            for number, image, box in ((7, 1, [10, 20, 20, 5]), (8, 1, [1, 2, 30, 40]), (9, 2, [5, 6, 7, 8]))
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    for name in ("images", "annotations", "categories"):
        changes = getattr(quirk, name)
        if isinstance(changes, list):
            content[name] = changes
        else:
            content[name][0].update(changes)
            content[name][0] = {key: value for key, value in content[name][0].items() if value is not REMOVED}
    return content


@pytest.fixture(params=["memory", "a line", "indented", "small blocks", "entry 7 last", "not in blocks"])
def read(request, tmp_path, monkeypatch):
    """Read a structure: in memory, or from files that are laid out in different ways."""

    def from_file(content: dict[str, Any]) -> CocoDataset:
        if request.param == "memory":
            return read_coco(content)
        if request.param == "small blocks":
            monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 64)
        if request.param == "entry 7 last":
            content = dict(reversed(content.items()))
            content["annotations"] = content["annotations"][::-1]
        text = json.dumps(content, indent=1 if request.param == "indented" else None)
        if request.param == "not in blocks":
            text = f'{text[:-1]}, "info": 1, "info": 2}}'
        return read_coco(written(tmp_path / "quirky.json", text))

    return from_file


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk_is_told_and_nothing_is_lost_that_the_boxes_do_not_need(read, name):
    quirk = QUIRKS[name]
    dataset = read(content_of(quirk))
    assert findings_in_words(dataset.invalid) == list(quirk.invalid)
    assert findings_in_words(dataset.suspicious) == list(quirk.suspicious)
    assert len(dataset.instances) == quirk.kept
    if quirk.kept == 3:
        boxes = {tuple(box) for box in dataset.instances.boxes_xywh.tolist()}
        assert boxes == {(10, 20, 20, 5), (1, 2, 30, 40), (5, 6, 7, 8)}
        area = dataset.instances.area[dataset.instances.boxes_xywh[:, 0] == 10]
        assert area == (100 if "area" in quirk.annotations else 9)
    assert dataset.warnings == ()


def test_ids_that_are_all_labels_belong_together_over_shards(tmp_path):
    names = {number: f"{UUID}-{number}" for number in (1, 2)}
    content = content_of(Quirk())
    for image in content["images"]:
        image["id"] = names[image["id"]]
    for entry in content["annotations"]:
        entry.update(id=f"box {entry['id']}", image_id=names[entry["image_id"]], category_id="cell")
    content["categories"][0]["id"] = "cell"
    whole = read_coco(content)
    assert whole.invalid == ()
    assert sorted(np.bincount(whole.annotations.image_rows).tolist()) == [1, 2]
    assert len(whole.suspicious) == 2 + 3 + 1  # images, annotations, the category
    shards = [
        written(tmp_path / f"{number}.json", {**content, "annotations": [entry]})
        for number, entry in enumerate(content["annotations"])
    ]
    for order in (shards, shards[::-1]):
        assert_array_equal(read_coco(order).annotations.ids, whole.annotations.ids)
        assert_array_equal(read_coco(order).annotations.boxes_xywh, whole.annotations.boxes_xywh)


def test_an_image_without_size_has_the_extent_of_its_boxes(read):
    content = content_of(QUIRKS["no size"])
    content["images"].append({"id": 3})
    dataset = read(content)
    assert dataset.images.wh.tolist() == [[31, 42], [100, 80], [1, 1]]  # 1 + 30, 2 + 40; no boxes
    assert dataset.unsized == (1, 3)
    assert dataset.take_images(np.array([1, 2])).unsized == (3,)
    assert len(ResizedInstances.of(dataset, "none")) == 3
    ways = "--images FOLDER reads them from the image files, or --resize none does without"
    for rule in ("letterbox:640", "tiles:100:0.2"):
        with pytest.raises(CocoError) as caught:
            ResizedInstances.of(dataset, rule)
        (file,) = dataset.files
        assert str(caught.value) == f"2 images have no width and height in {file}, such as image 1: {ways}"


def test_normalised_boxes_need_the_sizes_of_images():
    error = coco_error(content_of(QUIRKS["no size"]), bbox="normalised")
    assert error.startswith(
        "1 image has no width and height in (in memory), such as image 1: normalised boxes need them"
    )


def test_entries_are_counted_over_blocks(tmp_path, monkeypatch):
    """Findings without an id name the place in the whole list, whichever blocks were read one by one."""
    monkeypatch.setattr(coco_blocks, "BLOCK_BYTES", 512)
    entries = [{"id": number, "image_id": 1, "category_id": 1, "bbox": [number, 2, 3, 4]} for number in range(1, 90)]
    entries[5] = {"bbox": [1, 2, 3, 4]}
    entries[50]["image_id"] = "1"
    entries[70] = {"category_id": 1}
    content = {"images": [{"id": 1, "width": 100, "height": 80}], "annotations": entries}
    for source in (written(tmp_path / "blocks.json", content), content):
        dataset = read_coco(source)
        places = [f"entry {place} of the annotation list: it has no image_id" for place in (5, 70)]
        assert [finding.reason for finding in dataset.invalid] == places
        assert findings_in_words(dataset.suspicious) == [(51, 1, "image_id is the text '1': read as the number 1")]
        assert len(dataset.annotations) == 87
