"""Image files and folders as a dataset without annotations, to run a detector on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from PIL import Image

from detect.data import CocoDataset, read_coco
from detect.errors import ImageError
from detect.loading.labels import LabelMap


def dataset_from_files(paths: Sequence[str | Path], labels: LabelMap) -> tuple[CocoDataset, Path]:
    """Make a dataset of image files, with ids from 1 in the order given, and find the folder its file names start from.

    A folder stands for the images in it and in its subfolders, sorted by name. A file given twice is used once. A file that
    cannot be read gets the size 1 x 1, so that opening it reports the reason.

    Raises:
        ImageError: a file does not exist, or a folder has no image.
    """
    files = list(dict.fromkeys(file.resolve() for path in paths for file in _files_of(Path(path))))
    if not files:
        raise ImageError("no image given")
    folder = Path(os.path.commonpath([file.parent for file in files]))
    images = []
    for number, file in enumerate(files, 1):
        width, height = _size_wh(file)
        name = file.relative_to(folder).as_posix()
        images.append({"id": number, "width": width, "height": height, "file_name": name})
    named = zip(labels.category_ids, labels.category_names, strict=True)
    categories = [{"id": category, "name": name} for category, name in named]
    return read_coco({"images": images, "categories": categories, "annotations": []}), folder


def images_json(dataset: CocoDataset) -> bytes:
    """Encode the images and categories of a dataset as a COCO file without annotations, which results refer to."""
    columns = (dataset.images.ids.tolist(), dataset.images.wh.tolist(), dataset.images.file_names)
    images = [
        {"id": number, "width": width, "height": height, "file_name": name}
        for number, (width, height), name in zip(*columns, strict=True)
    ]
    categories = [{"id": category, "name": name} for category, name in dataset.categories.items()]
    return msgspec.json.encode({"images": images, "categories": categories, "annotations": []})


def _files_of(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.exists():
            raise ImageError(f"{path}: No such file or directory")
        yield path
        return
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
    if not found:
        raise ImageError(f"{path}: no image in this folder")
    yield from found


def _size_wh(file: Path) -> tuple[int, int]:
    """The size in the file's header, or 1 x 1 if it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # opening the image reports it
            with Image.open(file) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return (1, 1)
