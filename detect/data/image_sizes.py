"""Sizes of images from the headers of their files, for labels that do not say them or are fractions of them.

The rotation in a file's EXIF data is not applied: labels refer to the stored pixels, as in :mod:`detect.data.images`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from detect.data.coco_entries import Finding, Rows
from detect.data.coco_reader import Progress
from detect.data.formats.label_rows import LabelRows
from detect.data.image_names import ImageFolder
from detect.errors import CocoError

NUM_THREADS = 8
SLOW_S = (
    1e-3  # seconds for a file from which threads pay: they wait for a slow disk; on a fast one they wait for each other
)
PER_CALL = 256
UNKNOWN = (0, 0)
USUAL_PLACES = (".", "images", "../images", "../JPEGImages", "../Images", "..")  # seen from the folder of the labels


def header_sizes(
    files: Sequence[str], *, on_progress: Progress | None = None
) -> tuple[Int64[ndarray, "n 2"], dict[int, str]]:
    """Read (width, height) in pixels from the headers of image files, several at once, without decoding the images.

    Also returns, for each file without a size, its row and the reason; its size is (0, 0).
    """
    sizes = np.zeros((len(files), 2), np.int64)
    reasons: dict[int, str] = {}
    starts = range(0, len(files), PER_CALL)
    with warnings.catch_warnings(), ThreadPoolExecutor(NUM_THREADS) as threads:
        warnings.simplefilter("ignore")  # of large images: nothing is decoded
        for start, part in zip(starts, _in_parts(files, starts, threads), strict=True):
            for row, found in enumerate(part, start):
                if isinstance(found, str):
                    reasons[row] = found
                else:
                    sizes[row] = found
            if on_progress:
                on_progress("reading image sizes", start + len(part), len(files))
    return sizes, reasons


def _in_parts(
    files: Sequence[str], starts: Sequence[int], threads: ThreadPoolExecutor
) -> Iterator[list[tuple[int, int] | str]]:
    """The sizes of ``PER_CALL`` files at a time; in threads, once a file takes long."""

    def part(start: int) -> list[tuple[int, int] | str]:
        return list(map(_size_or_reason, files[start : start + PER_CALL]))

    for number, start in enumerate(starts):
        began = time.monotonic()
        yield part(start)
        if time.monotonic() - began > SLOW_S * PER_CALL:
            yield from threads.map(part, starts[number + 1 :])
            return


def _size_or_reason(file: str) -> tuple[int, int] | str:
    try:
        with Image.open(file) as image:
            return image.size
    except FileNotFoundError:
        return f"there is no image {file}"
    except UnidentifiedImageError:
        return f"{file} is not an image that can be read"
    except Image.DecompressionBombError:
        return f"{file} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    except (OSError, SyntaxError, ValueError) as error:
        return f"{file}: {getattr(error, 'strerror', None) or error}"


def fill_sizes(shards: Sequence[Rows], images: str | None, *, on_progress: Progress | None = None) -> None:
    """Read the unknown sizes of images, and make fractions of an image pixels.

    Images are looked for in the folder ``images``, then in the usual places beside their labels. With ``images``, names of
    images become paths below that folder. An image that is not there becomes a finding.

    Raises:
        CocoError: no image of labels in fractions is found.
    """
    wanting = [rows for rows in shards if isinstance(rows, LabelRows) or (images and _unknown(rows))]
    folder = ImageFolder(images) if images and wanting else None
    for rows in wanting:
        if isinstance(rows, LabelRows) and rows.folders is None:
            _find_images(rows, folder)
        if unknown := _unknown(rows):
            _read_sizes(rows, unknown, folder, on_progress)
        if isinstance(rows, LabelRows) and rows.fractions:
            _as_pixels(rows)


def _unknown(rows: Rows) -> list[int]:
    return [row for row, image in enumerate(rows.images) if not (image.width and image.height)]


def _read_sizes(rows: Rows, unknown: Sequence[int], folder: ImageFolder | None, on_progress: Progress | None) -> None:
    """Set the unknown sizes of images; an image without a size becomes a finding."""
    sizes, reasons = header_sizes(_files(rows, unknown, folder), on_progress=on_progress)
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
        hits = ((place, each) for each in (name, base) for place in places if os.path.isfile(f"{place}/{each}"))  # noqa: PTH113
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
