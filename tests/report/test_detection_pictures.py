"""Pictures of detections: marks where they belong, in the colours of their classes, seen on any ground."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from detect.report.detection_pictures import (
    SHADOW_COLOR,
    TRUTH_COLOR,
    Marks,
    class_color,
    detection_picture,
    score_text,
)

BLACK, WHITE = (ImageColor.getrgb(color) for color in (SHADOW_COLOR, TRUTH_COLOR))


def boxes(*rows: list[float], classes: list[int], texts: tuple[str, ...] = ()) -> Marks:
    return Marks(np.array(rows, float).reshape(-1, 4), np.zeros((0, 2)), np.array(classes, np.int64), texts)


def points(*rows: list[float], classes: list[int]) -> Marks:
    return Marks(np.zeros((0, 4)), np.array(rows, float).reshape(-1, 2), np.array(classes, np.int64))


def colored(picture: Image.Image, color: str) -> list[list[int]]:
    """Columns and rows (least, most) that a colour covers."""
    there = (np.asarray(picture) == ImageColor.getrgb(color)).all(axis=2)
    return [[int(each.min()), int(each.max())] for each in np.nonzero(there)[::-1]]


def test_a_box_covers_its_pixels_and_no_others():
    """Pixels 2 to 5 and 1 to 2 of an image 8 wide, drawn 64 times larger."""
    picture = detection_picture(Image.new("L", (8, 4)), boxes([2, 1, 6, 3], classes=[1]))
    assert colored(picture, class_color(1)) == [[128, 383], [64, 191]]


def test_a_point_is_a_circle_around_its_place():
    """Continuous (4.5, 2.5), the middle of pixel (4, 2), drawn 64 times larger."""
    picture = detection_picture(Image.new("L", (8, 4)), points([4.5, 2.5], classes=[2]))
    (left, right), (top, bottom) = colored(picture, class_color(2))
    assert (left + right, top + bottom) == (2 * 288, 2 * 160)
    assert picture.getpixel((288, 160)) == BLACK


def test_the_truth_is_seen_on_white_and_lies_beneath():
    picture = detection_picture(Image.new("L", (8, 4), 255), boxes(classes=[]), boxes([2, 1, 6, 3], classes=[0]))
    assert colored(picture, SHADOW_COLOR)[0][0] == 129  # within the white line of the box
    both = detection_picture(Image.new("L", (8, 4)), boxes([2, 1, 6, 3], classes=[0]), boxes([2, 1, 6, 3], classes=[0]))
    assert both.getpixel((128, 100)) == ImageColor.getrgb(class_color(0))


def test_true_points_are_crosses():
    picture = detection_picture(Image.new("L", (8, 4)), boxes(classes=[]), points([4.0, 2.0], classes=[0]))
    assert [picture.getpixel(at) for at in ((256, 128), (260, 128), (256, 124))] == [WHITE] * 3
    assert picture.getpixel((260, 132)) == BLACK


def test_large_images_are_made_smaller_with_their_marks():
    picture = detection_picture(Image.new("RGB", (2048, 1024)), boxes([400, 400, 800, 800], classes=[0]))
    assert picture.size == (512, 256)
    assert colored(picture, class_color(0)) == [[100, 199], [100, 199]]


def test_a_text_is_written_where_there_is_room():
    image = Image.new("L", (128, 128))
    narrow, wide = (
        detection_picture(image, boxes([50, 50, 50 + width, 60], classes=[0], texts=("cell 0.88",)))
        for width in (5, 40)
    )
    color = class_color(0)
    assert colored(narrow, color)[1][0] == 200
    assert colored(wide, color)[1][0] < 200


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "1", "P"])
def test_every_kind_of_image_is_drawn_on(mode):
    picture = detection_picture(Image.new(mode, (32, 32)), boxes([1, 1, 9, 9], classes=[0]))
    assert picture.mode == "RGB"
    assert colored(picture, class_color(0))[0][0] == 16


def test_a_box_without_extent_and_nothing_at_all_are_drawn():
    image = Image.new("L", (32, 32))
    detection_picture(image, boxes([4, 4, 4, 4], classes=[0]))
    assert detection_picture(image, Marks.none()).getcolors() == [(512 * 512, BLACK)]


def test_hostile_names_are_cut():
    assert len(score_text("x" * 500, 1.0)) < 30
    assert "\u202e" not in score_text("a\u202eb", 1.0)
