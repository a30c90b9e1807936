"""Opening the images of annotations: only inside the given folder, undamaged, and of the annotated size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from detect.errors import ImageError


def open_image(folder: str | Path, file_name: str, *, image_wh: tuple[int, int] | None = None) -> Image.Image:
    """Open and decode one image, without the rotation of its EXIF data: annotations refer to the stored pixels.

    No file outside the folder is opened. The size (width, height) in pixels is checked if ``image_wh`` is given.

    Raises:
        ImageError: the name leads out of the folder, the file is missing or broken, or the image has another size.
    """
    folder = Path(folder)
    path = folder / file_name
    if not file_name or not path.resolve().is_relative_to(folder.resolve()):
        raise ImageError(f"file name {file_name!r} leads to no file in {folder}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise ImageError(
            f"{path}: more than {limit}, too many to open: cut the image and its labels into tiles"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that can be read") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if image_wh is not None and image.size != tuple(image_wh):
        actual, expected = (f"{width}x{height}" for width, height in (image.size, image_wh))
        raise ImageError(f"{path}: the image is {actual}, its annotations say {expected}")
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB with 8 bits per channel; deeper images are rescaled from their own range."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, float)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
    return image.convert("RGB")
