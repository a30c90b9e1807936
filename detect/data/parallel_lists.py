"""A long list of a JSON file, decoded by several processes: each takes a range between two places where an entry begins.

Places are found by what a comma between objects looks like, so one may lie in a list inside of an entry. Then the range
before it is no list of whole entries, and the file is read on from there in order.
"""

from __future__ import annotations

import gc
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Generic, TypeVar

from detect.data.coco_blocks import ListBlocks
from detect.errors import CocoError

Result = TypeVar("Result")
WINDOW_BYTES = 2**20  # searched for the beginning of an entry
_BETWEEN = re.compile(rb'\}[ \t\r\n]*,(?=[ \t\r\n]*\{[ \t\r\n]*"[^"\\]*"[ \t\r\n]*:)')


class Sink(ABC, Generic[Result]):
    """Takes the entries of one range."""

    @abstractmethod
    def decode(self, buffer: bytearray, end: int) -> object | None:
        """Decode a block, as the function of :class:`ListBlocks` does."""

    @abstractmethod
    def finish(self) -> Result:
        """What the range gives, which goes to another process."""


@dataclass(frozen=True)
class Range(Generic[Result]):
    """What was decoded of a range of a file: its result, where it ended, and whether that was the end of the list."""

    result: Result
    end: int
    ended: bool


def decode_ranges(
    file: str, start: int, open_sink: Callable[[int], Sink[Result]], *, range_bytes: int, num_processes: int
) -> Iterator[Range[Result]]:
    """Yield the ranges of a list that begins at a byte of a file, in order, as far as they are whole.

    ``open_sink`` makes the sink of a range, given its number, in the process that decodes it.
    The list goes on at the end of the last range, unless that range ended it.
    """
    places = _places(file, start, range_bytes)
    stops = [*places[1:], None]
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as processes:
        decode = partial(_decode_range, file, open_sink)
        tasks = [processes.submit(decode, number, *pair) for number, pair in enumerate(zip(places, stops, strict=True))]
        try:
            for task in tasks:
                found = task.result()
                if found is None:
                    return
                yield found
                if found.ended:
                    return
        finally:
            for task in tasks:
                task.cancel()


def _places(path: str, start: int, range_bytes: int) -> Sequence[int]:
    """The first byte of each range: that of the list, and those of entries, at least ``range_bytes`` apart."""
    size = Path(path).stat().st_size
    places = [start]
    with Path(path).open("rb") as file:
        while places[-1] + range_bytes < size:
            file.seek(places[-1] + range_bytes)
            found = _BETWEEN.search(file.read(WINDOW_BYTES))
            if not found:
                break
            places.append(places[-1] + range_bytes + found.end())
    return places


def _decode_range(
    path: str, open_sink: Callable[[int], Sink[Result]], number: int, start: int, stop: int | None
) -> Range[Result] | None:
    """Decode the entries from a place on, up to another or the end of the list; None if they are no whole entries."""
    gc.disable()  # entries hold no cycles, and looking for them takes an eighth of the time
    sink = open_sink(number)
    with Path(path).open("rb") as file:
        file.seek(start)
        stream = _Until(file, stop)
        blocks = ListBlocks(stream, b"", sink.decode)
        try:
            while not blocks.ended:
                if blocks.next() is None:
                    return None
        except CocoError:
            return None  # which reading in order tells of
        left = len(blocks.rest) - stream.added
        if stop is not None and left < 0:
            return Range(sink.finish(), stop, ended=False)
        return Range(sink.finish(), file.tell() - left, ended=True)


class _Until(BytesIO):
    """A file up to a place, where a bracket ends the list in place of the comma before it."""

    def __init__(self, file: BufferedIOBase, stop: int | None) -> None:
        super().__init__()
        self._file, self._stop = file, stop
        self.added = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read the next bytes of the file, then the bracket."""
        if self._stop is None:
            return int(self._file.readinto(buffer))
        left = self._stop - 1 - self._file.tell()
        if left > 0:
            return int(self._file.readinto(buffer[:left]))
        if self.added or not len(buffer):
            return 0
        buffer[:1] = b"]"
        self.added = 1
        return 1
