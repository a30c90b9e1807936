"""Opening the images of annotations: only inside the given folder, undamaged, of the annotated size, upright or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from detect.data.coco_columns import Images
from detect.data.coco_dataset import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.exif import NO_TURN, Exif, fits_upright, load_turned, orientation_of, stored_size
from detect.data.image_names import name_hint, why_left_out
from detect.data.image_sizes import Headers, agreed_upright, read_headers, undecided_warning
from detect.errors import ImageError
from detect.files import open_regular


def open_image(
    folder: str | Path,
    file_name: str,
    *,
    image_wh: tuple[int, int] | None = None,
    exif: Exif = "auto",
    if_undecided: Callable[[], bool] = lambda: True,
) -> Image.Image:
    """Open and decode one image, upright or as stored. Palettes with transparency become RGBA.

    Pillow's warnings of broken metadata follow the filters of the program, which are never changed: threads would restore
    each other's. No file outside the folder is opened.

    Args:
        image_wh: the annotated width and height in pixels, which are checked.
        exif: ``"apply"`` turns the image upright as its EXIF orientation says, ``"ignore"`` leaves the stored pixels, and
            ``"auto"`` does what ``image_wh`` fits.
        if_undecided: called if the size does not tell; returns whether to turn the image upright.

    Raises:
        ImageError: the name leads out of the folder, the file is missing or broken, or the image has another size.
    """
    folder = Path(folder)
    path = folder / file_name
    if not _is_inside(str(path), os.path.realpath(folder)):
        raise ImageError(f"file name {file_name!r} leads to no file in {folder}{name_hint(folder, file_name)}")
    try:
        image, as_stored = _load(path, image_wh, exif, if_undecided)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise ImageError(
            f"{path}: more than {limit}, too many to open: cut the image and its labels into tiles"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that can be read") from None
    except MemoryError:
        raise ImageError(f"{path}: its header asks for more memory than there is") from None
    except (OSError, SyntaxError, ValueError) as error:
        hint = name_hint(folder, file_name) if isinstance(error, FileNotFoundError) else ""
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, IsADirectoryError):
            reason = why_left_out(path) or reason
        raise ImageError(f"{path}: {reason}{hint}") from None
    if image_wh is not None and image.size != tuple(image_wh):
        raise ImageError(f"{path}: the image is {_text(image.size)}{as_stored}, its annotations say {_text(image_wh)}")
    return image


def _load(
    path: Path, image_wh: tuple[int, int] | None, exif: Exif, if_undecided: Callable[[], bool]
) -> tuple[Image.Image, str]:
    """The decoded image, and words about its orientation if it has one."""
    # not by its name: Pillow 13 then maps uncompressed TIFF files into memory in the wrong shape if they are to be turned
    with open_regular(path) as stream, Image.open(stream) as opened:
        if is_too_large(opened):
            raise Image.DecompressionBombError
        orientation, stored_wh = orientation_of(opened), stored_size(opened)
        upright = exif == "apply"
        if exif == "auto" and orientation != NO_TURN:
            fits = fits_upright(stored_wh, orientation, image_wh)
            upright = if_undecided() if fits is None else fits
        image = load_turned(opened, orientation, upright=upright)
    if image.mode == "P" and "transparency" in image.info:  # of which Pillow's conversion to RGB would warn
        image = image.convert("RGBA")
    about = f" (EXIF orientation {orientation}, stored as {_text(stored_wh)}, read with data.exif={exif})"
    return image, about if orientation != NO_TURN else ""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The image files of a dataset, each read upright or as stored, as its annotations refer to it.

    ``dataset.exif`` decides. With ``"auto"`` the annotated size of an image tells. Where it cannot (square images,
    orientations 2 to 4), the images of the dataset that can be told decide if they agree; otherwise images are upright.
    """

    dataset: CocoDataset
    folder: Path

    def open(self, image_row: int) -> Image.Image:
        """Decode an image, by its row in ``dataset.images``; raises ImageError."""
        images = self.dataset.images
        width, height = images.wh[image_row].tolist()
        return open_image(
            self.folder,
            images.file_names[image_row],
            image_wh=None if int(images.ids[image_row]) in self.dataset.unsized else (width, height),
            exif=self.dataset.exif,
            if_undecided=lambda: self._undecided_upright,
        )

    @cached_property
    def orientations(self) -> Mapping[int, int]:
        """The EXIF orientation of each image that has one, by row; from the headers."""
        return self._headers(self.dataset.images).orientations

    def warning(self, *, on_progress: Progress | None = None) -> str | None:
        """Count the images that are read upright, or as stored, although their size does not tell; None without any.

        Those whose size was read from their files are not counted again: ``dataset.warnings`` has them.
        """
        if self.dataset.exif != "auto":
            return None
        images, counted = self.dataset.images, {*self.dataset.turned}
        fits = self._headers(images, on_progress).fits_upright(images.wh)
        rows = [row for row, fit in fits.items() if fit is None]
        upright = bool(rows) and self._undecided_upright  # once, before several threads open images
        names = [images.file_names[row] for row in rows if int(images.ids[row]) not in counted]
        return undecided_warning(names, upright=upright) if names else None

    @cached_property
    def _undecided_upright(self) -> bool:
        """Whether images whose size does not tell are turned upright."""
        images = self.dataset.siblings or self.dataset.images
        return agreed_upright(self._headers(images).fits_upright(images.wh).values())

    def _headers(self, images: Images, on_progress: Progress | None = None) -> Headers:
        root = os.path.realpath(self.folder)
        paths = (str(self.folder / name) for name in images.file_names)
        files = [path if _is_inside(path, root) else root for path in paths]  # a folder has no orientation
        return read_headers(files, on_progress=on_progress)


def is_too_large(image: Image.Image) -> bool:
    """Whether an image that is not decoded has more pixels than Pillow takes for harmless."""
    return Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB with 8 bits per channel; deeper images are rescaled from their own range."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, float)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
    return image.convert("RGB")


def _is_inside(path: str, root: str) -> bool:
    """Whether a path, with links followed, leads to something below a folder that is no link."""
    try:
        return os.path.realpath(path).startswith(os.path.join(root, ""))  # noqa: PTH118 - of many images
    except ValueError:  # a NUL, or what no file name can hold
        return False


def _text(image_wh: Sequence[int]) -> str:
    return f"{image_wh[0]}x{image_wh[1]}"
