"""The fields of one entry of a COCO file, each read as the value that it stands for.

A text of a number is its number, and any other text can be an id. ``Fields.odd`` says what was read as something else; a
field without which the entry cannot be used raises :class:`UnusableError` with the reason, in words about the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from detect.data.coco_entries import (
    NO_ID,
    UNKNOWN_PX,
    Annotation,
    Box,
    Category,
    Image,
    KeypointAnnotation,
    NumericAttributes,
    OrientedAnnotation,
)
from detect.data.coco_outlines import outline_box
from detect.text_formats import LONGEST_SHOWN, parse_json

LARGEST = 2**62  # fits a column of 64 bits
LABELS_FROM = 2**52  # ids of labels lie from here to 2**53: integers that JSON readers and floats keep exactly
_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d{0,39}))(?:\.0*)?", re.ASCII)  # not 007, which is another text than 7
_MISSING = object()
_PLAIN_TYPES = {int, float, str, bool, type(None), object}


class UnusableError(Exception):
    """The entry cannot be used; the message is the reason."""


class AngleError(UnusableError):
    """The angle of the entry cannot be read: an error of the whole file, since a wrong angle would be learned."""


def label_id(label: str) -> int:
    """The id of a label, the same in every file.

    >>> label_id("a1") == label_id("a1"), label_id("a1") == label_id("a2"), 2**52 <= label_id("a1") < 2**53
    (True, False, True)
    """
    digest = blake2b(label.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return LABELS_FROM + int.from_bytes(digest, "big") % LABELS_FROM


def in_words(value: Any) -> str:
    """What a value of a file is, in words.

    >>> [in_words(value) for value in (None, True, "a", 2.5, [1], {})]
    ['null', 'true', "the text 'a'", '2.5', 'a list', 'an object']
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {value[:LONGEST_SHOWN]!r}{'...' if len(value) > LONGEST_SHOWN else ''}"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length():,} bits"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


class Fields:
    """The fields of one entry; ``odd`` lists what was read as something else."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.odd: list[str] = []
        self.entry = entry

    def annotation(self, *, keypoints: bool, angles: bool = False) -> tuple[Annotation, Box | None]:
        """An annotation, and the box of its outline if its own box is missing or cannot be read."""
        own_id = NO_ID if self.id("id") is None else self.required_id("id")
        image_id, category_id = self.required_id("image_id"), self.required_id("category_id")
        box, outline = self._box_or_outline()
        common = (image_id, category_id, box, own_id, self._iscrowd(), self._area())
        if angles:
            attributes = self._get("attributes")
            turned = attributes.get("rotation") if isinstance(attributes, Mapping) else None
            oriented = OrientedAnnotation(*common, keypoints=self.points() if keypoints else None)
            oriented.angle, oriented.rotation = (self._angle(self._get(name), name) for name in ("angle", "rotation"))
            oriented.attributes = NumericAttributes(self._angle(turned, "attributes.rotation"))
            return oriented, outline
        self._note_rotation()
        return (KeypointAnnotation(*common, keypoints=self.points()) if keypoints else Annotation(*common)), outline

    def image(self) -> Image:
        """An image; a size that is missing or unreadable is ``UNKNOWN_PX``."""
        own_id = self.required_id("id")
        width, height = self._pixels("width"), self._pixels("height")
        if any(side is not None and side <= 0 for side in (width, height)):
            sides = "x".join("?" if side is None else in_words(side) for side in (width, height))
            raise UnusableError(f"size {sides} is not positive")
        return Image(own_id, width or UNKNOWN_PX, height or UNKNOWN_PX, self._text("file_name"))

    def category(self) -> Category:
        return Category(self.required_id("id"), self._text("name", numbers=True), self._names("keypoints"))

    def required_id(self, name: str) -> int:
        """The number of an id, also of one that is a text."""
        value = self._get(name)
        if type(value) is int and abs(value) <= LARGEST:
            return value
        if value is _MISSING:
            raise UnusableError(f"it has no {name}")
        found, shown = _id_of(value)
        if found is None:
            raise UnusableError(f"{name} is {in_words(value)}, not an id")
        if shown:
            self.odd.append(f"{name} is {in_words(value)}: read as the {shown} {found}")
        return found

    def id(self, name: str) -> int | None:
        """The number of an id; None if there is none that can be read."""
        return _id_of(self._get(name))[0]

    def number(self, name: str) -> float:
        """A number that must be there; it may be a text."""
        value = self._get(name)
        if value is _MISSING:
            raise UnusableError(f"it has no {name}")
        number = _number(value, name)
        if isinstance(value, str):
            self.odd.append(f"{name} is {in_words(value)}: read as the number {number:g}")
        return number

    def box(self) -> Box | None:
        """The box as the file has it: four numbers, which may be texts; None if there is none."""
        value = self._get("bbox")
        if value is _MISSING or value is None:
            return None
        if not isinstance(value, list | tuple):
            raise UnusableError(f"bbox is {in_words(value)}, not a list of 4 numbers (x, y, width, height)")
        if len(value) != len(Box.__struct_fields__):
            rotated = ": a rotated box is not read" if len(value) in (5, 8) else ""
            raise UnusableError(f"bbox has {len(value)} numbers, not 4 (x, y, width, height){rotated}")
        box = Box(*(_number(item, f"bbox[{place}]") for place, item in enumerate(value)))
        self._note_texts("bbox", value)
        return box

    def points(self) -> list[float] | None:
        """The numbers of the keypoints; null, as for a point that is not labelled, is NaN."""
        value = self._get("keypoints")
        if value is _MISSING or value is None:
            return None
        if not isinstance(value, list | tuple):
            raise UnusableError(f"keypoints is {in_words(value)}, not a list of numbers")
        if len(value) % 3:
            raise UnusableError(f"keypoints has {len(value)} numbers, not three (x, y, visibility) per keypoint")
        self._note_texts("keypoints", value)
        named = ((f"keypoints[{place}]", item) for place, item in enumerate(value))
        return [math.nan if item is None else _number(item, name) for name, item in named]

    def _get(self, name: str) -> Any:
        """A field's value, as Python's own if it is NumPy's."""
        value = self.entry.get(name, _MISSING)
        return value if type(value) in _PLAIN_TYPES else _plain(value)

    def _box_or_outline(self) -> tuple[Box | None, Box | None]:
        box, reason = None, "it has no bbox"
        try:
            box = self.box()
        except UnusableError as error:
            reason = str(error)
        if box is not None:
            return box, None
        outline = outline_box(self._get("segmentation"))
        if outline is not None:
            self.odd.append(f"{reason}: taken from its segmentation")
        elif self._get("bbox") not in (_MISSING, None):
            raise UnusableError(reason)
        return None, outline

    def _iscrowd(self) -> bool:
        value = self._get("iscrowd")
        if value is _MISSING or isinstance(value, int):
            return bool(value is not _MISSING and value)
        if value is None:
            self.odd.append("iscrowd is null: read as 0")
            return False
        number = _whole(value)
        if number not in {0, 1}:
            raise UnusableError(f"iscrowd is {in_words(value)}, not 0 or 1")
        if isinstance(value, str):
            self.odd.append(f"iscrowd is {in_words(value)}: read as {number}")
        return bool(number)

    def _area(self) -> float | None:
        """The area; None, to be taken from the box, if it is missing or says nothing."""
        value = self._get("area")
        if value is _MISSING or value is None:
            return None
        try:
            area = _number(value, "area")
        except UnusableError:
            area = math.nan
        if not math.isfinite(area):
            self.odd.append(f"area is {in_words(value)}: taken as width * height")
            return None
        if isinstance(value, str):
            self.odd.append(f"area is {in_words(value)}: read as the number {area:g}")
        return area

    def _angle(self, value: Any, name: str) -> float | None:
        """An angle in degrees, which may be a text; None if it is missing."""
        if value is _MISSING or value is None:
            return None
        try:
            angle = _number(value, name)
        except UnusableError as error:
            raise AngleError(str(error)) from None
        if not math.isfinite(angle):
            raise AngleError(f"{name} is {in_words(value)}, not finite")
        if isinstance(value, str):
            self.odd.append(f"{name} is {in_words(value)}: read as the number {angle:g}")
        return angle

    def _note_rotation(self) -> None:
        """CVAT's files hold a rotated box as the box before its rotation, and the angle as an attribute."""
        attributes = self._get("attributes")
        angle = attributes.get("rotation") if isinstance(attributes, Mapping) else None
        if isinstance(angle, int | float) and angle:
            self.odd.append(f"it is rotated by {in_words(angle)} degrees: its box is taken without the rotation")

    def _pixels(self, name: str) -> int | None:
        """A side of an image; None if it is missing or no whole number."""
        value = self._get(name)
        if value is _MISSING or value is None:
            return None
        number = _whole(value)
        if number is None or abs(number) > LARGEST:
            self.odd.append(f"{name} is {in_words(value)}, not a whole number of pixels: taken as unknown")
            return None
        if isinstance(value, str):
            self.odd.append(f"{name} is {in_words(value)}: read as the number {number}")
        return number

    def _text(self, name: str, *, numbers: bool = False) -> str | None:
        value = self._get(name)
        if value is _MISSING or value is None:
            return None
        if isinstance(value, str):
            return value
        if numbers and isinstance(value, int | float) and not isinstance(value, bool):
            self.odd.append(f"{name} is {in_words(value)}: read as a text")
            return in_words(value)
        self.odd.append(f"{name} is {in_words(value)}, not a text: left out")
        return None

    def _names(self, name: str) -> list[str] | None:
        value = self._get(name)
        if value is _MISSING or value is None:
            return None
        if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            return list(value)
        self.odd.append(f"{name} is {in_words(value)}, not a list of names: left out")
        return None

    def _note_texts(self, name: str, values: Sequence[Any]) -> None:
        if any(isinstance(item, str) for item in values):
            self.odd.append(f"{name} holds texts: read as numbers")


def _plain(value: Any) -> Any:
    """Python's values for NumPy's numbers and arrays, which a structure in memory may contain, and for JSON not decoded."""
    if isinstance(value, msgspec.Raw):
        try:
            return msgspec.json.decode(value)
        except (
            msgspec.DecodeError,
            RecursionError,
            UnicodeDecodeError,
        ):  # a number too large for it, half of a character
            return _parsed(bytes(value))
    if isinstance(value, list | tuple):
        return [item.tolist() if hasattr(item, "tolist") else item for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _parsed(text: bytes) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"a value cannot be read ({str(error).split(';')[0]})") from None


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        raise UnusableError(f"{name} is {in_words(value)}, too large") from None
    except ValueError:
        pass  # a text of something else
    raise UnusableError(f"{name} is {in_words(value)}, not a number")


def _whole(value: Any) -> int | None:
    """The integer that a value is, also as a float such as 640.0 or as a text; None if it is none."""
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value.strip())
        return int(found[1]) if found else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _id_of(value: Any) -> tuple[int | None, str]:
    """The number of an id, and what it was read as if the file does not have it as a number; None if it is no id."""
    number, is_text = _whole(value), isinstance(value, str)
    if number is not None:
        return (number, "number" if is_text else "") if abs(number) <= LARGEST else (label_id(hex(number)), "id")
    is_label = value != "" if is_text else isinstance(value, float) and math.isfinite(value)
    return (label_id(str(value)), "id") if is_label else (None, "")
