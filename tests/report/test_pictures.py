"""Pictures of predictions and ground truth: marks at their place, in the colours of their classes, on any background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image, ImageColor

from detect.report.pictures import (
    HEAT,
    LONGEST_PX,
    MAX_OPACITY,
    POINT_COLOR,
    SHADOW_COLOR,
    TRUTH_COLOR,
    Marks,
    class_color,
    contact_sheet,
    detection_picture,
    heatmap_overlay,
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
    assert colored(picture, SHADOW_COLOR)[0] == [127, 384]  # on both sides of the white line, from 128 to 383
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


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "F", "1", "P"])
def test_every_kind_of_image_is_drawn_on(mode):
    picture = detection_picture(Image.new(mode, (32, 32)), boxes([1, 1, 9, 9], classes=[0]))
    assert picture.mode == "RGB"
    assert colored(picture, class_color(0))[0][0] == 16
    assert heatmap_overlay(Image.new(mode, (8, 8)), np.ones((2, 2)), NO_POINTS, stride=4).mode == "RGB"


def test_a_box_without_extent_and_nothing_at_all_are_drawn():
    image = Image.new("L", (32, 32))
    detection_picture(image, boxes([4, 4, 4, 4], classes=[0]))
    assert detection_picture(image, boxes(classes=[])).getcolors() == [(512 * 512, BLACK)]


def test_hostile_names_are_cut():
    assert len(score_text("x" * 500, 1.0)) < 30
    assert "\u202e" not in score_text("a\u202eb", 1.0)


NO_POINTS = np.zeros((0, 2))
BLACK_IMAGE = Image.new("L", (32, 24))


def colored_overlays(picture: Image.Image) -> np.ndarray:
    """Where a picture of a black image is not black."""
    return np.asarray(picture).any(axis=2)


def test_a_cell_covers_the_pixels_it_stands_for():
    # 32 x 24 is enlarged 16 times; cell (column 2, row 1) of stride 4 covers pixels 8 to 12 and 4 to 8
    heatmap = np.zeros((6, 8))
    heatmap[1, 2] = 1
    found = colored_overlays(heatmap_overlay(BLACK_IMAGE, heatmap, NO_POINTS, stride=4))
    expected = np.zeros((24 * 16, 32 * 16), bool)
    expected[4 * 16 : 8 * 16, 8 * 16 : 12 * 16] = True
    assert_array_equal(found, expected)


@given(st.integers(3, 60), st.integers(3, 60), st.sampled_from([1, 2, 3, 4, 7, 2.5]))
def test_cells_lie_where_they_should_though_the_last_ones_reach_beyond_the_image(width, height, stride):
    columns, rows = int(np.ceil(width / stride)), int(np.ceil(height / stride))
    heatmap = np.ones((rows, columns))
    heatmap[:, columns // 2 :] = 0
    found = colored_overlays(heatmap_overlay(Image.new("L", (width, height)), heatmap, NO_POINTS, stride=stride))
    factor = LONGEST_PX // max(width, height)
    assert found.shape == (height * factor, width * factor)
    edge = columns // 2 * stride * factor
    assert abs(found.sum(axis=1) - min(edge, width * factor)).max() <= 0.5


def test_the_hotter_the_more_it_hides_and_zero_hides_nothing():
    grey = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (8, 16)))
    shown = np.asarray(heatmap_overlay(grey, np.array([[0.0, 0.3, 0.6, 1.0]]), NO_POINTS, stride=8), float)
    cells = shown.reshape(8 * 16, 4, 8 * 16, 3)
    contrast = [np.ptp(cells[:, number, :, 2]) for number in range(4)]
    assert contrast == sorted(contrast, reverse=True)
    assert contrast[0] == 255
    assert contrast[3] == pytest.approx(255 * (1 - MAX_OPACITY), abs=1)
    assert_array_equal(cells[0, 3, 0], (HEAT[-1] * MAX_OPACITY).astype(int))


def test_a_cross_is_at_its_point():
    picture = np.asarray(heatmap_overlay(BLACK_IMAGE, np.zeros((6, 8)), np.array([[8.5, 4.0]]), stride=4))
    rows, columns = np.nonzero((picture == POINT_COLOR).all(axis=2))
    assert (columns.min() + columns.max() + 1) / 2 == 8.5 * 16  # pixel i of the picture reaches to i + 1
    assert (rows.min() + rows.max() + 1) / 2 == 4 * 16


def test_values_beyond_0_and_1_look_like_0_and_1():
    wild, tame = (
        heatmap_overlay(BLACK_IMAGE, np.array([[low, high]]), NO_POINTS, stride=16)
        for low, high in ((-2.0, 3.0), (0.0, 1.0))
    )
    assert_array_equal(np.asarray(wild), np.asarray(tame))


@pytest.mark.parametrize(
    ("wh", "expected"), [((2048, 1024), (512, 256)), ((300, 200), (300, 200)), ((4000, 1), (512, 1))]
)
def test_large_images_are_made_as_small_as_the_others(wh, expected):
    heatmap = np.zeros((-(-wh[1] // 64), -(-wh[0] // 64)))
    heatmap[0, :4] = 1
    picture = heatmap_overlay(Image.new("L", wh), heatmap, NO_POINTS, stride=64)
    assert picture.size == expected
    assert abs(colored_overlays(picture)[0].sum() - 256 * expected[0] / wh[0]) <= 1


def test_inputs_are_left_as_they_are():
    image, heatmap, points = Image.new("L", (8, 8), 9), np.full((2, 2), 0.5), np.array([[1.0, 2.0]])
    heatmap_overlay(image, heatmap, points, stride=4)
    assert_array_equal(np.asarray(image), 9)
    assert_array_equal(heatmap, 0.5)
    assert_array_equal(points, [[1, 2]])


def test_a_sheet_holds_pictures_row_by_row():
    # cells of 6 + 2 by 5 + 2: the largest of each side; two columns, so the third begins the second row
    pictures = [Image.new("RGB", size, color) for size, color in (((6, 4), "red"), ((3, 5), "lime"), ((2, 2), "blue"))]
    sheet = contact_sheet(pictures, columns=2, gap=2)
    assert sheet.size == (2 * 8 + 2, 2 * 7 + 2)
    assert [sheet.getpixel(at) for at in ((2, 2), (10, 2), (2, 9))] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert [sheet.getpixel(at) for at in ((0, 0), (9, 2), (10, 9))] == [(255, 255, 255)] * 3
    assert contact_sheet(pictures[:1], columns=2, gap=2).size == (6 + 4, 4 + 4)  # no room for what is not there


def test_no_pictures_make_no_sheet():
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


def test_angles_are_lines_from_the_points_and_to_both_sides_of_an_axis():
    """In a picture 8 times as large: the point is at (256, 256), its line goes down 24 px, or up and down."""
    points = np.array([[32.0, 32.0], [10.0, 10.0]])
    marks = Marks(np.zeros((0, 4)), points, np.zeros(2, np.int64), angles=np.array([np.pi / 2, np.nan]))
    for two_sided in (False, True):
        drawn = replace(marks, two_sided=two_sided)
        for picture in (
            detection_picture(Image.new("L", (64, 64)), drawn),
            detection_picture(
                Image.new("L", (64, 64)), Marks(np.zeros((0, 4)), points[:0], np.zeros(0, np.int64)), drawn
            ),
        ):
            lit = [picture.getpixel((256, y)) != (0, 0, 0) for y in (256 - 20, 256 + 20, 256 + 28)]
            assert lit == [two_sided, True, False]
            assert picture.getpixel((80, 80 + 20)) == (0, 0, 0)
