"""Sizes from the headers of images: against Pillow, truncated files, EXIF rotation, unknown sizes in any format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import findings_below, label_folder, photo
from PIL import Image

from detect.data.coco_entries import AnnotationEntries, Category, Rows
from detect.data.coco_entries import Image as ImageEntry
from detect.data.image_sizes import fill_sizes, read_headers
from detect.data.images import ImageFiles
from detect.data.read_dataset import read_dataset


def test_sizes_of_any_format_are_read(tmp_path):
    files, expected = [], []
    for number, suffix in enumerate(("png", "jpg", "bmp", "tif", "gif", "webp")):
        expected.append((30 + number, 20 + 2 * number))
        files.append(str(tmp_path / f"{number}.{suffix}"))
        Image.new("RGB", expected[-1]).save(files[-1])
    headers = read_headers(files)
    assert headers.stored_wh.tolist() == headers.upright_wh().tolist() == [list(each) for each in expected]
    assert (headers.orientations, headers.reasons) == ({}, {})


def test_only_the_header_is_needed(tmp_path):
    random = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    Image.fromarray(random).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    assert read_headers([str(tmp_path / "b.jpg")]).stored_wh.tolist() == [[300, 200]]


def test_an_image_without_a_size_has_a_reason(tmp_path):
    label_folder(tmp_path, {"a.png": (3, 4), "b.png": "no image", "c.png": b""})
    files = [str(tmp_path / name) for name in ("missing.png", "a.png", "b.png", "c.png")]
    headers = read_headers([*files, str(tmp_path)])
    assert headers.stored_wh.tolist() == [[0, 0], [3, 4], [0, 0], [0, 0], [0, 0]]
    assert [headers.reasons[row].replace(f"{tmp_path}/", "") for row in (0, 2, 3)] == [
        "there is no image missing.png",
        "b.png is not an image that can be read",
        "c.png is not an image that can be read",
    ]
    assert "Is a directory" in headers.reasons[4]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_progress_ends_with_the_number_of_images(tmp_path, count):
    label_folder(tmp_path, {"a.png": (3, 4)})
    seen = []
    headers = read_headers([str(tmp_path / "a.png")] * count, on_progress=lambda *each: seen.append(each))
    assert headers.stored_wh.tolist() == [[3, 4]] * count
    assert seen[-1:] == ([("reading image headers", count, count)] if count else [])


def coco_rows(folder: Path, *images: ImageEntry) -> Rows:
    return Rows(str(folder / "a.json"), list(images), AnnotationEntries.of([], keypoints=False), [Category(1, "cat")])


def test_unknown_sizes_of_coco_are_read_from_a_given_folder_only(tmp_path):
    label_folder(tmp_path, {"images/sub/a.png": (3, 4)})
    rows = coco_rows(
        tmp_path, ImageEntry(1, 0, 0, "sub/a.png"), ImageEntry(2, 7, 8, "b.png"), ImageEntry(3, 0, 0, "c.png")
    )
    fill_sizes([rows], None)
    assert [(each.width, each.height) for each in rows.images] == [(0, 0), (7, 8), (0, 0)]
    fill_sizes([rows], str(tmp_path / "images"))
    assert [(each.width, each.height) for each in rows.images] == [(3, 4), (7, 8), (0, 0)]
    assert findings_below(tmp_path, rows.suspicious) == [
        "a.json: image 3: there is no image images/c.png: its size is unknown"
    ]


def test_known_sizes_need_no_folder():
    rows = coco_rows(Path("nowhere"), ImageEntry(1, 7, 8, "b.png"))
    fill_sizes([rows], "no such folder")
    assert rows.suspicious == []


def test_labels_in_pixels_with_a_missing_image_are_noted(tmp_path):
    line = json.dumps({"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [0]}})
    other = line.replace("a.png", "b.png")
    label_folder(tmp_path, {"metadata.jsonl": f"{line}\n{other}\n", "a.png": (30, 40)})
    dataset = read_dataset(tmp_path)
    assert dataset.images.wh[0].tolist() == [30, 40]
    assert "metadata.jsonl, line 2: image 2: there is no image b.png: its size is unknown" in [
        *findings_below(tmp_path, dataset.suspicious)
    ]


@pytest.mark.parametrize(("exif", "size"), [("auto", [96, 128]), ("apply", [96, 128]), ("ignore", [128, 96])])
def test_sizes_are_those_of_the_upright_image_unless_it_is_ignored(tmp_path, exif, size):
    label_folder(tmp_path, {"labels/a.txt": "0 .5 .25 .5 .5", "labels/b.txt": "0 .5 .5 1 1"})
    photo(tmp_path / "images" / "a.jpg", orientation=6)
    photo(tmp_path / "images" / "b.jpg")
    dataset = read_dataset(tmp_path / "labels", exif=exif)
    assert dataset.images.wh.tolist() == [size, [128, 96]]
    assert dataset.annotations.boxes_xywh[0].tolist() == [size[0] / 4, 0, size[0] / 2, size[1] / 2]
    expected = (
        "1 image has an EXIF orientation, such as a.jpg, and labels that fit both readings: taken upright; "
        "data.exif=ignore (--exif ignore) if the labels were made otherwise"
    )
    assert dataset.warnings == ((expected,) if exif == "auto" else ())
    assert ImageFiles(dataset, tmp_path / "images").open(0).size == tuple(size)
    assert ImageFiles(dataset, tmp_path / "images").warning() is None  # the warning of the labels is enough


@pytest.mark.parametrize(("known", "size"), [((96, 128), (96, 128)), ((128, 96), (128, 96)), ((50, 50), (96, 128))])
def test_unknown_sizes_follow_the_known_ones(tmp_path, known, size):
    for name in ("a.png", "b.png"):
        photo(tmp_path / name, orientation=8)
    rows = coco_rows(tmp_path, ImageEntry(1, 0, 0, "a.png"), ImageEntry(2, *known, "b.png"))
    filled = fill_sizes([rows], str(tmp_path))
    assert (rows.images[0].width, rows.images[0].height) == size
    assert ([each.id for each in filled.turned], filled.upright) == ([1], size == (96, 128))
