"""Decoding a COCO file in blocks, with little memory: the fast path for files whose every entry has the right types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedIOBase
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from detect.data.coco_entries import Annotation, AnnotationEntries, Category, Image, KeypointAnnotation, Rows

BLOCK_BYTES = 2**20  # a few thousand annotations: they stay in the processor's cache
LONGEST_ANNOTATION_BYTES = 2**26
MAX_CUTS = 16  # places tried as the end of a block
_LIST = re.compile(rb'"annotations"\s*:\s*\[')
_LIST_ENDS = re.compile(rb"\}\s*\]")
INVALID_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
# decoded in place of the annotations, with ids that no file has
_STAND_IN = Annotation(image_id=-(2**61) - 1, category_id=-(2**61) - 3)


Entry = TypeVar("Entry", bound=Annotation)


class CocoFile(Struct, Generic[Entry]):
    images: list[Image]
    annotations: list[Entry]
    categories: list[Category] | None = None


def read_in_blocks(stream: BufferedIOBase, file: str, *, keypoints: bool, on_block: Callable[[], None]) -> Rows | None:
    """Decode a file block by block from its unpacked bytes, with a call of ``on_block`` after each.

    None if the file is not COCO, or if any entry has a wrong type.
    """
    head, start = _up_to_annotations(stream, on_block)
    blocks = _Blocks(stream, start, keypoints)
    parts = []
    while not blocks.ended:
        if (part := blocks.next()) is None:
            return None
        parts.append(part)
        on_block()
    around = b"".join([head, msgspec.json.encode(_STAND_IN), b"]", blocks.rest, read_to_end(stream, on_block)])
    with suppress(*INVALID_JSON):
        content = msgspec.json.decode(around, type=CocoFile[Annotation])
        if content.annotations == [_STAND_IN]:
            return Rows(file, content.images, AnnotationEntries.join(parts), content.categories)
    return None


def read_to_end(stream: BufferedIOBase, on_block: Callable[[], None]) -> bytearray:
    """The remaining bytes of a stream."""
    content = bytearray()
    while block := stream.read(BLOCK_BYTES):
        content += block
        on_block()
    return content


def _up_to_annotations(stream: BufferedIOBase, on_block: Callable[[], None]) -> tuple[bytearray, bytearray]:
    """The bytes up to and including the opening bracket of the annotations, and the bytes read after it."""
    head = bytearray()
    while block := stream.read(BLOCK_BYTES):
        searched = max(len(head) - 64, 0)  # the key may span two blocks
        head += block
        if found := _LIST.search(head, searched):
            return head[: found.end()], head[found.end() :]
        on_block()
    return head, bytearray()


class _Blocks:
    """The list of annotations after its opening bracket: a buffer, filled, cut at an annotation's end, and decoded."""

    def __init__(self, stream: BufferedIOBase, start: bytearray, keypoints: bool) -> None:
        self.ended = False
        self._stream = stream
        self._keypoints = keypoints
        entry_type: type[Any] = KeypointAnnotation if keypoints else Annotation
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[entry_type])  # type: ignore[valid-type]
        self._buffer = bytearray(b"[") + start  # makes a list of what follows
        self._filled = len(self._buffer)

    @property
    def rest(self) -> bytes:
        """The bytes read after the end of the list."""
        return bytes(self._buffer[1 : self._filled])

    def next(self) -> AnnotationEntries | None:
        """The next annotations; None if no annotation's end is found."""
        while self._filled < LONGEST_ANNOTATION_BYTES:
            at_end = not self._fill()
            for cut in islice(self._cuts(), MAX_CUTS):
                if (part := self._try(cut)) is not None:
                    return part
            for end in islice(_LIST_ENDS.finditer(self._buffer, 1, self._filled), MAX_CUTS):
                if (part := self._try(end.end() - 1)) is not None:
                    self.ended = True
                    return part
            if at_end:
                break
        return None

    def _fill(self) -> int:
        if self._filled > len(self._buffer) // 2:  # few bytes were decoded: a longer block may contain an end
            self._buffer += bytes(max(len(self._buffer), BLOCK_BYTES))
        with memoryview(self._buffer) as view:
            got = self._stream.readinto(view[self._filled :])
        self._filled += got
        return int(got)

    def _cuts(self) -> Iterator[int]:
        """Positions of commas between objects, from the last backwards."""
        brace = self._filled
        while (brace := self._buffer.rfind(b"{", 1, brace)) > 0:
            before = self._buffer[max(brace - 64, 1) : brace].rstrip()
            if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
                yield self._buffer.rfind(b",", 1, brace)

    def _try(self, cut: int) -> AnnotationEntries | None:
        """Decode the annotations before the cut and drop them from the buffer; None if no annotation ends there."""
        separator, self._buffer[cut] = self._buffer[cut], ord("]")
        try:
            with memoryview(self._buffer) as view:
                entries = self._decoder.decode(view[: cut + 1])
        except INVALID_JSON:
            self._buffer[cut] = separator
            return None
        left = self._filled - cut - 1
        self._buffer[1 : 1 + left] = self._buffer[cut + 1 : self._filled]
        self._filled = 1 + left
        return AnnotationEntries.of(entries, keypoints=self._keypoints)
