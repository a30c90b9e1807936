"""The EXIF orientation of images: by which turn or flip viewers show the stored pixels upright.

Annotations refer to the upright image or to the stored pixels, as the labelling tool showed it: tools in browsers show it
upright. Orientations 5 to 8 swap width and height, so the annotated size tells which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from PIL import Image

Exif = Literal["auto", "apply", "ignore"]

ORIENTATION = 0x0112  # the tag
NO_TURN = 1
TO_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TO_STORED = {**TO_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
SWAPPING = frozenset({5, 6, 7, 8})  # orientations that swap width and height
WIDTH, HEIGHT = 256, 257  # tags of a TIFF file


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 2 to 8; 1 if it has none, or none that can be read.

    Nothing is decoded. In PNG files it counts before the pixels only, as in browsers.

    >>> orientation_of(Image.new("L", (2, 3)))
    1
    """
    try:  # PngImageFile.getexif would decode the image
        value: Any = Image.Image.getexif(image).get(ORIENTATION)
    except Exception:  # broken metadata raise errors of many kinds
        return NO_TURN
    return value if isinstance(value, int) and value in TO_UPRIGHT else NO_TURN


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the stored pixels of an image that is not loaded; Pillow may turn those of TIFF files."""
    tags: Any = getattr(image, "tag_v2", {})
    return (tags[WIDTH], tags[HEIGHT]) if WIDTH in tags and HEIGHT in tags else image.size


def upright_size(stored_wh: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of the upright image.

    >>> upright_size((640, 480), 6), upright_size((640, 480), 3)
    ((480, 640), (640, 480))
    """
    return stored_wh[::-1] if orientation in SWAPPING else stored_wh


def fits_upright(stored_wh: tuple[int, int], orientation: int, annotated_wh: tuple[int, int] | None) -> bool | None:
    """Whether annotations for this size of the image refer to it upright; None if it cannot be told.

    >>> fits_upright((640, 480), 6, (480, 640)), fits_upright((640, 480), 6, (640, 480)), fits_upright((9, 9), 6, (9, 9))
    (True, False, None)
    """
    sizes = (stored_wh, upright_size(stored_wh, orientation))
    return None if sizes[0] == sizes[1] or annotated_wh not in sizes else annotated_wh == sizes[1]


def load_turned(image: Image.Image, orientation: int, *, upright: bool) -> Image.Image:
    """Decode an open image, upright or as stored, without metadata by which a reader would turn it again."""
    image.load()
    if orientation == NO_TURN:
        return image
    is_upright = image.format == "TIFF"  # Pillow turns these itself
    image.getexif().pop(ORIENTATION, None)
    if upright != is_upright:
        image = image.transpose((TO_UPRIGHT if upright else TO_STORED)[orientation])
    for name in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        image.info.pop(name, None)
    return image
