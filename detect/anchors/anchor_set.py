"""AnchorSet: anchor shapes on pyramid levels, their resize rule, and their file ``anchors.yaml``."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import yaml
from jaxtyping import Float64, Int64
from msgspec import Meta, Struct
from numpy import ndarray

from detect.data.formats.recognise import LABEL_SUFFIXES
from detect.data.resize import ResizeRule, parse_resize
from detect.errors import AnchorFileError, FitError, ResizeError
from detect.files import is_folder, read_small_text, write_whole
from detect.text_formats import parse_yaml

FORMAT = 1
DIGITS = 6  # significant digits of a shape in a file; scores are computed on the rounded shapes
CENTER_OF_CELL = 0.5
SIZE_IN_STRIDES = 4.0  # Lin et al. 2017, section 4: anchors from 32 pixels on stride 8 to 512 on stride 128
SHORT_SIDE_IN_STRIDES = (
    2.0  # an anchor half a stride away then loses at most a quarter of its overlap along a thin side
)
COARSEST_LEVEL = 20
UPPER_BOUND = "_upper_bound"  # suffix of a score's name, for its proved upper bound in a file
START = "start_"  # prefix of a score's name, for the score of the anchors that a fit started from
FIELDS = ("resize", "center_offset", "command", "version")  # alike in a set and in its file

Positive = Annotated[float, Meta(gt=0, le=1e9)]
Stride = Annotated[int, Meta(ge=1, le=2**20)]


@dataclass(frozen=True)
class Proof:
    """A score and an upper bound for all anchors within the same limits.

    >>> round(Proof(0.8, 0.82).gap, 4)
    0.025
    """

    score: float
    upper_bound: float

    @property
    def gap(self) -> float:
        """Distance of the bound from the score, relative to the score; infinite if only the score is 0."""
        if self.score > 0:
            return self.upper_bound / self.score - 1
        return math.inf if self.upper_bound > 0 else 0.0


class AnchorLevel(Struct, frozen=True):
    """One pyramid level: its stride in pixels and its shapes (width, height) in pixels after the resize rule."""

    name: str
    stride: Stride
    shapes: list[tuple[Positive, Positive]]


class SourceFile(Struct, frozen=True):
    """A file or folder of labels that anchors were fitted to, and the SHA-256 of its bytes."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> SourceFile:
        """Hash a file, or the names and bytes of the label files below a folder."""
        path = Path(path)
        digest = hashlib.sha256()
        if is_folder(path):
            for file in sorted(each for each in path.rglob("*") if each.suffix.lower() in LABEL_SUFFIXES):
                digest.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
        else:
            with path.open("rb") as stream:
                while chunk := stream.read(2**20):
                    digest.update(chunk)
        return cls(str(path), digest.hexdigest())


class _AnchorFile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    format: int
    resize: str
    levels: Annotated[list[AnchorLevel], Meta(min_length=1)]
    center_offset: Annotated[float, Meta(ge=0, le=1)] = CENTER_OF_CELL
    scores: dict[str, float] = {}
    sources: list[SourceFile] = []
    command: str = ""
    version: str = ""


@dataclass(frozen=True)
class AnchorSet:
    """Anchor shapes of a detector, on the levels of its feature pyramid.

    ``levels`` go from the finest stride to the coarsest. Within a level, the order of shapes is the order of the head's
    channels. ``center_offset`` is the position of an anchor's centre in its cell: 0.5 is the middle, 0 the top left corner.
    ``resize`` is empty if the file that the set was read from states none.

    >>> anchors = AnchorSet.of([[(10, 20), (30, 20)], [(60, 60)]], strides=(8, 16), resize="letterbox:640")
    >>> anchors.num_anchors, [level.name for level in anchors.levels]
    (3, ['P3', 'P4'])
    >>> anchors.shapes
    array([[10., 20.],
           [30., 20.],
           [60., 60.]])
    """

    levels: tuple[AnchorLevel, ...]
    resize: str = "none"
    center_offset: float = CENTER_OF_CELL
    name: str = "anchors"
    scores: Mapping[str, float] = field(default_factory=dict)
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    """By the name of the score, where an upper bound was proved."""
    sources: tuple[SourceFile, ...] = ()
    command: str = ""
    version: str = ""
    assumed: tuple[str, ...] = ()
    """What the file that was read does not state."""

    @classmethod
    def of(
        cls,
        shapes: Sequence[Sequence[tuple[float, float]] | Float64[ndarray, "_ 2"]],
        *,
        strides: Sequence[int],
        resize: str | ResizeRule = "none",
        **fields: Any,
    ) -> AnchorSet:
        """Make a set from one list of (width, height) for each stride, in any order; further ``fields`` are the class's.

        Widths and heights are in pixels after the resize rule and are rounded to ``DIGITS`` digits.
        """
        pairs = sorted(zip(strides, shapes, strict=True), key=lambda pair: pair[0])
        levels = [
            AnchorLevel(level_name(stride), stride, [(_rounded(w), _rounded(h)) for w, h in level])
            for stride, level in pairs
        ]
        return cls(tuple(levels), str(resize), **fields)

    @property
    def resize_rule(self) -> ResizeRule:
        """The parsed resize rule.

        Raises:
            AnchorFileError: the file that the set was read from states none.
        """
        if not self.resize:
            raise AnchorFileError(f"{self.name} states no resize rule: give --resize")
        return parse_resize(self.resize)

    @property
    def shapes(self) -> Float64[ndarray, "a 2"]:
        """All shapes, sorted by area."""
        shapes = np.array([shape for level in self.levels for shape in level.shapes], float).reshape(-1, 2)
        return shapes[np.lexsort((shapes[:, 0], shapes.prod(axis=1)))]

    @property
    def num_anchors(self) -> int:
        return sum(len(level.shapes) for level in self.levels)

    def save(self, path: str | Path) -> None:
        """Write ``anchors.yaml``, whole or not at all."""
        write_whole(path, self.to_yaml())

    def to_yaml(self) -> str:
        """The text of ``anchors.yaml``.

        Raises:
            AnchorFileError: reading it would: a level has no shape, strides do not rise, or a value is out of its range.
        """
        scores: dict[str, float] = {}
        for name, value in self.scores.items():
            scores[name] = round(value, DIGITS)
            if name in self.proofs:
                scores[name + UPPER_BOUND] = round(self.proofs[name].upper_bound, DIGITS)
        fields = {name: getattr(self, name) for name in FIELDS}
        if self.center_offset == CENTER_OF_CELL:
            fields["center_offset"] = CENTER_OF_CELL  # msgspec leaves out only the very object of the default
        content = _AnchorFile(FORMAT, levels=list(self.levels), scores=scores, sources=list(self.sources), **fields)
        header = "# Shapes are [width, height] in pixels after the resize rule, on levels from fine to coarse.\n"
        builtin = msgspec.to_builtins(content)
        _checked(builtin)
        return header + yaml.dump(builtin, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)

    @classmethod
    def load(cls, path: str | Path) -> AnchorSet:
        """Read ``anchors.yaml``.

        Raises:
            AnchorFileError: the file is missing or not YAML, or a field is missing or wrong; the message names it.
        """
        text = read_small_text(path, AnchorFileError)
        try:
            return replace(cls.from_yaml(text), name=str(path))
        except AnchorFileError as error:
            raise AnchorFileError(f"{path}: {error}") from None

    @classmethod
    def from_yaml(cls, text: str) -> AnchorSet:
        """Read the text of ``anchors.yaml``.

        Raises:
            AnchorFileError: it is not YAML, or a field is missing or wrong.
        """
        content = _checked(parse_yaml(text, AnchorFileError))
        bounds = {name: bound for name, bound in content.scores.items() if name.endswith(UPPER_BOUND)}
        scores = {name: value for name, value in content.scores.items() if name not in bounds}
        return cls(
            levels=tuple(content.levels),
            scores=scores,
            proofs={
                name: Proof(value, bounds[name + UPPER_BOUND])
                for name, value in scores.items()
                if name + UPPER_BOUND in bounds
            },
            sources=tuple(content.sources),
            **{name: getattr(content, name) for name in FIELDS},
        )


def _checked(plain: Any) -> _AnchorFile:
    """The content of a file, from plain values; raises AnchorFileError."""
    try:
        content = msgspec.convert(plain, _AnchorFile)
        if content.resize:
            parse_resize(content.resize)
    except msgspec.ValidationError as error:
        raise AnchorFileError(f"not an anchors file: {str(error).replace('`', '')}") from None
    except ResizeError as error:
        raise AnchorFileError(str(error)) from None
    if content.format != FORMAT:
        raise AnchorFileError(f"format {content.format}, this version reads format {FORMAT}")
    check_levels(content.levels, AnchorFileError)
    return content


def check_levels(levels: Sequence[AnchorLevel], error: Callable[[str], Exception]) -> None:
    """Raise an error unless there is a level, each has a shape, and strides differ and rise."""
    if empty := [level.name for level in levels if not level.shapes]:
        raise error(f"level {empty[0]} has no shapes")
    strides = [level.stride for level in levels]
    if not strides or strides != sorted(set(strides)):
        raise error(f"need levels of different strides, fine to coarse, got {strides}")


def level_name(stride: int) -> str:
    """The name of a level: P and log2 of the stride for a power of two, otherwise the stride itself.

    >>> level_name(8), level_name(12)
    ('P3', 'stride12')

    Raises:
        ValueError: the stride is not a whole number of pixels, such as a pair for x and y.
    """
    if not isinstance(stride, Integral):
        raise ValueError(f"a level has one stride for both axes, a whole number of pixels, got {stride!r}")
    return f"P{stride.bit_length() - 1}" if stride & (stride - 1) == 0 else f"stride{stride}"


def _rounded(extent: float) -> float:
    return float(f"{extent:.{DIGITS}g}")


class _Dumper(yaml.SafeDumper):
    """Block style, with lists of numbers on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flow_style = all(isinstance(item, int | float) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flow_style)


_Dumper.add_representer(tuple, _Dumper.represent_list)


def strides_of(levels: str) -> tuple[int, ...]:
    """Parse strides in pixels from ``p3-p7``, a list of levels, or a list of strides.

    >>> strides_of("p3-p7"), strides_of("p2,p4"), strides_of("7,14,28")
    ((8, 16, 32, 64, 128), (4, 16), (7, 14, 28))

    Raises:
        FitError: the text has none of these forms.
    """
    text = levels.lower().replace(" ", "")
    if span := re.fullmatch(r"p(\d{1,2})-p(\d{1,2})", text):
        numbers = range(int(span[1]), int(span[2]) + 1)
        strides = [2**number for number in numbers]
    else:
        fields = text.split(",")
        if not all(re.fullmatch(r"p\d{1,2}|\d{1,7}", part) for part in fields):
            raise FitError(f"levels {levels!r}: write p3-p7, p2,p4 or strides in pixels such as 8,16,32")
        strides = [2 ** int(part[1:]) if part[0] == "p" else int(part) for part in fields]
    if not strides or len(set(strides)) < len(strides) or not 1 <= min(strides) <= max(strides) <= 2**COARSEST_LEVEL:
        raise FitError(f"levels {levels!r}: need different strides from 1 to 2**{COARSEST_LEVEL}, fine to coarse")
    return tuple(sorted(strides))


def levels_of_shapes(shapes: Float64[ndarray, "n 2"], strides: Sequence[int]) -> Int64[ndarray, " n"]:
    """The index of the level for each shape, from fine to coarse.

    It is the coarsest level with sqrt(area) >= 4 strides and shorter side >= 2 strides; without one, the finest level.
    Dealing shapes out evenly by rank would put 20 pixel anchors on stride 16, and most boxes would fall between them.

    >>> levels_of_shapes(np.array([[20.0, 20.0], [70.0, 70.0], [800.0, 20.0]]), (8, 16, 32))
    array([0, 1, 0])
    """
    size = np.sqrt(shapes.prod(axis=1)) / SIZE_IN_STRIDES
    largest_stride = np.minimum(size, shapes.min(axis=1) / SHORT_SIDE_IN_STRIDES)
    return np.maximum(np.searchsorted(np.array(sorted(strides), float), largest_stride, side="right") - 1, 0)


def place_shapes(shapes: Float64[ndarray, "a 2"], strides: Sequence[int]) -> AnchorSet:
    """Make a set with each shape on the level of its size (:func:`levels_of_shapes`)."""
    return shapes_on_levels(shapes, levels_of_shapes(shapes, strides), sorted(strides))


def deal_by_rank(shapes: Float64[ndarray, "a 2"], strides: Sequence[int]) -> AnchorSet:
    """Make a set with the same number of shapes on every level, from small to large area, as YOLO's heads take them.

    Raises:
        FitError: the shapes cannot be dealt out evenly.

    >>> deal_by_rank(np.array([[90.0, 90.0], [10.0, 20.0], [60.0, 50.0], [8.0, 9.0]]), (8, 16)).levels[1].shapes
    [(60.0, 50.0), (90.0, 90.0)]
    """
    if not strides or not len(shapes) or len(shapes) % len(strides):
        raise FitError(f"{len(shapes)} shapes cannot be dealt out evenly over {len(strides)} levels")
    ordered = shapes[np.lexsort((shapes[:, 0], shapes.prod(axis=1)))]
    return AnchorSet.of(np.split(ordered, len(strides)), strides=sorted(strides))


def shapes_on_levels(
    shapes: Float64[ndarray, "a 2"], level_of: Int64[ndarray, " a"], strides: Sequence[int], **fields: Any
) -> AnchorSet:
    """Make a set with each shape on the level of this index; levels without shapes are left out."""
    used = np.unique(level_of).tolist()
    groups = [shapes[level_of == level] for level in used]
    return AnchorSet.of(groups, strides=[strides[level] for level in used], **fields)
