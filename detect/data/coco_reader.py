"""Reading COCO files and structures: only the fields in use are decoded, and polygons and licences are skipped.

A file is decoded in blocks (:mod:`detect.data.coco_blocks`), or as a whole if it is not laid out as most are. An entry that
cannot be used becomes a finding, and so does one that is used although a field had to be read as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from gzip import GzipFile
from io import BufferedIOBase
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import asdict

from detect.data import coco_blocks
from detect.data.coco_blocks import INVALID_JSON
from detect.data.coco_entries import AnnotationEntries, Category, Image, Rows, entry_type
from detect.data.coco_fields import in_words
from detect.data.coco_stream import open_json, read_top_level
from detect.data.coco_tolerance import TolerantReader
from detect.errors import CocoError
from detect.files import is_folder
from detect.text_formats import decode_json, parse_json

EXPECTED = "expected a COCO file: an object with images, annotations and categories"
ONLY_PYTHON = (b"NaN", b"Infinity", rb"\ud", rb"\uD")  # floats as Python writes them, halves of characters
MAX_JSON_BYTES = 16 * 2**30  # limit on the JSON text, also while unpacking .gz

Progress = Callable[[str, int, int], None]  # called with a description of the work, the amount done and the total


class _AnyAnnotation(Struct, gc=False):
    """The fields of an annotation, whatever their types."""

    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    id: Any = UNSET
    iscrowd: Any = UNSET
    area: Any = UNSET
    keypoints: Any = UNSET
    attributes: Any = UNSET
    angle: Any = UNSET
    rotation: Any = UNSET
    segmentation: Raw = UNSET  # type: ignore[assignment]  # decoded only where the box is missing


def read_rows(
    path: str | Path, *, keypoints: bool = False, angles: bool = False, on_progress: Progress | None = None
) -> Rows:
    """Read one ``.json`` or ``.json.gz`` file; progress is in bytes of the file.

    Raises:
        CocoError: the file cannot be opened, is not JSON or is not COCO, and the message says what it is instead; or an
            angle is not a finite number.
    """
    path, columns = Path(path), {"keypoints": keypoints, "angles": angles}
    if is_folder(path):
        raise CocoError(f"{path}: a folder: give the JSON file in it, or a pattern such as {path}/*.json")
    try:
        with open_json(str(path)) as (stream, tell):
            on_block = partial(_check_size, stream, path, tell, on_progress)
            if rows := read_in_blocks(stream, str(path), on_block=on_block, **columns):
                return rows
            stream.seek(0)
            return _decode(read_to_end(stream, on_block), path, columns)
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from None


def _check_size(stream: BufferedIOBase, path: Path, tell: Callable[[], int], on_progress: Progress | None) -> None:
    """Raise CocoError if too much of a file was read, or report how much it is."""
    if stream.tell() > MAX_JSON_BYTES:
        unpacks = "unpacks to" if isinstance(stream, GzipFile) else "has"
        ways = "`detect convert --to parquet` reads any size, or cut it into shards"
        raise CocoError(f"{path}: {unpacks} more than {MAX_JSON_BYTES >> 30} GiB: {ways}")
    if on_progress:
        size_bytes = path.stat().st_size
        on_progress(f"reading {path.name}", min(tell(), size_bytes), size_bytes)


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


def read_in_blocks(
    stream: BufferedIOBase, file: str, *, keypoints: bool, angles: bool = False, on_block: Callable[[], None]
) -> Rows | None:
    """Decode a file block by block from its unpacked bytes, with a call of ``on_block`` after each.

    None if the file is not COCO, or not laid out as most are.
    """
    columns = {"keypoints": keypoints, "angles": angles}
    tolerant = TolerantReader(file, **columns)
    decoders = {"images": _ImageDecoder(tolerant).decode, "annotations": _AnnotationDecoder(tolerant, columns).decode}
    images: list[Image] = []
    annotations = [AnnotationEntries.of([], **columns)]
    categories = None
    missing = set(decoders)
    try:
        for key, value in read_top_level(stream, file, decoders, on_block=on_block):
            if value is None:
                missing.remove(key)
            elif key == "annotations":
                annotations.append(value)
            elif key == "images":
                images += value
            elif key == "categories":
                categories = _categories(value, file, tolerant)
    except CocoError:  # reading it as a whole tells of it
        return None
    return None if missing else tolerant.rows(images, AnnotationEntries.join(annotations), categories)


def _categories(text: bytes, file: str, tolerant: TolerantReader) -> Sequence[Category] | None:
    """The categories; None if the file names none."""
    try:
        return msgspec.json.decode(text, type=list[Category] | None) or None
    except INVALID_JSON:
        content = _parse_plainly(text)
    if not isinstance(content, list):
        raise CocoError(f"{file}: 'categories' is not a list: {EXPECTED}")
    return tolerant.categories(content)


class _ImageDecoder:
    """Decodes images in a buffer at once, or entry by entry."""

    def __init__(self, tolerant: TolerantReader) -> None:
        self._tolerant, self._count = tolerant, 0
        self._decoder = msgspec.json.Decoder(list[Image])

    def decode(self, buffer: bytearray, end: int) -> list[Image] | None:
        """Decode the bytes before the end."""
        entries: Any
        try:
            with memoryview(buffer) as view:
                entries = images = self._decoder.decode(view[:end])
        except INVALID_JSON:
            if (entries := _parse_plainly(buffer[:end])) is None:
                return None
            images = self._tolerant.images(entries, start=self._count)
        self._count += len(entries)
        return images


class _AnnotationDecoder:
    """Decodes annotations in a buffer at once, or entry by entry."""

    def __init__(self, tolerant: TolerantReader, columns: Mapping[str, bool]) -> None:
        self._tolerant = tolerant
        self._columns = columns
        of_entry: type[Any] = entry_type(**columns)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[of_entry])  # type: ignore[valid-type]

    def decode(self, buffer: bytearray, end: int) -> AnnotationEntries | None:
        """Decode the bytes before the end."""
        try:
            with memoryview(buffer) as view:
                entries = self._decoder.decode(view[:end])
        except msgspec.ValidationError:
            return self._one_by_one(buffer, end)
        except INVALID_JSON:
            return self._plainly(buffer, end)
        part = AnnotationEntries.of(entries, **self._columns)
        has_outlines = not part.has_box.all() and buffer.find(b'"segmentation"', 1, end) > 0
        if has_outlines or any(entry.is_rotated for entry in filter(attrgetter("attributes"), entries)):
            return self._one_by_one(buffer, end)
        self._tolerant.skip(part)
        return part

    def _one_by_one(self, buffer: bytearray, end: int) -> AnnotationEntries | None:
        """Decode entries whose fields have any types."""
        try:
            entries = msgspec.json.decode(bytes(buffer[:end]), type=list[_AnyAnnotation])
        except INVALID_JSON as error:
            return self._plainly(buffer, end, isinstance(error, msgspec.ValidationError))  # some are no objects
        present = [{name: value for name, value in asdict(entry).items() if value is not UNSET} for entry in entries]
        return self._tolerant.annotations(present)

    def _plainly(self, buffer: bytearray, end: int, worthwhile: bool = False) -> AnnotationEntries | None:
        """Decode with Python's reader, if anything that only it reads is in the bytes before the end."""
        if not worthwhile and all(buffer.find(word, 1, end) < 0 for word in ONLY_PYTHON):
            return None
        entries = _parse_plainly(buffer[:end])
        return None if entries is None else self._tolerant.annotations(entries)


def _parse_plainly(text: bytes | bytearray) -> Any:
    """Decode JSON with Python's reader, which accepts NaN; None if it cannot."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None


def read_to_end(stream: BufferedIOBase, on_block: Callable[[], None]) -> bytearray:
    """The remaining bytes of a stream."""
    content = bytearray()
    while block := stream.read(coco_blocks.BLOCK_BYTES):
        content += block
        on_block()
    return content


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
