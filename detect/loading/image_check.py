"""Find all missing and broken images before training begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import cpu_count

from PIL import Image

from detect.data.coco_reader import Progress
from detect.errors import ImageError

MAX_NAMED = 5  # images that a message names; the others are counted


@dataclass(frozen=True)
class BrokenImage:
    """An image that cannot be read: its row in ``dataset.images``, and the reason, which begins with its path."""

    image_row: int
    reason: str


def find_broken_images(
    open_image: Callable[[int], object], num_images: int, *, on_progress: Progress | None = None
) -> tuple[BrokenImage, ...]:
    """Open every image by its row and collect those that raise an ImageError.

    Images are decoded in full, several at once, because a truncated file has a sound header.
    """
    broken = []
    # opening an image sets Python's warning filters and restores them, and threads would restore each other's
    with warnings.catch_warnings(), ThreadPoolExecutor(min(cpu_count() or 1, 16)) as threads:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for row, reason in enumerate(threads.map(partial(_why_broken, open_image), range(num_images))):
            if reason:
                broken.append(BrokenImage(row, reason))
            if on_progress:
                on_progress("checking images", row + 1, num_images)
    return tuple(broken)


def broken_message(broken: Sequence[BrokenImage], num_images: int) -> str:
    """Count the broken images and name the first ones.

    >>> broken_message([BrokenImage(3, "images/a.png: No such file or directory")], 10)
    '1 of 10 images cannot be used: images/a.png: No such file or directory'
    """
    named = "; ".join(image.reason for image in broken[:MAX_NAMED])
    others = f"; and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
    return f"{len(broken)} of {num_images} images cannot be used: {named}{others}"


def _why_broken(open_image: Callable[[int], object], row: int) -> str:
    try:
        open_image(row)
    except ImageError as error:
        return str(error)
    return ""
