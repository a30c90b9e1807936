"""COCO files and structures to rows, reading only the fields asked for and stepping over the rest (polygons, licences).

A file whose every entry has the right types is decoded at once. One that does not, or that spells NaN as Python's json
module does, is read again entry by entry, and each entry that cannot be read becomes a :class:`Finding`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from gzip import BadGzipFile, GzipFile
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from detect.data.coco_entries import (
    NO_ID,
    Annotation,
    AnnotationEntries,
    Category,
    Finding,
    Image,
    KeypointAnnotation,
    Rows,
)
from detect.errors import CocoError

BLOCK_BYTES = 2**20  # some thousand annotations, which stay in the processor's cache
LONGEST_ANNOTATION_BYTES = 2**26
GUESSES = 16
_LIST = re.compile(rb'"annotations"\s*:\s*\[')
_LIST_ENDS = re.compile(rb"\}\s*\]")
_NOT_VALID = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_MADE_UP = Annotation(image_id=-(2**61) - 1, category_id=-(2**61) - 3)


Entry = TypeVar("Entry", bound=Annotation)


class CocoFile(Struct, Generic[Entry]):
    images: list[Image]
    annotations: list[Entry]
    categories: list[Category] | None = None


def read_in_blocks(stream: BufferedIOBase, file: str, *, keypoints: bool, told: Callable[[], None]) -> Rows | None:
    """The entries of a file, or None where it is anything but a COCO file all of whose entries have the right types.

    ``told`` is called after each block.
    """
    head, begun = _up_to_annotations(stream, told)
    blocks = _Blocks(stream, begun, keypoints)
    parts = []
    while not blocks.ended:
        part = blocks.next()
        if part is None:
            return None
        parts.append(part)
        told()
    around = b"".join([head, msgspec.json.encode(_MADE_UP), b"]", blocks.rest, read_to_end(stream, told)])
    try:
        content = msgspec.json.decode(around, type=CocoFile[Annotation])
    except _NOT_VALID:
        return None
    if content.annotations != [_MADE_UP]:
        return None
    return Rows(file, content.images, AnnotationEntries.join(parts), content.categories)


def read_to_end(stream: BufferedIOBase, told: Callable[[], None]) -> bytearray:
    """What is left of a stream."""
    content = bytearray()
    while block := stream.read(BLOCK_BYTES):
        content += block
        told()
    return content


def _up_to_annotations(stream: BufferedIOBase, told: Callable[[], None]) -> tuple[bytearray, bytearray]:
    """The text up to the list of annotations, its bracket included, and what was read beyond."""
    head = bytearray()
    while block := stream.read(BLOCK_BYTES):
        searched = max(len(head) - 64, 0)  # it may begin in one block and end in the next
        head += block
        if found := _LIST.search(head, searched):
            return head[: found.end()], head[found.end() :]
        told()
    return head, bytearray()


class _Blocks:
    """The list of annotations, from behind its bracket on: a buffer that is filled, cut, decoded and filled again."""

    def __init__(self, stream: BufferedIOBase, begun: bytearray, keypoints: bool) -> None:
        self.ended = False
        self._stream = stream
        self._keypoints = keypoints
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            list[KeypointAnnotation] if keypoints else list[Annotation]
        )
        self._buffer = bytearray(b"[") + begun  # the bracket makes a list of what follows
        self._filled = len(self._buffer)

    @property
    def rest(self) -> bytes:
        """What was read beyond the end of the list."""
        return bytes(self._buffer[1 : self._filled])

    def next(self) -> AnnotationEntries | None:
        """The next annotations, or None where no cut can be proved."""
        while self._filled < LONGEST_ANNOTATION_BYTES:
            at_end = not self._fill()
            for cut in islice(self._cuts(), GUESSES):
                if (part := self._try(cut)) is not None:
                    return part
            for end in islice(_LIST_ENDS.finditer(self._buffer, 1, self._filled), GUESSES):
                if (part := self._try(end.end() - 1)) is not None:
                    self.ended = True
                    return part
            if at_end:
                break
        return None

    def _fill(self) -> int:
        if self._filled > len(self._buffer) // 2:  # little was let go: a longer piece may have a cut
            self._buffer += bytes(max(len(self._buffer), BLOCK_BYTES))
        with memoryview(self._buffer) as view:
            got = self._stream.readinto(view[self._filled :])
        self._filled += got
        return int(got)

    def _cuts(self) -> Iterator[int]:
        """Commas between objects, from the last one backwards."""
        brace = self._filled
        while (brace := self._buffer.rfind(b"{", 1, brace)) > 0:
            before = self._buffer[max(brace - 64, 1) : brace].rstrip()
            if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
                yield self._buffer.rfind(b",", 1, brace)

    def _try(self, cut: int) -> AnnotationEntries | None:
        """The annotations before the cut, if that is where one ends; the buffer then begins behind it."""
        separator, self._buffer[cut] = self._buffer[cut], ord("]")
        try:
            with memoryview(self._buffer) as view:
                entries = self._decoder.decode(view[: cut + 1])
        except _NOT_VALID:
            self._buffer[cut] = separator
            return None
        left = self._filled - cut - 1
        self._buffer[1 : 1 + left] = self._buffer[cut + 1 : self._filled]
        self._filled = 1 + left
        return AnnotationEntries.of(entries, keypoints=self._keypoints)


EXPECTED = "expected a COCO file: an object with images, annotations and categories"
WHOLE_FIELDS = frozenset({"id", "image_id", "category_id", "width", "height", "iscrowd"})
MAX_JSON_BYTES = 16 * 2**30  # refused beyond this, also while unpacking .gz

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def read_rows(path: str | Path, *, keypoints: bool = False, on_progress: Progress | None = None) -> Rows:
    """Decode one ``.json`` or ``.json.gz`` file.

    Raises:
        CocoError: the file cannot be opened, is not JSON, or is not COCO; the message says what it is instead.
    """
    path = Path(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe without a writer would wait for ever
            raise CocoError(f"{path}: not a regular file: write it to disk first")
        with path.open("rb") as file:
            return _read_open(file, path, keypoints, on_progress)
    except IsADirectoryError:
        raise CocoError(f"{path}: a folder: give the JSON file in it, or a pattern such as {path}/*.json") from None
    except (BadGzipFile, EOFError, zlib.error) as error:
        raise CocoError(f"{path}: a damaged or truncated .gz file ({error})") from None
    except OSError as error:
        raise CocoError(f"{path}: {error.strerror or error}") from None


def _read_open(file: BufferedIOBase, path: Path, keypoints: bool, on_progress: Progress | None) -> Rows:
    size_bytes = path.stat().st_size
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: BufferedIOBase = GzipFile(fileobj=file) if packed else file

    def tell() -> None:
        if stream.tell() > MAX_JSON_BYTES:
            unpacks = "unpacks to" if packed else "has"
            raise CocoError(f"{path}: {unpacks} more than {MAX_JSON_BYTES >> 30} GiB: cut it into shards")
        if on_progress:
            on_progress(f"reading {path.name}", min(file.tell(), size_bytes), size_bytes)

    if rows := read_in_blocks(stream, str(path), keypoints=keypoints, told=tell):
        return rows
    stream.seek(0)
    return _decode(read_to_end(stream, tell), path, keypoints)


def _decode(data: bytearray, path: Path, keypoints: bool) -> Rows:
    """A whole file, whatever is wrong with it."""
    if not data:
        raise CocoError(f"{path}: the file is empty: {EXPECTED}")
    try:
        file: Any = msgspec.json.decode(data, type=CocoFile[KeypointAnnotation] if keypoints else CocoFile[Annotation])
        return Rows(
            str(path), file.images, AnnotationEntries.of(file.annotations, keypoints=keypoints), file.categories
        )
    except msgspec.ValidationError:
        pass  # valid so far as it was read, but some entry is not as expected: find which
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise CocoError(f"{path}: the JSON breaks off: the file is truncated ({len(data):,} bytes)") from None
    except (RecursionError, UnicodeDecodeError):
        pass
    return rows_from_object(parse_plainly(data, path), file=str(path), keypoints=keypoints)


def rows_from_object(content: Any, *, file: str, keypoints: bool = False) -> Rows:
    """The rows of a COCO structure that is already in memory, entry by entry.

    Raises:
        CocoError: it is not COCO; the message says what it is instead.
    """
    _require_coco(content, file)
    faults: list[Finding] = []
    entry_type = KeypointAnnotation if keypoints else Annotation
    images = convert_entries(content["images"], Image, file, faults)
    annotations = convert_entries(content["annotations"], entry_type, file, faults)
    categories = content.get("categories")
    if categories is not None:
        categories = convert_entries(categories, Category, file, faults)
    return Rows(file, images, AnnotationEntries.of(annotations, keypoints=keypoints), categories, faults)


def parse_plainly(data: bytearray, path: str | Path, expected: str = EXPECTED) -> Any:
    """Python's own reader: slower, but it takes NaN and a byte order mark, and says where the text goes wrong."""
    try:
        return json.loads(data, object_hook=_without_polygons)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CocoError(f"{path}: not JSON ({where}): {expected}") from None
    except UnicodeDecodeError as error:
        raise CocoError(f"{path}: not text (byte {error.start:,} is not {error.encoding}): {expected}") from None
    except RecursionError:
        raise CocoError(f"{path}: nested too deeply: {expected}") from None
    except ValueError as error:  # a whole number of more digits than Python converts
        raise CocoError(f"{path}: a number is too long ({str(error).split(';')[0]})") from None


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # the bulk of a file, let go while it is read
    return entry


def _require_coco(content: Any, file: str) -> None:
    if isinstance(content, list):
        first = content[0] if content else None
        scored = isinstance(first, Mapping) and "score" in first
        what = "a results file (a list of detections with scores)" if scored else "a list at the top"
        raise CocoError(f"{file}: {what}: {EXPECTED}")
    if not isinstance(content, Mapping):
        raise CocoError(f"{file}: {_kind(content)} at the top: {EXPECTED}")
    for name in ("images", "annotations"):
        if name not in content:
            has = ", ".join(repr(key[:40]) for key in sorted(map(str, content))[:8]) or "nothing"
            raise CocoError(f"{file}: no {name!r} in it (it has {has}): {EXPECTED}")
    for name in ("images", "annotations", "categories"):
        absent = name == "categories" and content.get(name) is None
        if not (absent or isinstance(content[name], list | tuple)):
            raise CocoError(f"{file}: {name!r} is {_kind(content[name])}, not a list: {EXPECTED}")


def convert_entries(entries: Iterable[Any], entry_type: type[Any], file: str, faults: list[Finding]) -> list[Any]:
    """Entries one by one; each that is not of the type becomes a finding."""
    rows = []
    for number, entry in enumerate(entries):
        wanted = entry
        try:
            if isinstance(entry, Mapping):
                wanted = {name: _plain(entry[name]) for name in entry_type.__struct_fields__ if name in entry}
                wanted |= {
                    name: int(wanted[name]) for name in WHOLE_FIELDS & wanted.keys() if _is_whole_float(wanted[name])
                }
            rows.append(msgspec.convert(wanted, entry_type))
        except msgspec.ValidationError as error:
            faults.append(_fault(wanted, number, entry_type, str(error), file))
        except RecursionError:
            faults.append(_fault(wanted, number, entry_type, "nested too deeply", file))
    return rows


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays, which a structure made in Python may hold, to Python's."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _is_whole_float(value: Any) -> bool:
    """640.0, as tables write whole numbers."""
    return isinstance(value, float) and value.is_integer()


def _fault(entry: Any, number: int, entry_type: type[Any], error: str, file: str) -> Finding:
    kind = "annotation" if issubclass(entry_type, Annotation) else entry_type.__name__.strip("_").lower()
    if not isinstance(entry, Mapping):
        return Finding(file, None, None, f"entry {number} of the {kind} list is {_kind(entry)}, not an object")
    message, _, where = error.partition(" - at ")
    reason = f"{where.strip('`').removeprefix('$.')}: {message}".removeprefix(": ").replace("`", "")
    own_id = _whole(entry.get("id"))
    if kind == "annotation":
        box = entry.get("bbox")
        if isinstance(box, list | tuple) and len(box) != 4:
            reason = f"bbox has {len(box)} numbers, not 4 (x, y, width, height)"
        image_id = _whole(entry.get("image_id"))
        if own_id is not None:
            return Finding(file, own_id, image_id, reason)
        return Finding(file, NO_ID, image_id, f"entry {number} of the annotation list: {reason}")
    place = f"entry {number} of the {kind} list: {reason}"
    return Finding(file, None, own_id if kind == "image" else None, place)


def _whole(value: Any) -> int | None:
    """A whole number that can be an id, or nearly: one of thousands of digits would fill the message."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 128 else None


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "true or false", type(None): "null", dict: "an object", list: "a list"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number" if math.isfinite(value) else str(value)
    return names.get(type(value), type(value).__name__)
