"""Read the anchor generator of an mmdetection config, as literals: nothing of the file is run.

The file is a whole config or a part of one. Names stand for the literals that the file gives them at its top level; the
files of ``_base_`` are not read.
"""

from __future__ import annotations

import ast
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detect.anchors.anchor_set import CENTER_OF_CELL, AnchorSet
from detect.errors import AnchorFileError

KEY = "anchor_generator"
MOST_SCALES = 1000
# SSDAnchorGenerator: input size, first ratio of basesize_ratio_range -> sizes of the first level in percent
FIRST_SIZES = {(300, 0.15): (7, 15), (300, 0.2): (10, 20), (512, 0.1): (4, 10), (512, 0.15): (7, 15)}

Shapes = list[tuple[float, float]]
Fields = Mapping[str, Any]


def parse_mmdet(text: str) -> AnchorSet:
    """The anchors of the only ``anchor_generator`` of a config.

    Raises:
        AnchorFileError: there is none or there are several, or it is not made of literals.

    >>> parse_mmdet("anchor_generator=dict(type='YOLOAnchorGenerator', base_sizes=[[(10, 13)]], strides=[8])").shapes
    array([[10., 13.]])
    """
    tree = _tree(text)
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found: list[Fields] = []
    for node in _generators(tree):
        if (own := _fields(node, constants)) not in found:
            found.append(own)
    if len(found) != 1:
        many = f"{len(found)} different {KEY}s" if found else f"no {KEY}"
        raise AnchorFileError(f"{many} in it; files of _base_ are not read")
    (fields,) = found
    kind = str(fields.get("type", "")).rpartition(".")[2]
    if not kind:
        raise AnchorFileError(f"{KEY} without a type; files of _base_ are not read")
    if kind not in KINDS:
        raise AnchorFileError(f"{KEY} of type {kind} is not one of {', '.join(KINDS)}")
    try:
        return KINDS[kind](fields)
    except KeyError as error:
        raise AnchorFileError(f"{kind} without {error.args[0]}") from None
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise AnchorFileError(f"{kind}: {error}") from None


def _tree(text: str) -> ast.Module:
    """The syntax tree of a file, or of arguments such as ``anchor_generator=dict(...),``."""
    for source in (text, textwrap.dedent(text), f"dict(\n{text}\n)"):
        if tree := _parsed(source):
            return tree
    raise AnchorFileError(f"no Python with an {KEY}")


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _generators(tree: ast.Module) -> Iterator[ast.expr]:
    """The values of all keywords, keys and names ``anchor_generator``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == KEY:
            yield node.value
        elif isinstance(node, ast.Dict):
            yield from (
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == KEY
            )
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == KEY:
            yield node.value.elts[0] if isinstance(node.value, ast.Tuple) and node.value.elts else node.value


def _fields(node: ast.expr, constants: Mapping[str, ast.expr]) -> dict[str, Any]:
    """The arguments of a ``dict(...)`` or ``{...}`` as Python values."""
    if isinstance(node, ast.Name) and node.id in constants:
        node = constants[node.id]
    pairs: list[tuple[str, ast.expr]] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        pairs = [(each.arg or "**", each.value) for each in node.keywords]
    elif isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else "**" for key in node.keys]
        pairs = list(zip(map(str, keys), node.values, strict=True))
    else:
        raise AnchorFileError(f"{KEY} in line {node.lineno} is no dict of literals, as mmdetection has it")
    return {name: _literal(name, value, constants) for name, value in pairs}


def _literal(name: str, node: ast.expr, constants: Mapping[str, ast.expr]) -> Any:
    if isinstance(node, ast.Name):
        node = constants.get(node.id, node)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise AnchorFileError(f"{KEY}: {name} in line {node.lineno} is not written in numbers") from None


def _anchor_generator(fields: Fields) -> AnchorSet:
    """Sizes in strides (``scales``, or octaves) by ratios, height / width; ratios vary slower unless not scale_major."""
    strides = _strides(fields)
    bases = [float(base) for base in fields.get("base_sizes") or strides]
    scales = fields.get("scales")
    if scales is None:
        per_octave = int(fields["scales_per_octave"])
        if not 1 <= per_octave <= MOST_SCALES:
            raise ValueError(f"scales_per_octave={per_octave}")
        scales = [fields["octave_base_scale"] * 2 ** (i / per_octave) for i in range(per_octave)]
    if fields.get("centers") is not None:
        raise ValueError("centers are not read")
    roots = [math.sqrt(ratio) for ratio in fields["ratios"]]
    if fields.get("scale_major", True):
        factors = [(scale / root, scale * root) for root in roots for scale in scales]
    else:
        factors = [(scale / root, scale * root) for scale in scales for root in roots]
    levels = [[(base * x, base * y) for x, y in factors] for base in bases]
    return _set(levels, strides, center_offset=float(fields.get("center_offset", 0)))


def _yolo_generator(fields: Fields) -> AnchorSet:
    levels = [[(float(w), float(h)) for w, h in level] for level in fields["base_sizes"]]
    return _set(levels, _strides(fields))


def _ssd_generator(fields: Fields) -> AnchorSet:
    """A square, the geometric mean of it and the next, and each ratio and its inverse."""
    strides = _strides(fields)
    size = int(fields.get("input_size", 300))
    smaller, larger = fields.get("min_sizes"), fields.get("max_sizes")
    if smaller is None or larger is None:
        smaller, larger = _ssd_sizes(fields.get("basesize_ratio_range", (0.15, 0.9)), size, len(strides))
    levels: list[Shapes] = []
    for own, following, ratios in zip(smaller, larger, fields["ratios"], strict=True):
        level = [(float(own), float(own)), (math.sqrt(own * following),) * 2]
        for root in map(math.sqrt, ratios):
            level += [(own * root, own / root), (own / root, own * root)]
        levels.append(level)
    resize = f"stretch:{size}x{size}" if "input_size" in fields else ""
    return _set(levels, strides, resize=resize)


def _ssd_sizes(ratio_range: Sequence[float], size: int, num_levels: int) -> tuple[list[int], list[int]]:
    """The sizes that SSDAnchorGenerator makes from a range of ratios to the input (mmdetection 3.3.0)."""
    first = FIRST_SIZES.get((size, ratio_range[0]))
    if first is None:
        raise ValueError(
            f"basesize_ratio_range {tuple(ratio_range)} for an input of {size} is not one of mmdetection's"
        )
    low, high = int(ratio_range[0] * 100), int(ratio_range[1] * 100)
    step = (high - low) // (num_levels - 2)
    percents = [first, *((each, each + step) for each in range(low, high + 1, step))]
    return [int(size * low / 100) for low, _ in percents], [int(size * high / 100) for _, high in percents]


def _set(
    levels: list[Shapes], strides: list[int], *, resize: str = "", center_offset: float = CENTER_OF_CELL
) -> AnchorSet:
    if len(levels) != len(strides):
        raise ValueError(f"{len(levels)} levels of shapes for {len(strides)} strides")
    return AnchorSet.of(levels, strides=strides, resize=resize, center_offset=center_offset)


def _strides(fields: Fields) -> list[int]:
    strides = [
        each[0] if isinstance(each, list | tuple) and len(set(each)) == 1 else each for each in fields["strides"]
    ]
    if not all(isinstance(stride, int) and stride > 0 for stride in strides):
        raise ValueError(f"strides {fields['strides']} are not whole numbers")
    return strides


KINDS = {
    "AnchorGenerator": _anchor_generator,
    "YOLOAnchorGenerator": _yolo_generator,
    "SSDAnchorGenerator": _ssd_generator,
}
