"""YOLO folders: what is kept, counted and said of each kind of line."""

from __future__ import annotations

import numpy as np
import pytest
from builders import findings_below, label_folder, labels_in_words
from hypothesis import given
from hypothesis import strategies as st

from detect.data.formats.yolo import read_yolo
from detect.data.formats.yolo_files import YoloFiles
from detect.data.read_dataset import read_dataset

NAMES = "names: [cat, dog]\n"
WH = (100, 50)
BOX = "a.png: cat 40 10 20 30"

# lines of labels/a.txt for a 100 x 50 image: data.yaml, lines, annotations, invalid, suspicious
LINES: dict[str, tuple[str, str | bytes, list[str], list[str], list[str]]] = {
    "a box": (NAMES, "0 .5 .5 .2 .6", [BOX], [], []),
    "Windows line ends and a byte order mark": (NAMES, b"\xef\xbb\xbf0 .5 .5 .2 .6\r\n\r\n", [BOX], [], []),
    "UTF-16": (NAMES, "0 .5 .5 .2 .6\n".encode("utf-16"), [BOX], [], []),
    "tabs and no last line end": (NAMES, "0\t.5\t.5\t.2\t.6", [BOX], [], []),
    "an empty file": (NAMES, "", [], [], []),
    "a class as a decimal": (NAMES, "1.0 .5 .5 .2 .6", [BOX.replace("cat", "dog")], [], []),
    "names by number": ("names:\n  3: cat\n", "3 .5 .5 .2 .6", [BOX], [], []),
    "a number of classes": ("nc: 2\n", "0 .5 .5 .2 .6", [BOX.replace("cat", "class 0")], [], []),
    "no names": ("", "0 .5 .5 .2 .6", [BOX.replace("cat", "class 0")], [], []),
    "a box that reaches out": (
        *(NAMES, "0 .05 .5 .2 .6", ["a.png: cat 0 10 15 30"], []),
        ["line 1: annotation 1, image 1: bbox [-5, 10, 20, 30] reaches outside its 100x50 image: clipped"],
    ),
    "a class without a name": (
        *(NAMES, "0 .5 .5 .2 .6\n2 .5 .5 .2 .6", [BOX]),
        *(["line 2: annotation 2, image 1: class 2 has no name: there are 2, from class 0"], []),
    ),
    "a class that is no whole number": (
        *(NAMES, "0.5 .5 .5 .2 .6", []),
        *(["line 1: annotation 1, image 1: class 0.5 is not a whole number from 0"], []),
    ),
    "pixels": (
        *(NAMES, "0 50 25 20 30", []),
        *(["line 1: annotation 1, image 1: 50 is not a fraction of the image, from 0 to 1: are these pixels?"], []),
    ),
    "a negative width": (
        *(NAMES, "0 .5 .5 -.2 .6", []),
        *(["line 1: annotation 1, image 1: width -20 is not positive"], []),
    ),
    "not finite": (
        *(NAMES, "0 nan .5 .2 .6", []),
        *(["line 1: annotation 1, image 1: nan is not a fraction of the image, from 0 to 1"], []),
    ),
    "decimal commas": (
        *(NAMES, "0 0,5 0,5 0,2 0,6", []),
        *(
            ["line 1: annotation 1, image 1: '0,5' is not a number: write decimals with a point, not a comma"],
            [],
        ),
    ),
    "words": (NAMES, "cat .5 .5 .2 .6", [], ["line 1: annotation 1, image 1: 'cat' is not a number"], []),
    "too few numbers": (
        *(NAMES, "0 .5 .5", []),
        [
            "line 1: annotation 1, image 1: 3 numbers are no box (5), polygon (7, 9, ...) or pose; "
            "a pose needs kpt_shape in data.yaml"
        ],
        [],
    ),
    "a score": (
        *(NAMES, "0 .5 .5 .2 .6 .9", [BOX], []),
        ["a sixth number, the score of a result, is ignored: 1"],
    ),
    "a polygon": (
        *(NAMES, "0 .4 .2 .6 .2 .6 .8", [BOX], []),
        ["polygons are read as the boxes around them, with their areas: 1"],
    ),
    "a rotated box": (
        *(NAMES, "0 .4 .5 .5 .2 .6 .5 .5 .8", [BOX], []),
        ["rotated boxes, of four corners, are read as the boxes around them: 1"],
    ),
    "a pose": (*(f"{NAMES}kpt_shape: [2, 3]\n", "0 .5 .5 .2 .6 .4 .2 2 0 0 0", [f"{BOX} 40 10 2 0 0 0"], [], []),),
    "a pose without visibility": (
        *(f"{NAMES}kpt_shape: [2, 2]\n", "0 .5 .5 .2 .6 .4 .2 0 0", [f"{BOX} 40 10 2 0 0 0"], [], []),
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_what_is_kept_counted_and_said_of_a_line(tmp_path, kind):
    yaml, lines, annotations, invalid, suspicious = LINES[kind]
    files: dict = {"images/a.png": WH, "labels/a.txt": lines}
    if yaml:
        files["data.yaml"] = f"train: images\n{yaml}"
    dataset = read_dataset(label_folder(tmp_path, files), keypoints=True)
    place = "labels/a.txt, "
    assert labels_in_words(dataset) == annotations
    assert findings_below(tmp_path, dataset.invalid) == [f"{place}{each}" for each in invalid]
    said = findings_below(tmp_path, dataset.suspicious)
    assert [each.replace("data.yaml: ", "").replace(place, "") for each in said] == suspicious
    assert dataset.images.file_names == ("a.png",)


def test_the_area_of_a_polygon_is_its_own(tmp_path):
    label_folder(tmp_path, {"images/a.png": WH, "labels/a.txt": "0 .4 .2 .6 .2 .6 .8\n0 .5 .5 .2 .6"})
    areas = read_dataset(tmp_path).instances.area
    np.testing.assert_allclose(areas, [20 * 30 / 2, 20 * 30])


fractions = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(st.integers(0, 5), fractions, fractions, fractions, fractions), max_size=20))
def test_numbers_are_those_of_a_plain_loop(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("labels")
    label = folder / "a.txt"
    label.write_text("".join(f"{index} {x!r} {y!r} {w!r} {h!r}\n" for index, x, y, w, h in rows))
    found = read_yolo(YoloFiles("labels", [str(label), None], ["a.png", "b.png"], [str(folder)] * 2))
    expected = [(x - w / 2, y - h / 2, w, h) for _, x, y, w, h in rows]
    np.testing.assert_allclose(found.annotations.boxes_xywh, np.reshape(expected, (-1, 4)), atol=1e-12)
    assert found.annotations.category_ids.tolist() == [index + 1 for index, *_ in rows]
    assert found.annotations.ids.tolist() == list(range(1, len(rows) + 1))
    assert found.faults == []


def test_progress_is_told_in_files(tmp_path):
    files: dict = {f"images/{number:03}.png": (4, 4) for number in range(130)}
    files |= {f"labels/{number:03}.txt": "" for number in range(130)}
    seen = []
    read_dataset(label_folder(tmp_path, files), on_progress=lambda *each: seen.append(each))
    assert seen[:2] == [("reading labels", 64, 130), ("reading labels", 128, 130)]
    assert seen[-1] == ("reading image headers", 130, 130)
