"""Reading COCO files and structures: only the fields in use are decoded, and polygons and licences are skipped.

A file is decoded in blocks (:mod:`detect.data.coco_blocks`), or as a whole if it is not laid out as most are. An entry that
cannot be used becomes a finding, and so does one that is used although a field had to be read as something else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from gzip import BadGzipFile, GzipFile
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import msgspec

from detect.data.coco_blocks import read_in_blocks, read_to_end
from detect.data.coco_entries import Rows
from detect.data.coco_fields import in_words
from detect.data.coco_tolerance import TolerantReader
from detect.errors import CocoError
from detect.files import open_regular
from detect.text_formats import decode_json

EXPECTED = "expected a COCO file: an object with images, annotations and categories"
MAX_JSON_BYTES = 16 * 2**30  # limit on the JSON text, also while unpacking .gz

Progress = Callable[[str, int, int], None]  # called with a description of the work, the amount done and the total


def read_rows(
    path: str | Path, *, keypoints: bool = False, angles: bool = False, on_progress: Progress | None = None
) -> Rows:
    """Read one ``.json`` or ``.json.gz`` file; progress is in bytes of the file.

    Raises:
        CocoError: the file cannot be opened, is not JSON or is not COCO, and the message says what it is instead; or an
            angle is not a finite number.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            return _read_open(file, path, {"keypoints": keypoints, "angles": angles}, on_progress)
    except IsADirectoryError:
        raise CocoError(f"{path}: a folder: give the JSON file in it, or a pattern such as {path}/*.json") from None
    except (BadGzipFile, EOFError, zlib.error) as error:
        raise CocoError(f"{path}: a damaged or truncated .gz file ({error})") from None
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from None


def _read_open(file: BufferedIOBase, path: Path, columns: Mapping[str, bool], on_progress: Progress | None) -> Rows:
    size_bytes = path.stat().st_size
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: BufferedIOBase = GzipFile(fileobj=file) if packed else file

    def on_block() -> None:
        if stream.tell() > MAX_JSON_BYTES:
            unpacks = "unpacks to" if packed else "has"
            ways = "`detect convert --to parquet` reads any size, or cut it into shards"
            raise CocoError(f"{path}: {unpacks} more than {MAX_JSON_BYTES >> 30} GiB: {ways}")
        if on_progress:
            on_progress(f"reading {path.name}", min(file.tell(), size_bytes), size_bytes)

    if rows := read_in_blocks(stream, str(path), on_block=on_block, **columns):
        return rows
    stream.seek(0)
    return _decode(read_to_end(stream, on_block), path, columns)


def _decode(data: bytearray, path: Path, columns: Mapping[str, bool]) -> Rows:
    """Decode a whole file."""
    if not data:
        raise CocoError(f"{path}: the file is empty: {EXPECTED}")
    with suppress(RecursionError, UnicodeDecodeError):
        try:
            msgspec.json.decode(data, type=msgspec.Raw)
        except msgspec.DecodeError as error:
            if "truncated" in str(error):
                raise CocoError(f"{path}: the JSON breaks off: the file is truncated ({len(data):,} bytes)") from None
    content = decode_json(
        data, lambda reason: CocoError(f"{path}: {reason}: {EXPECTED}"), object_hook=_without_polygons
    )
    return rows_from_object(content, file=str(path), **columns)


def rows_from_object(content: Any, *, file: str, keypoints: bool = False, angles: bool = False) -> Rows:
    """Convert a COCO structure in memory, entry by entry."""
    _require_coco(content, file)
    tolerant = TolerantReader(file, keypoints=keypoints, angles=angles)
    images, annotations = tolerant.images(content["images"]), tolerant.annotations(content["annotations"])
    return tolerant.rows(images, annotations, tolerant.categories(content.get("categories")))


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop most of a file's size while it is read, unless it is needed since the box cannot be read."""
    box = entry.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(isinstance(number, int | float) for number in box):
        entry.pop("segmentation", None)
    return entry


def _require_coco(content: Any, file: str) -> None:
    if isinstance(content, list):
        first = content[0] if content else None
        scored = isinstance(first, Mapping) and "score" in first
        what = "a results file (a list of detections with scores)" if scored else "a list at the top"
        raise CocoError(f"{file}: {what}: {EXPECTED}")
    if not isinstance(content, Mapping):
        raise CocoError(f"{file}: {in_words(content)} at the top: {EXPECTED}")
    for name in ("images", "annotations"):
        if name not in content:
            has = ", ".join(repr(key[:40]) for key in sorted(map(str, content))[:8]) or "nothing"
            raise CocoError(f"{file}: no {name!r} in it (it has {has}): {EXPECTED}")
    for name in ("images", "annotations", "categories"):
        absent = name == "categories" and content.get(name) is None
        if not (absent or isinstance(content[name], list | tuple)):
            raise CocoError(f"{file}: {name!r} is {in_words(content[name])}, not a list: {EXPECTED}")
