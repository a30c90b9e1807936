"""Receptive fields of all elements of a tensor, and how operators change them.

A field is an interval of rows and one of columns of the image. It is kept for three readings of the network: all that an
element depends on, the same without branches that see the whole image (``local``), and the smallest field of any path from
image to element (``shortest``). A plane holds one end of the intervals, with size 1 along axes on which it does not
change; upper ends are negated, so that the hull of two intervals is a minimum in every plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY = 1 << 24  # the lower end, and the negated upper end, of no interval
READINGS = ("full", "local", "shortest")
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Fields:
    """The planes of a tensor of this shape: reading by reading, each (top, -bottom, left, -right)."""

    shape: Shape
    planes: tuple[Tensor, ...]
    image_hw: tuple[int, int]

    @classmethod
    def of_image(cls, shape: Shape) -> Fields:
        """Every pixel of a batch of images (b, d, h, w) sees itself."""
        height, width = shape[-2:]
        rows = torch.arange(height, dtype=torch.int32).reshape(1, 1, -1, 1)
        columns = torch.arange(width, dtype=torch.int32).reshape(1, 1, 1, -1)
        return cls(shape, (rows, -rows, columns, -columns) * len(READINGS), (height, width))

    def moved(self, shape: Shape, move: Callable[[Tensor], Tensor]) -> Fields:
        """The fields after each plane was moved as the elements were."""
        return Fields(shape, tuple(_compressed(move(plane)) for plane in self.planes), self.image_hw)

    def expanded(self, dims: Sequence[int]) -> Fields:
        """The same fields with the full size along these axes."""
        sizes = [[n if dim in dims else -1 for dim, n in enumerate(self.shape)]] * len(self.planes)
        planes = tuple(plane.expand(size) for plane, size in zip(self.planes, sizes, strict=True))
        return Fields(self.shape, planes, self.image_hw)

    def viewed(self, shape: Shape) -> Fields:
        """The fields of a view: only axes that are split or joined are expanded, if the fields change along them."""
        return Fields(shape, tuple(_viewed(plane, self.shape, shape) for plane in self.planes), self.image_hw)

    def windows(self, dim: int, table: Tensor) -> Fields:
        """The hulls of windows along an axis: ``table`` (outputs, elements) has their indices, or the size for none."""
        shape = (*self.shape[:dim], len(table), *self.shape[dim + 1 :])
        if all(plane.shape[dim] == 1 for plane in self.planes) and self.shape[dim] > 1:
            return Fields(shape, self.planes, self.image_hw)

        def hull(plane: Tensor) -> Tensor:
            if plane.shape[dim] == 1 and self.shape[dim] > 1:
                return plane
            none = plane.new_full([1 if axis == dim else n for axis, n in enumerate(plane.shape)], EMPTY)
            rows = torch.cat([plane, none], dim).index_select(dim, table.flatten())
            return rows.reshape(*rows.shape[:dim], *table.shape, *rows.shape[dim + 1 :]).amin(dim + 1)

        return Fields(shape, tuple(map(hull, self.planes)), self.image_hw)

    def reduced(self, dims: Sequence[int], *, whole: bool = False) -> Fields:
        """The hulls along axes, which keep size 1; the shortest path takes the smallest field instead.

        With ``whole``, the local reading of a hull that is the whole image is empty.
        """
        shape = tuple(1 if dim in dims else n for dim, n in enumerate(self.shape))
        planes = [plane.amin(tuple(dims), keepdim=True) for plane in self.planes]
        if whole:
            return Fields(shape, tuple(planes), self.image_hw).without_whole()
        smallest = (_smallest(self.planes[first], self.planes[first + 1], dims) for first in (8, 10))
        return Fields(shape, (*planes[:8], *(plane for pair in smallest for plane in pair)), self.image_hw)

    def without_whole(self) -> Fields:
        """The fields whose local and shortest readings are empty where they are all rows or all columns of the image."""
        height, width = self.image_hw
        planes = list(self.planes[:4])
        for first in (4, 8):
            top, bottom, left, right = self.planes[first : first + 4]
            whole = ((top <= 0) & (-bottom >= height - 1)) | ((left <= 0) & (-right >= width - 1))
            if bool(whole.any()):
                planes += [torch.where(whole, EMPTY, plane) for plane in (top, bottom, left, right)]
            else:
                planes += [top, bottom, left, right]
        return Fields(self.shape, tuple(planes), self.image_hw)

    @property
    def sees_all(self) -> bool:
        """Whether every element depends on the whole image."""
        height, width = self.image_hw
        top, bottom, left, right = self.planes[:4]
        return bool((top <= 0).all() & (-bottom >= height - 1).all() & (left <= 0).all() & (-right >= width - 1).all())


def merged(fields: Sequence[Fields], shape: Shape) -> Fields:
    """The hulls of the fields of several operands, broadcast to a shape; the shortest path takes the smallest."""
    result = list(_aligned(fields[0], shape))
    for other in fields[1:]:
        planes = _aligned(other, shape)
        for index in range(8):
            result[index] = torch.minimum(result[index], planes[index])
        for index in (8, 10):
            (low, high), (other_low, other_high) = result[index : index + 2], planes[index : index + 2]
            first = _size(low, high) <= _size(other_low, other_high)
            result[index] = torch.where(first, low, other_low)
            result[index + 1] = torch.where(first, high, other_high)
    return Fields(shape, tuple(result), fields[0].image_hw)


def window_table(n: int, outputs: int, *, kernel: int, stride: int, padding: int, dilation: int = 1) -> Tensor:
    """The indices that each output of a convolution or pooling reads, n for those in the padding.

    >>> window_table(4, 2, kernel=3, stride=2, padding=1)
    tensor([[4, 0, 1],
            [1, 2, 3]])
    """
    index = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return torch.where((index >= 0) & (index < n), index, n)


def transposed_table(n: int, outputs: int, *, kernel: int, stride: int, padding: int, dilation: int = 1) -> Tensor:
    """The indices that each output of a transposed convolution reads.

    >>> transposed_table(2, 4, kernel=3, stride=2, padding=1)  # outputs 0 and 2 read one element, output 1 two
    tensor([[2, 0, 2],
            [1, 2, 0],
            [2, 1, 2],
            [2, 2, 1]])
    """
    place = torch.arange(outputs)[:, None] + padding - torch.arange(kernel) * dilation
    index = torch.div(place, stride, rounding_mode="floor")
    return torch.where((place % stride == 0) & (index >= 0) & (index < n), index, n)


def adaptive_table(n: int, outputs: int) -> Tensor:
    """The indices that each output of an adaptive pooling reads.

    >>> adaptive_table(5, 2)
    tensor([[0, 1, 2],
            [2, 3, 4]])
    """
    starts = [i * n // outputs for i in range(outputs)]
    ends = [-(-(i + 1) * n // outputs) for i in range(outputs)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    index = torch.tensor(starts)[:, None] + torch.arange(longest)
    return torch.where(index < torch.tensor(ends)[:, None], index, n)


def weight_table(weights: Tensor) -> Tensor:
    """The indices with a weight other than 0 of each output; ``weights`` are (inputs, outputs).

    >>> weight_table(torch.tensor([[1.0, 0.5, 0], [0, 0.5, 1.0]]))
    tensor([[0, 2],
            [0, 1],
            [1, 2]])
    """
    used = (weights != 0).T.to(torch.int32)
    most = max(1, int(used.sum(dim=1).max()))
    found = used.topk(most, dim=1)
    index = torch.where(found.values > 0, found.indices, len(weights))
    return index.sort(dim=1).values


def _smallest(low: Tensor, high: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Both ends of the smallest interval along axes, which keep size 1."""
    low, high = torch.broadcast_tensors(low, high)  # type: ignore[no-untyped-call]
    for dim in dims:
        best = _size(low, high).argmin(dim, keepdim=True)
        low, high = low.gather(dim, best), high.gather(dim, best)
    return low, high


def _size(low: Tensor, high: Tensor) -> Tensor:
    return torch.where(low >= EMPTY, EMPTY, -(low + high))


def _aligned(fields: Fields, shape: Shape) -> tuple[Tensor, ...]:
    missing = len(shape) - len(fields.shape)
    return tuple(plane.reshape((1,) * missing + tuple(plane.shape)) for plane in fields.planes)


def _compressed(plane: Tensor) -> Tensor:
    """The plane with size 1 along axes on which all its elements are one in memory."""
    for dim, (n, step) in enumerate(zip(plane.shape, plane.stride(), strict=True)):
        if n > 1 and step == 0:
            plane = plane.narrow(dim, 0, 1)
    return plane


def _viewed(plane: Tensor, before: Shape, after: Shape) -> Tensor:
    """A plane of a tensor that is reshaped, group by group of axes with equal numbers of elements."""
    expanded, result = [], []
    i = j = 0
    while i < len(before) or j < len(after):
        first_i, first_j, n, m = i, j, 1, 1
        while (n != m or (i == first_i and j == first_j)) and (i < len(before) or j < len(after)):
            if j >= len(after) or (i < len(before) and n <= m):
                n, i = n * before[i], i + 1
            else:
                m, j = m * after[j], j + 1
        own = plane.shape[first_i:i]
        constant = all(size == 1 for size in own)
        expanded += [1] * len(own) if constant else list(before[first_i:i])
        result += [1] * (j - first_j) if constant else list(after[first_j:j])
    return plane.expand(expanded).reshape(result)
