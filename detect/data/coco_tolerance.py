"""Reading entries of a COCO file one by one: what each is read as, what is odd about it, and which cannot be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from detect.data.coco_entries import (
    NO_ID,
    Annotation,
    AnnotationEntries,
    Box,
    Category,
    Finding,
    Image,
    Rows,
    entry_type,
)
from detect.data.coco_fields import AngleError, Fields, UnusableError, in_words
from detect.errors import CocoError

Entry = TypeVar("Entry")


class TolerantReader:
    """Reads the entries of one file, and collects what :class:`Rows` says about them.

    Annotations come in parts, in the order of the file. A part that another reader has read is only counted, by ``skip``.
    """

    def __init__(self, file: str, *, keypoints: bool, angles: bool = False) -> None:
        self._file = file
        self._columns = {"keypoints": keypoints, "angles": angles}
        self._entry_type = entry_type(**self._columns)
        self._num_entries, self._num_rows = 0, 0
        self._faults: list[Finding] = []
        self._suspicious: list[Finding] = []
        self._odd: dict[int, str] = {}
        self._outlines: dict[int, Box] = {}

    def skip(self, part: AnnotationEntries) -> None:
        """Count the next annotations, which need no such reading."""
        self._num_entries += len(part)
        self._num_rows += len(part)

    def annotations(self, entries: Sequence[Any]) -> AnnotationEntries:
        """The usable ones of the next annotations."""
        usable: list[Annotation] = []

        def read(fields: Fields) -> Annotation:
            if (clean := self._clean(fields.entry)) is not None:
                return clean
            annotation, outline = fields.annotation(**self._columns)
            if outline is not None:
                self._outlines[self._num_rows + len(usable)] = outline
            return annotation

        for _, annotation, odd in read_entries(
            entries, "annotation", read, self._file, self._faults, start=self._num_entries
        ):
            if odd:
                self._odd[self._num_rows + len(usable)] = odd
            usable.append(annotation)
        self._num_entries += len(entries)
        self._num_rows += len(usable)
        return AnnotationEntries.of(usable, **self._columns)

    def _clean(self, entry: Mapping[str, Any]) -> Annotation | None:
        """The annotation, read at once; None if anything about it may be odd."""
        try:
            found: Annotation = msgspec.convert(entry, self._entry_type)
        except (msgspec.ValidationError, RecursionError):
            return None
        is_finite = all(number is None or math.isfinite(number) for number in (found.area, *found.angles_deg))
        return found if is_finite and found.bbox is not None and not found.is_rotated else None

    def images(self, entries: Iterable[Any], *, start: int = 0) -> list[Image]:
        """The usable images, the first being the entry ``start`` of the file's list."""
        usable = []
        for _, image, odd in read_entries(entries, "image", Fields.image, self._file, self._faults, start=start):
            usable.append(image)
            if odd:
                self._suspicious.append(Finding(self._file, None, image.id, odd))
        return usable

    def categories(self, entries: Sequence[Any] | None) -> list[Category] | None:
        """The usable categories; None if the file names none, so that every category id is accepted."""
        usable = []
        for _, category, odd in read_entries(entries or (), "category", Fields.category, self._file, self._faults):
            usable.append(category)
            if odd:
                self._suspicious.append(Finding(self._file, None, None, f"category {category.id}: {odd}"))
        return usable if entries else None

    def rows(
        self, images: Sequence[Image], annotations: AnnotationEntries, categories: Sequence[Category] | None
    ) -> Rows:
        """The rows of the file, with everything that was collected."""
        found = (self._faults, self._suspicious, self._odd, self._outlines)
        return Rows(self._file, images, annotations, categories, *found)


def read_entries(
    entries: Iterable[Any],
    kind: str,
    read: Callable[[Fields], Entry],
    file: str,
    faults: list[Finding],
    *,
    start: int = 0,
) -> Iterator[tuple[int, Entry, str]]:
    """Yield each usable entry with its place before it and what is odd about it; add a finding for each other one.

    Raises:
        CocoError: the angle of an annotation cannot be read.
    """
    for number, entry in enumerate(entries, start):
        if not isinstance(entry, Mapping):
            reason = f"entry {number} of the {kind} list is {in_words(entry)}, not an object"
            faults.append(Finding(file, None, None, reason))
            continue
        fields = Fields(entry)
        try:
            found = read(fields)
        except UnusableError as error:
            fault = _fault(fields, kind, number, with_odd(str(error), "; ".join(fields.odd)), file)
            if isinstance(error, AngleError):
                raise CocoError(str(fault)) from None
            faults.append(fault)
        else:
            yield number, found, "; ".join(fields.odd)


def with_odd(reason: str, odd: str | None) -> str:
    """The reason why an entry cannot be used, with what is odd about it."""
    return f"{reason} ({odd})" if odd else reason


def _fault(fields: Fields, kind: str, number: int, reason: str, file: str) -> Finding:
    own_id, place = fields.id("id"), f"entry {number} of the {kind} list: {reason}"
    if kind == "annotation":
        image_id = fields.id("image_id")
        return Finding(file, NO_ID, image_id, place) if own_id is None else Finding(file, own_id, image_id, reason)
    if kind == "image":
        return Finding(file, None, own_id, place if own_id is None else reason)
    return Finding(file, None, None, place)
