"""Image files: a folder as a dataset without annotations, and the images of a dataset that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from detect.data import CocoDataset, read_coco
from detect.data.coco_reader import Progress
from detect.data.image_names import in_utf8, walk_links
from detect.data.image_sizes import read_headers
from detect.data.images import ImageFiles
from detect.errors import ImageError
from detect.files import exists, is_folder
from detect.loading.labels import LabelMap
from detect.loading.sharing import from_main, gather, own_share
from detect.wording import listed

UPRIGHT = "Sizes and results are those of the upright images: the EXIF orientation of each image is applied."
MAX_NAMED = 5  # broken images that a message names; the others are counted


def dataset_from_files(paths: Sequence[str | Path], labels: LabelMap) -> tuple[CocoDataset, Path]:
    """Make a dataset of upright images, with ids from 1 in the order given, and find the folder its file names start from.

    A folder stands for the images in it and in its subfolders, sorted by name, links followed. A file given twice is used
    once. What cannot be read gets the size 1 x 1, so that opening it reports the reason: also a link that leads nowhere, a
    pipe named as an image, a folder that cannot be listed, or a link to one that was read already.

    Raises:
        ImageError: a file does not exist, or a folder has no image.
    """
    files = list(dict.fromkeys(_resolved(file) for path in paths for file in _files_of(Path(path))))
    if not files:
        raise ImageError("no image given")
    folder = Path(os.path.commonpath([file.parent for file in files]))
    sizes = read_headers(list(map(str, files))).upright_wh().clip(1)
    images = [
        {"id": number, "width": width, "height": height, "file_name": in_utf8(file.relative_to(folder).as_posix())}
        for number, (file, (width, height)) in enumerate(zip(files, sizes.tolist(), strict=True), 1)
    ]
    named = zip(labels.category_ids, labels.category_names, strict=True)
    categories = [{"id": category, "name": name} for category, name in named]
    dataset = read_coco({"images": images, "categories": categories, "annotations": []})
    return replace(dataset, exif="apply"), folder


def images_json(files: ImageFiles) -> bytes:
    """Encode upright images and their categories as a COCO file without annotations, which results refer to.

    Images that were turned have their ``exif_orientation``.
    """
    table = files.dataset.images
    images: list[dict[str, Any]] = [
        {"id": number, "width": width, "height": height, "file_name": name}
        for number, (width, height), name in zip(table.ids.tolist(), table.wh.tolist(), table.file_names, strict=True)
    ]
    for row, orientation in files.orientations.items():
        images[row]["exif_orientation"] = orientation
    categories = [{"id": category, "name": name} for category, name in files.dataset.categories.items()]
    content = {"info": {"description": UPRIGHT}, "images": images, "categories": categories, "annotations": []}
    return msgspec.json.encode(content)


@dataclass(frozen=True)
class BrokenImage:
    """An image that cannot be read: its row in ``dataset.images``, and the reason, which begins with its path."""

    image_row: int
    reason: str


def find_broken_images(
    open_image: Callable[[int], object], num_images: int, *, shared: bool = False, on_progress: Progress | None = None
) -> tuple[BrokenImage, ...]:
    """Open every image by its row and collect those that raise an ImageError.

    Images are decoded in full, several at once, because a truncated file has a sound header. If the work is ``shared``, each
    process opens its part of the images, and all of them get the same answer (:mod:`detect.loading.sharing`).
    """
    rows = own_share(num_images) if shared else range(num_images)

    def why_broken(row: int) -> str:
        try:
            open_image(row)
        except ImageError as error:
            return str(error)
        return ""

    broken = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        for done, (row, reason) in enumerate(zip(rows, threads.map(why_broken, rows), strict=True), 1):
            if reason:
                broken.append(BrokenImage(row, reason))
            if on_progress:
                on_progress("checking images", done, len(rows))
    if shared:
        gathered = gather(broken)
        return from_main(lambda: tuple(sorted(gathered, key=lambda each: each.image_row)))
    return tuple(broken)


def broken_message(broken: Sequence[BrokenImage], num_images: int) -> str:
    """Count the broken images and name the first ones.

    >>> broken_message([BrokenImage(3, "images/a.png: No such file or directory")], 10)
    '1 of 10 images cannot be used: images/a.png: No such file or directory'
    """
    named = listed((image.reason for image in broken), most=MAX_NAMED, between="; ")
    return f"{len(broken)} of {num_images} images cannot be used: {named}"


def _files_of(path: Path) -> list[Path]:
    if not exists(path):
        raise ImageError(f"{path}: No such file or directory")
    if not is_folder(path):
        return [path]
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    try:
        walked = list(walk_links(str(path)))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    names = [Path(where, name) for where, files in walked for name in files or ()]
    left_out = [Path(where) for where, files in walked if files is None]
    images = sorted([*(file for file in names if file.suffix.lower() in known), *left_out])
    if not images:
        raise ImageError(f"{path}: no image in this folder")
    return images


def _resolved(file: Path) -> Path:
    """The file that a link leads to; of what leads to no file, its own place."""
    return file.resolve() if file.is_file() else file.parent.resolve() / file.name
