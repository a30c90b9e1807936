"""CVAT's XML for images: every shape, rotation, and files that are not for images."""

from __future__ import annotations

import math

import pytest
from builders import findings_below, label_folder, labels_in_words

from detect.data.read_dataset import read_dataset
from detect.errors import CocoError


def cvat(*shapes: str) -> str:
    image = f'<image id="4" name="sub/a.png" width="100" height="80">{"".join(shapes)}</image>'
    return f"<?xml version='1.0'?><annotations><version>1.1</version>{image}</annotations>"


PLACE = "a.xml: sub/a.png, object 1: annotation 1, image 1: "
SHAPES: dict[str, tuple[str, list[str], list[str], list[str]]] = {
    "a box": ('<box label="cat" xtl="1.5" ytl="2" xbr="11.5" ybr="22"/>', ["cat 1.5 2 10 20"], [], []),
    "a box turned by a quarter": (
        *('<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>', ["cat 15 5 10 20"], []),
        ["a.xml: rotated boxes are read as the boxes around them: 1, the first is a.xml: sub/a.png, object 1"],
    ),
    "a polygon": ('<polygon label="cat" points="1,1;5,1;5,7"/>', ["cat 1 1 4 6"], [], []),
    "an ellipse": ('<ellipse label="cat" cx="10" cy="20" rx="3" ry="4"/>', ["cat 7 16 6 8"], [], []),
    "an ellipse turned by a quarter": (
        *('<ellipse label="cat" cx="10" cy="20" rx="3" ry="4" rotation="90"/>', ["cat 6 17 8 6"], [], []),
    ),
    "a mask": ('<mask label="cat" left="3" top="4" width="5" height="6" rle="30"/>', ["cat 3 4 5 6"], [], []),
    "points": ('<points label="cat" points="3,4;5.5,6"/>', ["cat 2.5 3.5 1 1 3 4 2", "cat 5 5.5 1 1 5.5 6 2"], [], []),
    "a line": (
        *('<polyline label="cat" points="1,1;5,1"/>', []),
        *([f"{PLACE}a polyline is neither a box, a polygon, an ellipse, a mask nor points"], []),
    ),
    "a box without a corner": ('<box label="cat" xtl="1"/>', [], [f"{PLACE}None is not a number"], []),
    "points without commas": (
        *('<points label="cat" points="3 4"/>', []),
        *([f"{PLACE}points are not pairs x,y between semicolons"], []),
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_kept_counted_and_said_of_a_shape(tmp_path, kind):
    shape, annotations, invalid, suspicious = SHAPES[kind]
    dataset = read_dataset(label_folder(tmp_path, {"a.xml": cvat(shape)}) / "a.xml", keypoints=True)
    assert labels_in_words(dataset) == [f"sub/a.png: {each}" for each in annotations]
    assert findings_below(tmp_path, dataset.invalid) == invalid
    assert findings_below(tmp_path, dataset.suspicious) == suspicious


def test_areas_are_those_of_the_shapes(tmp_path):
    text = cvat('<polygon label="a" points="1,1;5,1;5,7"/>', '<ellipse label="a" cx="10" cy="20" rx="3" ry="4"/>')
    areas = read_dataset(label_folder(tmp_path, {"a.xml": text})).instances.area
    assert areas.tolist() == [12.0, math.pi * 12]


def test_tracks_of_a_video_are_refused_in_one_line(tmp_path):
    label_folder(tmp_path, {"a.xml": "<annotations><track id='0' label='cat'/></annotations>"})
    with pytest.raises(CocoError, match=r"a\.xml: tracks of a video: export the task as 'CVAT for images'"):
        read_dataset(tmp_path / "a.xml")


BOX, ELLIPSE = (
    'box label="cat" xtl="10" ytl="10" xbr="30" ybr="20"',
    'ellipse label="cat" cx="10" cy="20" rx="3" ry="4"',
)


def test_angles_are_rotations_of_boxes_and_ellipses_0_where_the_file_leaves_them_out(tmp_path):
    shapes = (
        f'<{BOX} rotation="30.5"/>',
        f"<{BOX}/>",
        f'<{ELLIPSE} rotation="300"/>',
        '<points label="cat" points="3,4"/>',
    )
    path = label_folder(tmp_path, {"a.xml": cvat(*shapes)}) / "a.xml"
    dataset = read_dataset(path, keypoints=True, angles=True)
    assert dataset.instances.angles_deg.tolist()[:3] == [30.5, 0, 300]
    assert math.isnan(dataset.instances.angles_deg[3])
    assert dataset.angle_fields == ("rotation",)
    assert read_dataset(path).instances.angles_deg is None
    label_folder(tmp_path, {"b.xml": cvat(f"<{BOX}/>")})
    assert read_dataset(tmp_path / "b.xml", angles=True).instances.angles_deg is None  # nothing states a rotation


@pytest.mark.parametrize("text", ["left", "nan", "inf"])
def test_a_rotation_that_is_no_number_is_an_error_if_angles_are_wanted(tmp_path, text):
    path = label_folder(tmp_path, {"a.xml": cvat(f"<{BOX}/>", f'<{BOX} rotation="{text}"/>')}) / "a.xml"
    with pytest.raises(CocoError, match=rf"a\.xml: sub/a\.png, object 2: rotation '{text}' is not a number"):
        read_dataset(path, angles=True)
    assert len(read_dataset(path).instances) == 1
