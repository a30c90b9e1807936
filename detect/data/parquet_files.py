"""Parquet datasets as folders, local or by URL: their parts, and ``dataset.json``, which describes them.

``images/part-00000.parquet`` and ``annotations/part-00000.parquet`` hold the same images, each with all its annotations.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BufferedIOBase
from typing import Any

import msgspec

from detect.errors import CocoError, MissingExtraError

FORMAT, VERSION = "detect-parquet", 1
DESCRIPTION = "dataset.json"
HERE = ("file", "local", "memory")  # kinds of URLs that are of this machine
NOT_A_NAME = re.compile(r'[\x00-\x1f"\\]')  # in the name of a field that has a column
_PART_FILE = re.compile(r"(.+)/(?:annotations|images)/part-(\d{5,})\.parquet")


class Description(msgspec.Struct, kw_only=True):
    """What ``dataset.json`` says.

    ``keys`` are the top-level keys of the COCO file in its order, ``others`` the values of those that are no columns, such
    as ``categories`` and ``info``; ``unparsed`` has the values that strict JSON cannot hold, as text. ``lost`` names the
    values of further files that differ from these.
    """

    format: str = FORMAT
    version: int = VERSION
    parts: list[tuple[int, int]]  # images and annotations of each
    fields: dict[str, list[str]]  # of images and annotations, in the order of the file
    keys: list[str]
    others: dict[str, msgspec.Raw] = {}
    unparsed: dict[str, str] = {}
    lost: list[str] = []

    @property
    def is_whole(self) -> bool:
        """Whether each key is there once, with its value or the fields of its list, each once and with a name."""
        known = [*self.fields, *self.others, *self.unparsed]
        once = all(len(set(each)) == len(each) for each in self.fields.values())
        named = not any(NOT_A_NAME.search(field) for each in self.fields.values() for field in each)
        return sorted(self.keys) == sorted(known) and once and named

    def texts(self) -> dict[str, bytes]:
        """The JSON text of each top-level key that is no column."""
        return {key: bytes(value) for key, value in self.others.items()} | {
            key: text.encode() for key, text in self.unparsed.items()
        }


@dataclass(frozen=True)
class Part:
    """One part of a Parquet dataset, and what the dataset says about its size."""

    folder: str
    number: int
    num_images: int
    num_annotations: int

    @property
    def images_file(self) -> str:
        return f"{self.folder}/{part_name('images', self.number)}"

    @property
    def annotations_file(self) -> str:
        return f"{self.folder}/{part_name('annotations', self.number)}"


def part_name(kind: str, number: int) -> str:
    """The name of a part's file in the folder: ``images/part-00000.parquet``."""
    return f"{kind}/part-{number:05}.parquet"


def is_url(text: str) -> bool:
    return "://" in text


def is_fetched(text: str) -> bool:
    """Whether a URL is of another machine.

    >>> [is_fetched(text) for text in ("s3://bucket/labels", "file:///labels", "labels")]
    [True, False, False]
    """
    return is_url(text) and text.partition("://")[0] not in HERE


def is_parquet_dataset(source: str) -> bool:
    """Whether a local folder, or a file in it, is a Parquet dataset; a URL is taken for one."""
    if is_url(source) or _PART_FILE.fullmatch(source):
        return True
    try:
        with open(f"{source}/{DESCRIPTION}", "rb") as file:  # noqa: PTH123 - names of files are text here
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def parquet_parts(source: str) -> list[Part]:
    """The parts of a Parquet dataset; of a part's file, that part alone. Only ``dataset.json`` is read.

    Raises:
        CocoError: there is none, or a newer version of this package wrote it.
    """
    found = _PART_FILE.fullmatch(source)
    folder = found.group(1) if found else source.rstrip("/")
    parts = [Part(folder, number, *counts) for number, counts in enumerate(read_description(folder).parts)]
    if found and int(found.group(2)) >= len(parts):
        raise CocoError(f"{source}: not a part of the dataset {folder}, which has {len(parts):,}")
    return [parts[int(found.group(2))]] if found else parts


def read_description(source: str) -> Description:
    """Read ``dataset.json``.

    Raises:
        CocoError: it cannot be read, or a newer version of this package wrote it.
    """
    path = f"{source}/{DESCRIPTION}"
    with open_file(path) as file:
        text = file.read()
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("version", 0)
        if isinstance(version, int) and version > VERSION:
            raise CocoError(f"{path}: a newer version of detect wrote it (format {version}, this one reads {VERSION})")
        found = msgspec.json.decode(text, type=Description)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CocoError(f"{path}: not the description of a Parquet dataset ({error})") from None
    if found.format != FORMAT or {*found.fields} != {"images", "annotations"} or not found.is_whole:
        raise CocoError(f"{path}: not the description of a Parquet dataset")
    return found


@contextmanager
def open_file(name: str) -> Iterator[BufferedIOBase]:
    """Open a local file, or a URL by fsspec.

    Raises:
        CocoError: it cannot be opened or read.
        MissingExtraError: fsspec, or what it needs for this kind of URL, is not installed.
    """
    try:
        if is_url(name):
            with _open_url(name) as file:
                yield file
        else:
            with open(name, "rb") as file:  # noqa: PTH123 - as in is_parquet_dataset
                yield file
    except FileNotFoundError:
        unreached = ", or it cannot be reached" if is_url(name) else ""
        raise CocoError(f"{name}: there is no such file{unreached}") from None
    except OSError as error:
        raise CocoError(f"{name}: {error.strerror or error}") from None


def _open_url(url: str) -> Any:
    fsspec = needed("fsspec", url)
    try:
        return fsspec.open(url, "rb").open()
    except OSError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"{url}: {error}") from None
    except Exception as error:  # each kind of URL has errors of its own: of names, keys and connections
        raise CocoError(f"{url}: {' '.join(str(error).split()) or type(error).__name__}") from None


def needed(name: str, file: str) -> Any:
    """Import a package of the extra ``scale``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(f"{file}: Parquet needs {name}: pip install 'detect-heads[scale]'") from None


def size_bytes(file: str) -> int:
    """The size of a file; 0 if it cannot be told, since reading it raises the error."""
    try:
        return os.stat(file).st_size  # noqa: PTH116
    except OSError:
        return 0


def described(text: bytes) -> msgspec.Raw | None:
    """A JSON text to embed in ``dataset.json``; None if only Python's reader accepts it."""
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return None
