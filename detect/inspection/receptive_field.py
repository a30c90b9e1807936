"""Receptive fields of a network's maps, in pixels: what each unit can see, whatever the weights.

The network runs once on an image without data (torch's fake tensors), and the intervals of rows and columns that elements
depend on follow each operator as it is called. So any network that runs can be read, also one that torch.export and FX
cannot trace, and branches, concatenations and pyramids need no care: where paths meet, the field is their hull.

A unit's field depends on its place if maps are upsampled, and ends at the image's border; figures are of units whose field
does not reach the border, and the largest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from detect.errors import ConfigError
from detect.inspection.field_arrays import EMPTY, Fields, merged
from detect.inspection.field_rules import Call, apply_rule, sees_along
from detect.inspection.layers import first_line
from detect.inspection.models import NamedMaps

SIZES_PX = (512, 1024, 2048, 4096)  # of the images that are tried
INTERIOR_PX = 64  # of units whose field does not reach the border: as many as two cells of C5, so that all phases occur


class Reach(NamedTuple):
    """The pixels of an axis that each unit of a map sees: rows or columns from ``first`` to ``last``; none is (-1, -1)."""

    first: list[int]
    last: list[int]


@dataclass(frozen=True)
class MapField:
    """The receptive field of a map, in pixels as (height, width).

    ``size`` is the largest field of a unit away from the border, without branches that see the whole image; ``shortest`` is
    that of the path with the smallest. Unit (i, j) has its centre at ``offset`` + (i, j) ``stride``, where 0 is the upper or
    left edge of the image. ``sees_all`` says whether units also depend on the whole image, as by squeeze-and-excitation.
    """

    name: str
    map_hw: tuple[int, int]
    channels: int
    stride: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]
    shortest: tuple[int, int]
    sees_all: bool
    clipped: bool = False
    """Whether too few units have fields that do not reach the border: figures are then of all units."""

    @property
    def overlap(self) -> float:
        """The share of a field that the neighbouring unit's field covers."""
        return max(0.0, 1 - self.stride[0] / self.size[0]) if self.size[0] else 0.0

    @property
    def units_apart(self) -> float:
        """The spatial scale: by how many units two must differ so that they share no pixel."""
        return self.size[0] / self.stride[0]


@dataclass(frozen=True, eq=False)
class TrackedMaps:
    """The fields of every unit of a network's maps for one size of image, and what was met on the way."""

    fields: dict[str, Fields]
    image_hw: tuple[int, int]
    whole: tuple[str, ...]  # operators that see the whole image
    unknown: tuple[str, ...]  # operators without a rule, taken to see the whole image

    def reach(self, name: str, axis: int, reading: str = "full") -> Reach:
        """What the units of a map see along rows (0) or columns (1), over all channels."""
        first = {"full": 0, "local": 4, "shortest": 8}[reading] + 2 * axis
        low, high = (_line(self.fields[name], plane, axis) for plane in (first, first + 1))
        found = low < EMPTY
        return Reach(torch.where(found, low, -1).tolist(), torch.where(found, -high, -1).tolist())


class FieldTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the fields of an image's pixels through the operators that run below it."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[int, tuple[Any, Fields]] = {}
        self.whole: list[str] = []
        self.unknown: list[str] = []
        with _disable_current_modes():
            self._set(images, Fields.of_image(tuple(images.shape)))

    def of(self, tensor: Any) -> Fields | None:
        """The fields of a tensor; None if it does not depend on the image."""
        found = self.known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(self.of(each) is not None for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)):
            with _disable_current_modes():
                self._follow(func, args, kwargs, result)
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if name in SPLITS:
            self._follow_split(args, outputs, kwargs)
            return
        for number, output in enumerate(outputs):
            shape = tuple(output.shape)
            if number and shape != tuple(outputs[0].shape):
                continue  # statistics and states, which nothing reads
            call = Call(func, args, kwargs, self.of, shape)
            fields, known = apply_rule(call)
            if not known:
                self.unknown.append(name)
            if sees_along(func) and fields.sees_all and not all(each.sees_all for each in call.operands()):
                self.whole.append(name)
            before = self.of(output) if name.endswith("_") else None
            self._set(output, fields)
            if name.endswith("_") and output._is_view():
                self._write_through(output, before, fields)

    def _write_through(self, view: Tensor, before: Fields | None, fields: Fields) -> None:
        """Update the tensor behind a view that was written to: each of its elements may now see what was written."""
        pairs = zip(before.planes, fields.planes, strict=True) if before else []
        if before and all(one.shape == other.shape and bool((one == other).all()) for one, other in pairs):
            return
        whole, base = fields.reduced(range(len(fields.shape))).viewed(()), view._base
        if base is not None:
            own = self.of(base)
            self._set(base, merged([own, whole] if own else [whole], tuple(base.shape)))

    def _follow_split(self, args: Any, outputs: Sequence[Tensor], kwargs: Any) -> None:
        found = self.of(args[0])
        if found is None:
            return
        dim = kwargs.get("dim", args[-1] if len(args) > 2 else 0)
        is_unbind = outputs and outputs[0].ndim < len(found.shape)
        dim = (args[1] if len(args) > 1 else 0) if is_unbind else dim
        dim %= len(found.shape)
        start, full = 0, found.expanded([dim])
        for output in outputs:
            size = 1 if is_unbind else output.shape[dim]
            shape = tuple(size if axis == dim else n for axis, n in enumerate(found.shape))
            part = full.moved(shape, lambda plane, start=start, size=size: plane.narrow(dim, start, size))  # type: ignore[misc]
            self._set(output, part.viewed(tuple(output.shape)))
            start += size

    def _set(self, tensor: Tensor, fields: Fields) -> None:
        key = id(tensor)
        self.known[key] = (ref(tensor, lambda dead: self._forget(key, dead)), fields)

    def _forget(self, key: int, dead: Any) -> None:
        """Free the fields of a tensor that is gone, unless another one has its place."""
        if key in self.known and self.known[key][0] is dead:
            del self.known[key]


SPLITS = {"split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes", "chunk"}


def track_maps(maps: NamedMaps, image_hw: tuple[int, int]) -> TrackedMaps:
    """The fields of all units of a network's maps for images of this size.

    Raises:
        ConfigError: the network does not take images of this size.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        images = maps.blank(*image_hw)
        tracker = FieldTracker(images)
        try:
            with tracker:
                outputs = maps(images)
        except Exception as error:
            size = f"{image_hw[1]} x {image_hw[0]}"
            raise ConfigError(f"the model fails on an image of {size}: {first_line(error)}") from None
        found = {name: tracker.of(cells) for name, cells in outputs.items()}
    if missing := [name for name, fields in found.items() if fields is None]:
        raise ConfigError(f"map {missing[0]!r} does not depend on the image")
    fields = {name: each for name, each in found.items() if each is not None}
    return TrackedMaps(fields, image_hw, tuple(dict.fromkeys(tracker.whole)), tuple(dict.fromkeys(tracker.unknown)))


def receptive_fields(maps: NamedMaps, *, size: int | None = None) -> tuple[list[MapField], TrackedMaps]:
    """The receptive field of each map, and the fields of all units that they are from.

    >>> from torch import nn
    >>> from detect.inspection.models import Tap
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1))
    >>> [field], _ = receptive_fields(NamedMaps(net, [Tap(("",), "{}", "C")]))
    >>> field.name, field.size, field.stride, field.offset
    ('C2', (11, 11), (4.0, 4.0), (0.5, 0.5))

    ``size`` is that of the square image in pixels, by default so large that fields do not reach its border.

    Raises:
        ConfigError: the network does not take such images.
    """
    if size is None and maps.fixed_size:
        size = maps.probe_px
    for side in [size] if size else SIZES_PX:
        tracked = track_maps(maps, (side, side))
        found = [_map_field(tracked, name) for name in tracked.fields]
        if not any(each.clipped for each in found):
            break
    return found, tracked


def _map_field(tracked: TrackedMaps, name: str) -> MapField:
    fields = tracked.fields[name]
    sizes, offsets, strides, shortest, clipped = zip(*(_axis(tracked, name, axis) for axis in range(2)), strict=True)
    return MapField(
        name=name,
        map_hw=(fields.shape[-2], fields.shape[-1]),
        channels=fields.shape[1],
        stride=strides,
        offset=offsets,
        size=sizes,
        shortest=shortest,
        sees_all=fields.sees_all,
        clipped=any(clipped),
    )


def _axis(tracked: TrackedMaps, name: str, axis: int) -> tuple[int, float, float, int, bool]:
    """Size, offset, stride and shortest path along an axis, and whether all fields reach the border."""
    n, units = tracked.image_hw[axis], tracked.fields[name].shape[-2 + axis]
    reach, stride = tracked.reach(name, axis, "local"), n / units
    inside = [i for i in range(units) if reach.first[i] > 0 and reach.last[i] < n - 1]
    clipped = not inside or (inside[-1] - inside[0] + 1) * stride < INTERIOR_PX
    if clipped:
        inside = [i for i in range(units) if reach.first[i] >= 0]
    if not inside:  # units that see the whole image alone
        return 0, stride / 2, stride, 0, False
    centers = [(reach.first[i] + reach.last[i] + 1) / 2 - i * stride for i in inside]
    short = tracked.reach(name, axis, "shortest")
    size = max(reach.last[i] - reach.first[i] + 1 for i in inside)
    offset = (min(centers) + max(centers)) / 2
    return size, offset, stride, max(short.last[i] - short.first[i] + 1 for i in inside), clipped


def _line(fields: Fields, index: int, axis: int) -> Tensor:
    """A plane along one axis of a map, the hull over channels and over the other axis, from border to border."""
    plane = fields.planes[index]
    others = [dim for dim in range(plane.ndim) if dim != plane.ndim - 2 + axis]
    return plane.amin(others).expand(fields.shape[-2 + axis])
