"""A COCO file a block at a time: its annotations go to columns while the file is read, whatever its size.

JSON cannot be cut anywhere, but a cut can be proved right: a piece that begins where an annotation begins, and that put in
brackets is a valid list, ends where an annotation ends. So cuts are guessed from the text (``}, {``) and tried. When the
list is through, the rest of the file with one made-up annotation in the list's place must be a COCO file with just that
one: then it was the list. Where a guess cannot be proved, the caller reads the file whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from detect.coco.entries import Annotation, AnnotationEntries, Category, Image, KeypointAnnotation, Rows

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
