"""Mean and standard deviation of each channel, measured from the data in one pass, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from detect.loading.dataset import DetectionData
from detect.loading.image_ops import resize_picture

GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class Normalisation:
    """What a network subtracts from images of 0..1, and divides them by, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_images: int


def measure_normalisation(data: DetectionData, *, max_images: int | None = None) -> Normalisation:
    """Mean and standard deviation of the data's images as they are resized, before augmentation, without padding.

    Of more than ``max_images`` so many are taken, evenly spaced. A channel that hardly varies has the standard deviation of
    one grey level of 255, so that dividing by it does no harm.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> file = sample_annotations("nuclei")
    >>> data = DetectionData(read_coco(file), file.parent / "images", resize=parse_resize("none"), channels=1)
    >>> measured = measure_normalisation(data)
    >>> len(data), round(measured.mean[0], 3), round(measured.std[0], 3)
    (80, 0.043, 0.06)

    Raises:
        ImageError: an image cannot be read.
        ValueError: there are no images, or ``max_images`` is below 1.
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f"need at least one image, got {max_images=}")
    step = 1 if max_images is None else -(-len(data) // max_images)
    rows = data.image_rows[::step].tolist()
    return normalisation_of(
        resize_picture(data.open(row), data.resize).values.expand(data.channels, -1, -1) for row in rows
    )


def normalisation_of(images: Iterable[Float[Tensor, "d _ _"]]) -> Normalisation:
    """Mean and standard deviation of each channel over all pixels of images of any sizes, one in memory at a time.

    Sums are taken about the mean so far (Chan, Golub and LeVeque 1983), as sums of squares would lose a small deviation.

    >>> normalisation_of([torch.zeros(1, 1, 1), torch.ones(1, 1, 1)])
    Normalisation(mean=(0.5,), std=(0.5,), num_images=2)

    Raises:
        ValueError: there is no image.
    """
    num_images, num_pixels = 0, 0
    mean, squares = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for image in images:
        pixels = image.flatten(1).double()
        own_mean, own_squares = _moments(pixels)
        share = pixels.shape[1] / (num_pixels + pixels.shape[1])
        apart = own_mean - mean
        mean = mean + share * apart
        squares = squares + own_squares + share * num_pixels * apart**2
        num_images, num_pixels = num_images + 1, num_pixels + pixels.shape[1]
    if not num_images:
        raise ValueError("there are no images to measure")
    std = (squares / num_pixels).sqrt().clamp(min=GREY_LEVEL)
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()), num_images)


def _moments(pixels: Float64[Tensor, "d n"]) -> tuple[Float64[Tensor, " d"], Float64[Tensor, " d"]]:
    """The mean, and the sum of squares about it."""
    mean = pixels.mean(dim=1)
    return mean, ((pixels - mean[:, None]) ** 2).sum(dim=1)
