"""Boxes and points move with the picture; intensities stay finite and within 0..1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch.testing import assert_close

from detect.data.resize import parse_resize
from detect.loading.augment import Augment, flip, gaussian_blur, rotate90, zoom_window
from detect.loading.image_ops import Content, Picture, decode_image, resize_picture
from detect.loading.transforms import Transform

STILL = Augment(flips=False, turns=False, zoom=(1, 1), gain=(1, 1), gamma=(1, 1), noise=0, blur_px=0)
NUMBERED = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 4 columns, 3 rows


def numbered() -> Picture:
    return decode_image(Image.fromarray(NUMBERED), channels=1)


def content_of(values: Any) -> Content:
    image = torch.as_tensor(values, dtype=torch.float32)
    size = (image.shape[2], image.shape[1])
    return Content(image, Transform(size), (0, 0), size)


def test_mirrored_columns_are_in_reverse():
    picture = flip(numbered(), along_x=True, along_y=False)
    assert_array_equal(picture.values[0], NUMBERED[:, ::-1])
    # pixel (x 0, y 2) is now at x 3
    assert_array_equal(picture.transform.apply_to_points(np.array([[0.0, 2.0]]), pixel_origin="center"), [[3, 2]])


@pytest.mark.parametrize("quarters", range(5))
def test_turns_are_those_of_numpy(quarters):
    picture = rotate90(numbered(), quarters)
    assert_array_equal(picture.values[0], np.rot90(NUMBERED, quarters))
    assert picture.wh == picture.frame_wh == ((3, 4) if quarters % 2 else (4, 3))


def test_flips_keep_up_and_turns_do_not_mirror_left_and_right():
    """The pictures that the same random draws give of 12 numbered pixels: some of the eight turned and flipped ones."""

    def pictures(augment):
        draws = (augment.apply_geometric(numbered(), np.random.default_rng(seed)) for seed in range(64))
        return [picture.values[0].tolist() for picture in draws]

    flipped, turned = pictures(replace(STILL, flips=True)), pictures(replace(STILL, turns=True))
    both = pictures(replace(STILL, flips=True, turns=True))
    assert pictures(STILL) == [NUMBERED.tolist()] * 64
    assert {str(picture) for picture in flipped} == {str(NUMBERED.tolist()), str(NUMBERED[:, ::-1].tolist())}
    eight = {str(np.rot90(each, quarters).tolist()) for each in (NUMBERED, NUMBERED[:, ::-1]) for quarters in range(4)}
    assert {str(picture) for picture in both} == {str(picture) for picture in turned} == eight
    for one, other, mirrored in zip(both, turned, flipped, strict=True):  # a left-right flip after the turns
        assert one == (np.array(other)[:, ::-1] if mirrored != NUMBERED.tolist() else np.array(other)).tolist()


@given(st.booleans(), st.booleans(), st.integers(0, 3), st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 1))
def test_every_pixel_that_is_left_is_where_the_view_says(along_x, along_y, quarters, factor, place_x, place_y):
    """Nothing is resampled before the resize, so that the values tell where each pixel went."""
    turned = flip(rotate90(numbered(), quarters), along_x=along_x, along_y=along_y)
    picture = zoom_window(turned, factor, (place_x, place_y))
    rows, columns = np.indices(NUMBERED.shape)
    seen = picture.transform.apply_to_points(
        np.stack([columns.ravel(), rows.ravel()], 1).astype(float), pixel_origin="center"
    )
    for value, (x, y) in zip(NUMBERED.ravel(), seen, strict=True):
        if 0 <= x < picture.wh[0] and 0 <= y < picture.wh[1]:
            assert picture.values[0, round(y), round(x)] == value
    assert picture.frame_wh == turned.wh


def test_zoomed_in_a_part_is_seen_and_zoomed_out_all_of_it_on_the_median_colour():
    image = Image.fromarray(np.full((20, 40), 7, np.uint8))
    image.putpixel((0, 0), 255)
    closer = zoom_window(decode_image(image, channels=1), 2.0, (1.0, 0.5))
    assert (closer.wh, closer.transform.offset_xy) == ((20, 10), (-20.0, -5.0))  # of 40 - 20 and 20 - 10: all, and half
    farther = zoom_window(decode_image(image, channels=1), 0.5, (0.25, 1.0))
    # of 40 - 80 and 20 - 40: a quarter, and all
    assert (farther.wh, farther.transform.offset_xy) == ((80, 40), (10.0, 20.0))
    assert_array_equal(np.unique(farther.values, return_counts=True), [[7, 255], [80 * 40 - 1, 1]])
    assert farther.values[0, 20, 10] == 255


def bright_rectangle(x: int, y: int, width: int, height: int) -> Picture:
    values = np.zeros((96, 120), np.uint8)
    values[y : y + height, x : x + width] = 255
    return decode_image(Image.fromarray(values), channels=1)


@given(st.integers(0, 10**6), st.sampled_from(["none", "stretch:200x90", "letterbox:96", "shortest:64:100"]))
def test_box_and_centroid_stay_on_a_bright_rectangle_whatever_is_drawn(seed, rule):
    """Half a pixel off would be seen: the tolerance is a fifth of a pixel, the factors reach from .4 to 2.4."""
    x, y, width, height = 44, 40, 24, 12
    picture = Augment(turns=True).apply_geometric(bright_rectangle(x, y, width, height), np.random.default_rng(seed))
    content = resize_picture(picture, parse_resize(rule))
    boxes = content.transform.apply_to_boxes(
        picture.transform.apply_to_boxes(np.array([[x, y, x + width, y + height]], float))
    )
    middle = np.array([[x + width / 2 - 0.5, y + height / 2 - 0.5]])
    points = content.transform.apply_to_points(
        picture.transform.apply_to_points(middle, pixel_origin="center"), pixel_origin="center"
    )
    canvas = content.on_canvas(1)[0].double()
    if (boxes[0, :2] < 1).any() or (boxes[0, 2:] > np.array(canvas.shape[::-1]) - 1).any():
        return  # cut
    columns, rows = canvas.sum(0), canvas.sum(1)
    for axis, profile in enumerate((columns, rows)):
        centroid = float((torch.arange(len(profile)) * profile).sum() / profile.sum())
        assert_allclose(points[0, axis], centroid, atol=0.2)
        assert_allclose(boxes[0, axis + 2] - boxes[0, axis], float(profile.sum() / profile.max()), atol=0.2)


def test_nothing_asked_for_changes_nothing():
    content = content_of(NUMBERED[None] / 12)
    random = np.random.default_rng(0)
    assert_array_equal(STILL.apply_geometric(numbered(), random).values, numbered().values)
    assert STILL.apply_geometric(numbered(), random).transform == Transform((4, 3))
    assert_close(STILL.apply_photometric(content, random).values, content.values)


def test_gamma_and_gain_by_hand():
    # parts of the highest, .4: (.5, 1) squared are (.25, 1); times .4 and a gain of 2: (.2, .8)
    given_values = content_of([[[0.2, 0.4]]])
    changed = replace(STILL, gamma=(2, 2), gain=(2, 2)).apply_photometric(given_values, np.random.default_rng(0))
    assert_close(changed.values, torch.tensor([[[0.2, 0.8]]]))
    # the input is not touched
    assert_close(given_values.values, torch.tensor([[[0.2, 0.4]]]))
    negative = content_of([[[-0.2, 0.4]]])
    STILL.apply_photometric(negative, np.random.default_rng(0))
    assert_close(negative.values, torch.tensor([[[-0.2, 0.4]]]))


@given(st.integers(0, 10**6), st.sampled_from([-1.0, -1e-6, 0.0, 1e-3, 1.0]))
def test_intensities_are_finite_and_from_0_to_1_whatever_is_drawn(seed, darkest):
    """Even of a negative pixel, whose power would be not a number; and of a picture that is all black."""
    values = torch.linspace(darkest, max(darkest, 0.0), 64).reshape(1, 8, 8)
    random = np.random.default_rng(seed)
    changed = (
        Augment(gamma=(0.3, 3), gain=(0.1, 10), noise=2.0, blur_px=3.0)
        .apply_photometric(content_of(values), random)
        .values
    )
    assert torch.isfinite(changed).all()
    assert 0 <= changed.min() <= changed.max() <= 1


def test_noise_is_in_proportion_to_the_contrast_of_the_picture():
    values = torch.tensor([0.4, 0.6]).repeat(1, 100, 50)  # standard deviation .1
    for contrast in (1.0, 0.1):
        content = content_of(0.5 + (values - 0.5) * contrast)
        noises = [
            (
                replace(STILL, noise=0.5).apply_photometric(content, np.random.default_rng(seed)).values
                - content.values
            ).std()
            for seed in range(40)
        ]
        # up to half of .1 times the contrast, uniform: .025 in the middle
        assert max(noises) < 0.051 * contrast
        assert_allclose(np.mean(noises), 0.025 * contrast, rtol=0.25)


def test_blur_keeps_a_picture_s_sum_and_widens_a_point_by_its_sigma():
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    spread = gaussian_blur(point, 1.0)
    variance = ((torch.arange(21) - 10.0) ** 2 * spread[0].sum(0)).sum()
    assert_close(spread.sum(), torch.tensor(1.0))
    assert_allclose(variance, 1.0, atol=0.25)  # of a bell cut at 2 sigmas it is .77
    assert_close(gaussian_blur(point, 0.2), point, rtol=0, atol=0)


def test_a_picture_smaller_than_the_blur_is_left_as_it_is():
    tiny = torch.rand(1, 2, 9, generator=torch.Generator().manual_seed(0))
    assert_close(gaussian_blur(tiny, 3.0), tiny, rtol=0, atol=0)


def test_a_picture_of_one_pixel_can_be_augmented():
    for seed in range(20):
        random = np.random.default_rng(seed)
        picture = Augment().apply_geometric(decode_image(Image.new("L", (1, 1), 9)), random)
        Augment().apply_photometric(resize_picture(picture, parse_resize("letterbox:8")), random)
