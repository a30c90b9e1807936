"""Mean and standard deviation of channels, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from detect.data import CocoDataset, read_coco
from detect.data.resize import parse_resize
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData
from detect.loading.normalization import measure_normalization, normalization_of


def images_of(tmp_path: Path, *images: np.ndarray) -> CocoDataset:
    entries = []
    for number, values in enumerate(images):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        height, width = values.shape[:2]
        entries.append({"id": number, "width": width, "height": height, "file_name": f"{number}.png"})
    return read_coco({"images": entries, "annotations": []})


def data_of(tmp_path: Path, *images: np.ndarray, rule: str = "none", **options: Any) -> DetectionData:
    return DetectionData(images_of(tmp_path, *images), tmp_path, resize=parse_resize(rule), **options)


def test_by_hand():
    # of 0, 0, 1, 1 and of 2, 2, 5, 5: means .5 and 3.5, deviations .5 and 1.5
    pixels = torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]]]), torch.tensor([[[1.0, 1.0]], [[5.0, 5.0]]])
    measured = normalization_of(pixels)
    assert_allclose(measured.mean, [0.5, 3.5], rtol=1e-12)
    assert_allclose(measured.std, [0.5, 1.5], rtol=1e-12)
    assert measured.num_images == 2


def test_images_of_any_size_count_by_their_pixels():
    random = np.random.default_rng(0)
    images = [random.random((3, height, width)) * scale for height, width, scale in ((5, 7, 1), (1, 1, 9), (30, 2, 3))]
    pixels = np.concatenate([image.reshape(3, -1) for image in images], axis=1)
    measured = normalization_of(torch.from_numpy(image) for image in images)
    assert_allclose(measured.mean, pixels.mean(axis=1), rtol=1e-12)
    assert_allclose(measured.std, pixels.std(axis=1), rtol=1e-12)


def test_a_small_deviation_about_a_large_mean_is_not_lost():
    # sums of squares in double precision would be 1e16 and their difference rounding
    images = [torch.full((1, 100, 100), 1e8 + sign, dtype=torch.float64) for sign in (-1, 1)]
    assert_allclose(normalization_of(images).std, [1.0], rtol=1e-6)


def test_a_channel_without_contrast_can_be_divided_by():
    measured = normalization_of([torch.full((1, 4, 4), 0.25)])
    assert_allclose((*measured.mean, *measured.std), [0.25, 1 / 255], rtol=1e-12)


def test_neither_padding_nor_augmentation_is_measured(tmp_path):
    grey = np.full((20, 40), 51, np.uint8)
    data = data_of(tmp_path, grey, grey, rule="letterbox:64", augment=Augment())
    measured = measure_normalization(data)
    assert_allclose(measured.mean, [0.2] * 3, rtol=1e-6)
    assert_allclose(measured.std, [1 / 255] * 3, rtol=1e-6)


def test_images_are_measured_as_they_are_resized(tmp_path):
    # black and white columns by turns are grey at half the width
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    assert measure_normalization(data_of(tmp_path, stripes, channels=1)).std[0] > 0.49
    assert measure_normalization(data_of(tmp_path, stripes, channels=1, rule="stretch:8x32")).std[0] < 0.1


def test_channels_are_those_of_colours(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[..., 2] = 255
    assert_allclose(measure_normalization(data_of(tmp_path, colours)).mean, [0, 0, 1], atol=1e-6)


def test_of_many_images_some_are_measured_evenly_spaced(tmp_path):
    images = [np.full((4, 4), 10 * number, np.uint8) for number in range(10)]
    data = data_of(tmp_path, *images, channels=1)
    # a third of ten, rounded up, is every fourth: 0, 4, 8
    measured = measure_normalization(data, max_images=3)
    assert measured.num_images == 3
    assert_allclose(measured.mean, [40 / 255], rtol=1e-6)
    assert measure_normalization(data, max_images=99).num_images == 10


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="there are no images to measure"):
        normalization_of([])


def test_at_least_one_image_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="need at least one image, got max_images=0"):
        measure_normalization(data_of(tmp_path, np.zeros((2, 2), np.uint8)), max_images=0)
