"""Sizes and EXIF orientations from the headers of image files, for labels that do not say sizes or are fractions of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from detect.data.coco_entries import Finding, Rows
from detect.data.coco_entries import Image as ImageEntry
from detect.data.coco_reader import Progress
from detect.data.exif import NO_TURN, Exif, fits_upright, orientation_of, stored_size, upright_size
from detect.data.formats.label_rows import LabelRows
from detect.data.image_names import ImageFolder
from detect.errors import CocoError
from detect.files import is_file, open_regular

NUM_THREADS = 8  # they wait for a slow disk
PER_CALL = 256  # files: with fewer, threads wait for each other on a fast disk

Header = tuple[tuple[int, int], int]  # stored width and height, orientation
USUAL_PLACES = (".", "images", "../images", "../JPEGImages", "../Images", "..")  # seen from the folder of the labels


@dataclass(frozen=True, eq=False)
class Headers:
    """What the headers of image files say, by row.

    ``stored_wh`` is (0, 0) for a file without a size; ``reasons`` says why. ``orientations`` has those other than 1.
    """

    stored_wh: Int64[ndarray, "n 2"]
    orientations: Mapping[int, int]
    reasons: Mapping[int, str]

    def upright_wh(self) -> Int64[ndarray, "n 2"]:
        """Width and height of the upright images."""
        wh = self.stored_wh.copy()
        for row, orientation in self.orientations.items():
            wh[row] = upright_size(tuple(wh[row].tolist()), orientation)
        return wh

    def fits_upright(self, annotated_wh: Int64[ndarray, "n 2"]) -> dict[int, bool | None]:
        """For the images with an orientation and a size that fits: as :func:`detect.data.exif.fits_upright`, by row."""
        fits = {}
        for row, orientation in self.orientations.items():
            stored, annotated = tuple(self.stored_wh[row].tolist()), tuple(annotated_wh[row].tolist())
            if annotated in (stored, upright_size(stored, orientation)):
                fits[row] = fits_upright(stored, orientation, annotated)
        return fits


@dataclass(frozen=True, eq=False)
class FilledSizes:
    """Images with an EXIF orientation whose size was read from their file, and whether it is that of the upright image."""

    turned: Sequence[ImageEntry]
    upright: bool


def agreed_upright(fits: Iterable[bool | None]) -> bool:
    """The reading of images that cannot be told: that of those that can, if they agree; otherwise upright.

    >>> agreed_upright([]), agreed_upright([None, False, False]), agreed_upright([True, False])
    (True, False, True)
    """
    return {*fits} - {None} != {False}


def undecided_warning(names: Sequence[str], *, upright: bool) -> str:
    """Say how many images are read one way although their labels do not tell, and the option that decides."""
    images = "1 image has" if len(names) == 1 else f"{len(names):,} images have"
    taken, other = ("upright", "ignore") if upright else ("as stored", "apply")
    return (
        f"{images} an EXIF orientation, such as {names[0]}, and labels that fit both readings: taken {taken}; "
        f"data.exif={other} (--exif {other}) if the labels were made otherwise"
    )


def read_headers(files: Sequence[str], *, on_progress: Progress | None = None) -> Headers:
    """Read sizes and orientations from the headers of image files, several at once, without decoding the images."""
    sizes = np.zeros((len(files), 2), np.int64)
    orientations: dict[int, int] = {}
    reasons: dict[int, str] = {}
    starts = range(0, len(files), PER_CALL)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        parts = threads.map(lambda start: list(map(_header_or_reason, files[start : start + PER_CALL])), starts)
        for start, part in zip(starts, parts, strict=True):
            for row, found in enumerate(part, start):
                if isinstance(found, str):
                    reasons[row] = found
                    continue
                sizes[row], orientation = found
                if orientation != NO_TURN:
                    orientations[row] = orientation
            if on_progress:
                on_progress("reading image headers", start + len(part), len(files))
    return Headers(sizes, orientations, reasons)


def _header_or_reason(file: str) -> Header | str:
    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            return stored_size(image), orientation_of(image)
    except FileNotFoundError:
        return f"there is no image {file}"
    except UnidentifiedImageError:
        return f"{file} is not an image that can be read"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"{file} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    except (OSError, SyntaxError, ValueError) as error:
        return f"{file}: {getattr(error, 'strerror', None) or error}"


def fill_sizes(
    shards: Sequence[Rows], images: str | None, *, exif: Exif = "auto", on_progress: Progress | None = None
) -> FilledSizes:
    """Read the unknown sizes of images, and make fractions of an image pixels.

    Images are looked for in the folder ``images``, then in the usual places beside their labels. With ``images``, names of
    images become paths below that folder. An image that is not there becomes a finding. Sizes are those of upright images,
    but of the stored pixels with ``exif="ignore"``, and with ``"auto"`` if the sizes in COCO files agree on those.

    Raises:
        CocoError: no image of labels in fractions is found.
    """
    wanting = [rows for rows in shards if isinstance(rows, LabelRows) or (images and _unknown(rows))]
    folder = ImageFolder(images) if images and wanting else None
    read = []
    for rows in wanting:
        if isinstance(rows, LabelRows) and rows.folders is None:
            _find_images(rows, folder)
        if unknown := _unknown(rows):
            read.append((rows, unknown, read_headers(_files(rows, unknown, folder), on_progress=on_progress)))
    turned = [rows.images[unknown[number]] for rows, unknown, found in read for number in found.orientations]
    upright = _known_upright(shards, folder) if turned and exif == "auto" else exif != "ignore"
    for rows, unknown, found in read:
        _set_sizes(rows, unknown, found.upright_wh() if upright else found.stored_wh, found.reasons)
    for rows in wanting:
        if isinstance(rows, LabelRows) and rows.fractions:
            _as_pixels(rows)
    return FilledSizes(turned, upright)


def _unknown(rows: Rows) -> list[int]:
    return [row for row, image in enumerate(rows.images) if not (image.width and image.height)]


def _known_upright(shards: Sequence[Rows], folder: ImageFolder | None) -> bool:
    """What the images of COCO files agree on whose sizes are known; only those below a given folder are opened."""
    entries = [image for rows in shards if not isinstance(rows, LabelRows) for image in rows.images if image.width]
    names = [entry.file_name or "" for entry in entries]
    files = [f"{folder.root}/{folder.find(name) or name}" for name in names] if folder else []
    wh = np.array([(entry.width, entry.height) for entry in entries if files], np.int64).reshape(-1, 2)
    return agreed_upright(read_headers(files).fits_upright(wh).values())


def _set_sizes(rows: Rows, unknown: Sequence[int], sizes: Int64[ndarray, "n 2"], reasons: Mapping[int, str]) -> None:
    """Set the unknown sizes of images; an image without a size becomes a finding."""
    for row, (width, height) in zip(unknown, sizes.tolist(), strict=True):
        rows.images[row].width, rows.images[row].height = width, height
    fractions = isinstance(rows, LabelRows) and rows.fractions
    if fractions and len(reasons) == len(rows.images):
        raise CocoError(f"{rows.file}: its coordinates are fractions of images, and {reasons[0]}: give --images FOLDER")
    for number, reason in reasons.items():
        row = unknown[number]
        source = rows.sources[row] if isinstance(rows, LabelRows) else rows.file
        finding = Finding(source, None, rows.images[row].id, f"{reason}: its size is unknown")
        (rows.faults if fractions else rows.suspicious).append(finding)


def _files(rows: Rows, unknown: Sequence[int], folder: ImageFolder | None) -> list[str]:
    """The files of images of unknown size."""
    files = []
    for row in unknown:
        name = rows.images[row].file_name or ""
        if isinstance(rows, LabelRows) and rows.folders is not None:
            files.append(f"{rows.folders[row]}/{name}")
        elif folder:
            files.append(f"{folder.root}/{folder.find(name) or name}")
    return files


def _find_images(rows: LabelRows, folder: ImageFolder | None) -> None:
    """Set the folder of each image, and its name in it."""
    folders = []
    for image, source in zip(rows.images, rows.sources, strict=True):
        name = image.file_name or ""
        found = folder.find(name) if folder else None
        if folder and found:
            image.file_name = found
            folders.append(folder.root)
            continue
        beside = os.path.dirname(source.partition(": ")[0])  # noqa: PTH120 - once for each image
        known = image.width and image.height
        places = () if known else [os.path.normpath(f"{beside or '.'}/{place}") for place in USUAL_PLACES]
        base = name.rpartition("/")[2]
        hits = ((place, each) for each in (name, base) for place in places if is_file(f"{place}/{each}"))
        place, image.file_name = next(hits, (folder.root if folder else beside or ".", name))
        folders.append(place)
    rows.folders = folders


@np.errstate(over="ignore", invalid="ignore")
def _as_pixels(rows: LabelRows) -> None:
    """Multiply coordinates by the sizes of their images, and leave out images without a size."""
    columns = rows.annotations
    wh = np.array([(image.width, image.height) for image in rows.images], float).reshape(-1, 2)
    own = wh[columns.image_ids - rows.first_image_id]
    points = columns.keypoints
    if points is not None:
        scales = np.concatenate([own, np.ones((len(own), 1))], axis=1)
        points = tuple(each * scale if len(each) else each for each, scale in zip(points, scales, strict=True))
    rows.annotations = replace(
        columns, boxes_xywh=columns.boxes_xywh * np.tile(own, 2), area=columns.area * own.prod(axis=1), keypoints=points
    )
    rows.images = [image for image in rows.images if image.width and image.height]
    rows.fractions = False
