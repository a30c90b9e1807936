"""Values of images of all kinds, and their size in the network's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch.testing import assert_close

from detect.data import CocoDataset, read_coco
from detect.data.resize import parse_resize
from detect.errors import ImageError
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData
from detect.loading.image_ops import decode_image, measure_normalization, normalization_of, resize_picture

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def canvas_of(image: Image.Image, rule: str = "none", *, channels: int = 3) -> np.ndarray:
    return resize_picture(decode_image(image, channels=channels), parse_resize(rule)).on_canvas(channels).numpy()


def test_eight_bits_are_divided_by_255():
    assert_allclose(canvas_of(Image.fromarray(GREY), channels=1), GREY[None] / 255, rtol=1e-6)


def test_grey_is_the_same_in_all_channels():
    assert_allclose(canvas_of(Image.fromarray(GREY)), np.stack([GREY] * 3) / 255, rtol=1e-6)
    assert_allclose(canvas_of(Image.fromarray(GREY), channels=4)[:3], np.stack([GREY] * 3) / 255, rtol=1e-6)


def test_a_16_bit_png_is_scaled_not_cut_to_white(tmp_path):
    values = np.array([[0, 255, 256], [4096, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert_allclose(canvas_of(image), np.stack([values] * 3) / 65535, rtol=1e-6)


def test_16_bits_in_a_32_bit_image_are_the_same():
    values = np.array([[0, 256, 65535]], np.int32)
    assert_allclose(canvas_of(Image.fromarray(values), channels=1), values[None] / 65535, rtol=1e-6)


def test_fractions_are_taken_as_they_are():
    values = np.array([[0.0, 0.25, 1.0]], np.float32)
    assert_allclose(canvas_of(Image.fromarray(values), channels=1), values[None], rtol=1e-6)


@pytest.mark.parametrize("value", [-1, 65536])
def test_a_value_beyond_16_bits_is_refused(value):
    with pytest.raises(ImageError, match=f"values from {value} to {value}: a deep image has 16 bits"):
        decode_image(Image.new("I", (2, 2), value))


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan")])
def test_a_fraction_beyond_one_is_refused(value):
    with pytest.raises(ImageError, match=f"values from {value:g} to {value:g}: .* fractions from 0 to 1"):
        decode_image(Image.new("F", (2, 2), value))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_colours_of_any_mode_become_three_channels(mode):
    red = Image.new("RGB", (3, 2), (255, 0, 0)).convert(mode)
    assert_allclose(canvas_of(red)[:, 0, 0], [1, 0, 0], atol=0.01)
    assert canvas_of(red).shape == (3, 2, 3)


def test_colours_that_cannot_be_converted_are_an_image_s_fault():
    with pytest.raises(ImageError, match="conversion from LAB to RGB not supported"):
        decode_image(Image.new("LAB", (2, 2)), channels=1)


def test_colours_become_grey_by_their_luma():
    # ITU-R 601: .299 of red
    assert_allclose(canvas_of(Image.new("RGB", (1, 1), (255, 0, 0)), channels=1), [[[0.299]]], atol=0.003)


def test_black_and_white_are_zero_and_one():
    assert_array_equal(canvas_of(Image.fromarray(np.array([[True, False]])), channels=1), [[[1, 0]]])


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="images have 1, 3 or 4 channels, got 2"):
        decode_image(Image.new("L", (2, 2)), channels=2)


def test_shrinking_takes_the_mean_of_an_area():
    # black and white by turns: every pixel of half the size sees both alike, one that picks a pixel sees one of them
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    half = canvas_of(Image.fromarray(stripes), "stretch:16x16", channels=1)
    assert_allclose(half[0, :, 2:-2], np.full((16, 12), 0.5), atol=0.01)


def test_deep_images_are_resized_without_rounding_to_eight_bits():
    # 655 of 65,535 is between the second and the third of 255 grey levels
    deep = canvas_of(Image.new("I;16", (8, 8), 655), "stretch:4x4", channels=1)
    assert_allclose(deep, np.full((1, 4, 4), 655 / 65535), rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "offset", "canvas_wh", "content_wh"),
    [
        ("none", (0, 0), (100, 51), (100, 51)),
        ("stretch:20x30", (0, 0), (20, 30), (20, 30)),
        # .5 of 100 x 51 is 50 x 25.5, rounded to the even 26; 50 - 26 leaves 24 rows, half of them above
        ("letterbox:50", (0, 12), (50, 50), (50, 26)),
        # 25.5 to 32 rows is a factor of 32 / 51: 62.7 columns, cut to 62 and padded to 64
        ("shortest:32:100", (0, 0), (64, 32), (62, 32)),
        ("tiles:128:16", (0, 0), (128, 128), (100, 51)),
    ],
)
def test_content_and_canvas_are_those_of_the_rule(rule, offset, canvas_wh, content_wh):
    content = resize_picture(decode_image(Image.new("L", (100, 51), 255)), parse_resize(rule))
    assert (content.offset_xy, content.canvas_wh) == (offset, canvas_wh)
    assert_array_equal(content.end_hw, [offset[1] + content_wh[1], offset[0] + content_wh[0]])
    canvas = content.on_canvas(3)
    rows, columns = torch.nonzero(canvas[1] == 1, as_tuple=True)
    assert_close(canvas.sum().item(), 3.0 * content_wh[0] * content_wh[1], rtol=0, atol=0)
    assert (columns.min(), rows.min()) == offset
    assert_array_equal([rows.max() + 1, columns.max() + 1], content.end_hw)


@pytest.mark.parametrize("rule", ["none", "stretch:90x30", "letterbox:50", "shortest:32:100"])
def test_pixels_go_where_the_view_says(rule):
    """The centroid of a bright square; letterbox's factor of .5 is that of the pixels too where no side is rounded."""
    values = np.zeros((62, 100), np.uint8)
    values[20:40, 50:70] = 250
    content = resize_picture(decode_image(Image.fromarray(values), channels=1), parse_resize(rule))
    canvas = content.on_canvas(1)[0].double()
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in canvas.shape), indexing="ij")
    centroid = [float((axis * canvas).sum() / canvas.sum()) for axis in (columns, rows)]
    moved = content.transform.apply_to_points(
        np.array([[59.5, 29.5]]), pixel_origin="center"
    )  # the middle of pixels 50..69 and 20..39
    assert_allclose(moved, [centroid], atol=0.03)


def images_of(tmp_path: Path, *images: np.ndarray) -> CocoDataset:
    entries = []
    for number, values in enumerate(images):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        height, width = values.shape[:2]
        entries.append({"id": number, "width": width, "height": height, "file_name": f"{number}.png"})
    return read_coco({"images": entries, "annotations": []})


def data_of(tmp_path: Path, *images: np.ndarray, rule: str = "none", **options: Any) -> DetectionData:
    return DetectionData(images_of(tmp_path, *images), tmp_path, resize=parse_resize(rule), **options)


def test_mean_and_deviation_by_hand():
    # of 0, 0, 1, 1 and of 2, 2, 5, 5: means .5 and 3.5, deviations .5 and 1.5
    pixels = torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]]]), torch.tensor([[[1.0, 1.0]], [[5.0, 5.0]]])
    assert_allclose(normalization_of(pixels), [[0.5, 3.5], [0.5, 1.5]], rtol=1e-12)


def test_images_of_any_size_count_by_their_pixels():
    random = np.random.default_rng(0)
    images = [random.random((3, height, width)) * scale for height, width, scale in ((5, 7, 1), (1, 1, 9), (30, 2, 3))]
    pixels = np.concatenate([image.reshape(3, -1) for image in images], axis=1)
    measured = normalization_of(torch.from_numpy(image) for image in images)
    assert_allclose(measured, [pixels.mean(axis=1), pixels.std(axis=1)], rtol=1e-12)


def test_a_small_deviation_about_a_large_mean_is_not_lost():
    # sums of squares in double precision would be 1e16 and their difference rounding
    images = [torch.full((1, 100, 100), 1e8 + sign, dtype=torch.float64) for sign in (-1, 1)]
    assert_allclose(normalization_of(images)[1], [1.0], rtol=1e-6)


def test_a_channel_without_contrast_can_be_divided_by():
    assert_allclose(normalization_of([torch.full((1, 4, 4), 0.25)]), [[0.25], [1 / 255]], rtol=1e-12)


def test_neither_padding_nor_augmentation_is_measured(tmp_path):
    grey = np.full((20, 40), 51, np.uint8)
    data = data_of(tmp_path, grey, grey, rule="letterbox:64", augment=Augment())
    assert_allclose(measure_normalization(data), [[0.2] * 3, [1 / 255] * 3], rtol=1e-6)


def test_images_are_measured_as_they_are_resized(tmp_path):
    # black and white columns by turns are grey at half the width
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    assert measure_normalization(data_of(tmp_path, stripes, channels=1))[1][0] > 0.49
    assert measure_normalization(data_of(tmp_path, stripes, channels=1, rule="stretch:8x32"))[1][0] < 0.1


def test_channels_are_those_of_colours(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[..., 2] = 255
    assert_allclose(measure_normalization(data_of(tmp_path, colours))[0], [0, 0, 1], atol=1e-6)


def test_of_many_images_some_are_measured_evenly_spaced(tmp_path):
    images = [np.full((4, 4), 10 * number, np.uint8) for number in range(10)]
    data = data_of(tmp_path, *images, channels=1)
    # a third of ten, rounded up, is every fourth: 0, 4, 8
    assert_allclose(measure_normalization(data, max_images=3)[0], [40 / 255], rtol=1e-6)
    assert_allclose(measure_normalization(data, max_images=99)[0], [45 / 255], rtol=1e-6)
