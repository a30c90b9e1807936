"""Mean and standard deviation of each channel, measured from the data in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detect.loading.dataset import DetectionData
from detect.loading.image_ops import resize_picture

GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class Normalization:
    """The mean that a network subtracts from each channel, values from 0 to 1, and the deviation it divides by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_images: int


def measure_normalization(data: DetectionData, *, max_images: int | None = None) -> Normalization:
    """Measure mean and standard deviation of resized images, before augmentation and without padding.

    At most ``max_images`` are measured, evenly spaced. The standard deviation is at least one grey level of 255, so that a
    constant channel can be divided by it.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> file = sample_annotations("nuclei")
    >>> data = DetectionData(read_coco(file), file.parent / "images", resize=parse_resize("none"), channels=1)
    >>> measured = measure_normalization(data)
    >>> len(data), round(measured.mean[0], 3), round(measured.std[0], 3)
    (80, 0.043, 0.06)
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f"need at least one image, got {max_images=}")
    step = 1 if max_images is None else -(-len(data) // max_images)
    rows = data.image_rows[::step].tolist()
    return normalization_of(
        resize_picture(data.open(row), data.resize).values.expand(data.channels, -1, -1) for row in rows
    )


def normalization_of(images: Iterable[Float[Tensor, "d _ _"]]) -> Normalization:
    """Mean and standard deviation of each channel over all pixels of images of any size, one image in memory at a time.

    Moments are merged about the running mean (Chan, Golub and LeVeque 1983); sums of squares would lose a small deviation.

    >>> normalization_of([torch.zeros(1, 1, 1), torch.ones(1, 1, 1)])
    Normalization(mean=(0.5,), std=(0.5,), num_images=2)
    """
    num_images, num_pixels = 0, 0
    mean, squares = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for image in images:
        pixels = image.flatten(1).double()
        image_mean = pixels.mean(dim=1)
        share = pixels.shape[1] / (num_pixels + pixels.shape[1])
        difference = image_mean - mean
        mean = mean + share * difference
        squares = squares + ((pixels - image_mean[:, None]) ** 2).sum(dim=1) + share * num_pixels * difference**2
        num_images, num_pixels = num_images + 1, num_pixels + pixels.shape[1]
    if not num_images:
        raise ValueError("there are no images to measure")
    std = (squares / num_pixels).sqrt().clamp(min=GREY_LEVEL)
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()), num_images)
