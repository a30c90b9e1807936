"""Read anchors from a darknet ``.cfg``: the shapes of its ``[yolo]`` sections, or of the ``[region]`` section of YOLOv2."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detect.anchors.anchor_set import AnchorSet
from detect.errors import AnchorFileError

REGION_CELL_PX = 32
COARSEST_STRIDE = 32  # of a part of a file, which does not say how far the maps are downsampled
MOST_FROM_COARSEST = 3  # levels; models with more have coarser ones, from stride 8 on

Shapes = list[tuple[float, float]]


@dataclass(frozen=True)
class _Section:
    name: str
    fields: Mapping[str, str]

    def numbers(self, key: str) -> list[float]:
        """The comma list of a field; an empty one where there is none."""
        parts = [part for part in re.split(r"[,\s]+", self.fields.get(key, "")) if part]
        try:
            return [float(part) for part in parts]
        except ValueError:
            raise AnchorFileError(f"[{self.name}] {key} is not a list of numbers") from None

    def whole(self, key: str, default: int) -> int:
        values = self.numbers(key) or [float(default)]
        if not all(value.is_integer() and abs(value) < 2**20 for value in values):
            raise AnchorFileError(f"[{self.name}] {key} is not a whole number")
        return int(values[0])

    @property
    def shapes(self) -> Shapes:
        values = self.numbers("anchors")
        if not values or len(values) % 2:
            raise AnchorFileError(f"[{self.name}] anchors: {len(values)} numbers, not pairs of width and height")
        return list(zip(values[::2], values[1::2], strict=True))


def parse_darknet(text: str) -> AnchorSet:
    """The anchors of a file, or of a part of one with its ``[yolo]`` or ``[region]`` sections.

    Raises:
        AnchorFileError: a section's anchors, mask or size is missing or wrong.

    >>> parse_darknet("[net]\\nwidth=416\\nheight=416\\n[region]\\nanchors = 1,2, 3,4\\nnum=2").resize
    'stretch:416x416'
    """
    sections = _sections(text)
    net = next((each for each in sections if each.name in ("net", "network")), _Section("net", {}))
    width, height = net.whole("width", 0), net.whole("height", 0)
    resize = f"stretch:{width}x{height}" if width > 0 and height > 0 else ""
    regions = [each for each in sections if each.name == "region"]
    if regions:
        cells = regions[-1].shapes
        return AnchorSet.of(
            [[(w * REGION_CELL_PX, h * REGION_CELL_PX) for w, h in cells]], strides=[REGION_CELL_PX], resize=resize
        )
    levels = [_own_shapes(each) for each in sections if each.name == "yolo"]
    strides = _strides_of_heads(sections)
    assumed: tuple[str, ...] = ()
    if strides is None:
        levels.sort(key=lambda level: sum(w * h for w, h in level) / max(len(level), 1))
        strides = [max(COARSEST_STRIDE >> number, 1) for number in range(len(levels))][::-1]
        if len(levels) > MOST_FROM_COARSEST:
            strides = [8 << number for number in range(len(levels))]
        assumed = (f"strides {', '.join(map(str, strides))}, by the number of [yolo] sections",)
    return AnchorSet.of(levels, strides=strides, resize=resize, assumed=assumed)


def _sections(text: str) -> list[_Section]:
    sections: list[tuple[str, dict[str, str]]] = []
    for line in map(str.strip, text.splitlines()):
        if header := re.fullmatch(r"\[(\w+)\]", line):
            sections.append((header[1], {}))
        elif sections and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            sections[-1][1][key.strip()] = value.strip()
    return [_Section(name, fields) for name, fields in sections]


def _own_shapes(section: _Section) -> Shapes:
    """The shapes of a section's mask; all of them without one."""
    shapes, mask = section.shapes, section.numbers("mask")
    if not mask:
        return shapes
    if not all(index.is_integer() and 0 <= index < len(shapes) for index in mask):
        raise AnchorFileError(f"[yolo] mask {section.fields['mask']} is not of its {len(shapes)} anchors")
    return [shapes[int(index)] for index in mask]


def _strides_of_heads(sections: Sequence[_Section]) -> list[int] | None:
    """The stride of the map before each ``[yolo]`` section, following the layers; None if the layers are not there."""
    if not any(each.name == "convolutional" for each in sections):
        return None
    strides: list[float] = []
    heads: list[int] = []
    for section in (each for each in sections if each.name not in ("net", "network")):
        stride = strides[-1] if strides else 1.0
        if section.name == "yolo":
            heads.append(int(stride))
        elif section.name == "route":
            stride = _route(section, strides)
        elif section.name == "upsample":
            stride /= max(section.whole("stride", 2), 1)
        elif section.name in ("convolutional", "maxpool", "reorg"):
            stride *= max(section.whole("stride", 1), 1)
        strides.append(min(stride, 2.0**20))
    return heads


def _route(section: _Section, strides: Sequence[float]) -> float:
    layer = section.whole("layers", -1)
    index = layer if layer >= 0 else len(strides) + layer
    if not 0 <= index < len(strides):
        raise AnchorFileError(f"[route] layers={section.fields['layers']}: there is no such layer before it")
    return strides[index]
