"""Peaks of maps larger than memory, read in tiles: the points of :func:`detect.keypoints.peaks.find_peaks`, bit for bit.

Each tile is read with a margin of ``MARGIN`` cells, so that every cell of it sees all that decides whether it is a maximum
and where its point lies; each cell is examined in one tile alone. What reaches farther is decided after the last tile, over
the whole map: plateaus are joined across seams, whatever their area, then maxima suppress and limit each other as in a map
in memory. The cells that locate a maximum wait in a temporary file. Memory is that of a tile and of the maxima.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import IO, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from detect.data.coco_reader import Progress
from detect.keypoints.coordinates import Stride
from detect.keypoints.local_maxima import LocalMaxima, MarkedCells, cells_at, over_neighbours, run_edges
from detect.keypoints.peaks import FARTHEST, Peaks, peaks_of, select_maxima
from detect.keypoints.subpixel import SHARE, fit_in_chunks, fit_windows
from detect.ops.array_kinds import of_axes
from detect.ops.boxes import widened

MARGIN = math.ceil(FARTHEST) + 1  # cells around a tile: a maximum as far away limits a fit, and has neighbours
CELLS_AT_ONCE = 2**22
WINDOWS_AT_ONCE = 2**12

Window = tuple[slice, ...]
"""A part of a map along its axes, [z,] y, x."""
Read = Callable[[Window], Tensor]


@runtime_checkable
class Journal(Protocol):
    """Results of finished tiles by their number: a dictionary, or a file that outlives the process."""

    def __contains__(self, number: object) -> bool: ...

    def __getitem__(self, number: int) -> dict[str, ndarray]: ...

    def __setitem__(self, number: int, arrays: dict[str, ndarray]) -> None: ...


def find_tiled_peaks(
    read: Read,
    extents: Sequence[int],
    *,
    num_types: int = 1,
    tile: Sequence[int] | None = None,
    threshold: float = 0.1,
    min_distance: float = 2.0,
    spacing: Stride = 1.0,
    max_peaks: int | None = None,
    journal: Journal | None = None,
    on_progress: Progress | None = None,
) -> Peaks:
    """Find the points of one map or volume of each keypoint type, reading one tile after the other.

    Points, scores, covariance and order are those of ``find_peaks``; only ``cells`` are in float64, since float32 is
    .004 cells wide at 50,000. With ``min_distance`` above 2 cells, all maxima down to a fifth of the threshold are kept in
    memory, 40 bytes each.

    >>> y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    >>> maps = torch.exp(-((x - 24.6) ** 2 + (y - 20.2) ** 2) / 8)[None]
    >>> find_tiled_peaks(lambda window: maps[(slice(None), *window)], (40, 50), tile=(16, 25)).cells
    tensor([[24.6000, 20.2000]], dtype=torch.float64)

    Args:
        read: returns the values (j, *cells) of a window of the maps, floats from 0 to 1; the same each time.
        extents: of the maps, [z,] y, x.
        num_types: keypoint types, the maps that ``read`` returns.
        tile: extents of a tile, without its margin; by default about four million cells. They do not change the points.
        journal: tiles that are done, by number: what it holds is not read again, and what is new is added.

    The other arguments are those of ``find_peaks``. There is no ``split``: close points move each other along chains, so
    that no margin gives every tile the points of the whole map.

    Raises:
        ValueError: an option is out of range, or ``read`` returns another shape.
    """
    _check(extents, tile, min_distance, max_peaks)
    prunes = min_distance <= 2 * of_axes("spacing", spacing, len(extents)).min()
    tiles = _Tiles(read, tuple(extents), num_types, tuple(tile or default_tile(extents)), threshold, bool(prunes))
    with TemporaryFile() as file:
        store = _Windows(file, tiles, [], [])
        cells = [MarkedCells.of(torch.zeros(num_types, *[1] * len(extents)), math.inf)]
        for number in range(len(tiles)):
            is_known = journal is not None and number in journal
            cells.append(store.add(_examined(tiles, number, journal)))
            if on_progress and not is_known:
                on_progress("finding points", number + 1, len(tiles))
        every = _joined(cells, tiles.extents[-1]).maxima(tiles.extents)
        maxima = select_maxima(every, threshold, min_distance=min_distance, spacing=spacing, max_peaks=max_peaks)
        refined = fit_in_chunks(store.of(maxima), maxima, tiles.extents)
    return replace(peaks_of(maxima, refined, 1, num_types), cells=refined.points)


def default_tile(extents: Sequence[int], multiple: int = 1) -> list[int]:
    """Extents of a tile of about ``CELLS_AT_ONCE`` cells, multiples of a number, as near to a cube as the map is.

    >>> default_tile((40, 100_000, 100_000))
    [40, 323, 324]
    """
    left, cells, sizes = len(extents), float(CELLS_AT_ONCE), dict[int, int]()
    for axis in sorted(range(len(extents)), key=lambda axis: extents[axis]):
        side = int(cells ** (1 / left) + 1e-6)
        sizes[axis] = min(extents[axis], max(multiple, side // multiple * multiple))
        left, cells = left - 1, cells / sizes[axis]
    return [sizes[axis] for axis in range(len(extents))]


@dataclass(frozen=True, eq=False)
class TileMaxima:
    """The marked cells of a tile, without its margin, as flat indices into the memory of whole maps.

    ``windows`` are the cells that locate its single maxima above the threshold, one row for each.
    """

    cells: MarkedCells
    windows: Float[Tensor, "n k"]

    def arrays(self) -> dict[str, ndarray]:
        return {name: each.cpu().numpy() for name, each in (*vars(self.cells).items(), ("windows", self.windows))}

    @classmethod
    def of_arrays(cls, arrays: dict[str, ndarray]) -> TileMaxima:
        tensors = {name: torch.from_numpy(each) for name, each in arrays.items()}
        return cls(windows=tensors.pop("windows"), cells=MarkedCells(**tensors))


@dataclass(frozen=True)
class _Tiles:
    """The tiles of maps, by number in the order of memory; ``prunes`` says that far lower maxima change nothing."""

    read: Read
    extents: tuple[int, ...]
    num_types: int
    size: tuple[int, ...]
    threshold: float
    prunes: bool

    def __len__(self) -> int:
        return math.prod(self._counts)

    @property
    def _counts(self) -> tuple[int, ...]:
        return tuple(-(-extent // size) for extent, size in zip(self.extents, self.size, strict=True))

    @property
    def floor(self) -> float:
        """Below it no maximum limits a fit; less for rounding, as in ``find_peaks``."""
        return min(self.threshold, 0.999 * SHARE * self.threshold)

    def core(self, number: int) -> Window:
        places = np.unravel_index(number, self._counts)
        along = zip(places, self.size, self.extents, strict=True)
        return tuple(slice(int(at) * size, min((int(at) + 1) * size, extent)) for at, size, extent in along)

    def numbers_of(self, at: Int64[Tensor, "n D"]) -> Int64[ndarray, " n"]:
        """The tiles of cells (x, y[, z])."""
        places = at.flip(1).cpu().numpy() // np.array(self.size)
        return np.ravel_multi_index(tuple(places.T), self._counts)

    def with_margin(self, number: int) -> tuple[Window, Tensor]:
        """A tile with its margin, cut at the border of the map, and the values."""
        along = zip(self.core(number), self.extents, strict=True)
        window = tuple(slice(max(own.start - MARGIN, 0), min(own.stop + MARGIN, extent)) for own, extent in along)
        values = self.read(window)
        wanted = (self.num_types, *(each.stop - each.start for each in window))
        if tuple(values.shape) != wanted or not values.is_floating_point():
            raise ValueError(f"a window of {wanted} floats was read as {tuple(values.shape)}, {values.dtype}")
        return window, values.contiguous()

    def keys(self, maxima: LocalMaxima) -> Int64[Tensor, " n"]:
        return _flat(maxima.map, maxima.at, self.extents)


def _examined(tiles: _Tiles, number: int, journal: Journal | None) -> TileMaxima:
    """The maxima of a tile, from the journal or now."""
    if journal is not None and number in journal:
        return TileMaxima.of_arrays(journal[number])
    found = _examine(tiles, number)
    if journal is not None:
        journal[number] = found.arrays()
    return found


def _examine(tiles: _Tiles, number: int) -> TileMaxima:
    window, values = tiles.with_margin(number)
    local, core = tuple(values.shape[1:]), tiles.core(number)
    start = torch.tensor([own.start for own in window[::-1]])
    low = torch.tensor([own.start for own in core[::-1]]) - start
    high = torch.tensor([own.stop for own in core[::-1]]) - start
    marked = MarkedCells.of(values, tiles.floor)

    def moved(keys: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
        at = cells_at(keys, local)
        return _flat(keys // math.prod(local), at + start, tiles.extents), ((at >= low) & (at < high)).all(dim=1)

    single, own = moved(marked.single)
    if tiles.prunes:
        own &= (marked.single_values > tiles.threshold) | _are_near(marked.single, values > tiles.threshold)
    is_point = own & (marked.single_values > tiles.threshold)
    ways_up, is_core = moved(marked.ways_up)
    first, last, kept = _cut_runs(marked, local, low, high)
    runs = moved(first)[0], moved(last)[0], marked.run_values[kept]
    cells = MarkedCells(single[own], marked.single_values[own], *runs, ways_up[is_core])
    return TileMaxima(cells, _windows(values, marked.single[is_point]))


def _windows(values: Float[Tensor, " j *cells"], keys: Int64[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """The cells that locate maxima, in the precision of their scores."""
    extents = tuple(values.shape[1:])
    at, none = cells_at(keys, extents), torch.zeros(len(keys))
    maxima = LocalMaxima(keys // math.prod(extents), at, at.double(), none, none)
    rows = torch.split(torch.arange(len(keys)), WINDOWS_AT_ONCE)
    return torch.cat([fit_windows(values, maxima.rows(own)).to(widened(values[:0]).dtype) for own in rows])


def _cut_runs(
    marked: MarkedCells, extents: tuple[int, ...], low: Int64[Tensor, " D"], high: Int64[Tensor, " D"]
) -> tuple[Int64[Tensor, " r"], Int64[Tensor, " r"], Bool[Tensor, " s"]]:
    """First and last cells of the parts of runs from ``low`` to below ``high``, and which runs have one."""
    first, last = cells_at(marked.first, extents), cells_at(marked.last, extents)
    kept = ((first[:, 1:] >= low[1:]) & (first[:, 1:] < high[1:])).all(dim=1)
    kept &= (last[:, 0] >= low[0]) & (first[:, 0] < high[0])
    begins = marked.first + (low[0] - first[:, 0]).clamp(min=0)
    ends = marked.last - (last[:, 0] - high[0] + 1).clamp(min=0)
    return begins[kept], ends[kept], kept


def _are_near(keys: Int64[Tensor, " n"], high: Bool[Tensor, " j *cells"]) -> Bool[Tensor, " n"]:
    """Whether a high cell is less than ``FARTHEST`` from each cell; also some that are farther, in blocks beside its own."""
    side, extents = math.ceil(FARTHEST), tuple(high.shape[1:])
    blocks = torch.zeros(len(high), *(-(-extent // side) for extent in extents), dtype=torch.uint8)
    number, *cells = high.nonzero().T
    blocks[(number, *(each // side for each in cells))] = 1
    at = cells_at(keys, extents).flip(1) // side
    near = over_neighbours(blocks, torch.maximum)
    return near[(keys // math.prod(extents), *at.T)].bool()


def _flat(number: Int64[Tensor, " n"], at: Int64[Tensor, "n D"], extents: tuple[int, ...]) -> Int64[Tensor, " n"]:
    """Flat indices of cells (x, y[, z]) into the memory of maps: the inverse of ``cells_at``."""
    for axis, extent in enumerate(extents):
        number = number * extent + at[:, len(extents) - 1 - axis]
    return number


def _joined(tiles: Sequence[MarkedCells], width: int) -> MarkedCells:
    """The marked cells of all tiles as those of one map: in order, with the parts of a run that a seam cuts as one."""
    columns = (torch.cat(column) for column in zip(*(vars(each).values() for each in tiles), strict=True))
    single, single_values, first, last, run_values, ways_up = columns
    single, by_place = single.sort()
    first, order = first.sort()
    last = last[order]
    starts, ends = run_edges(first, last, width)
    runs = first[starts], last[ends], run_values[order][starts]
    return MarkedCells(single, single_values[by_place], *runs, ways_up.sort().values)


@dataclass(frozen=True, eq=False)
class _Windows:
    """The cells that locate points, in a file, in the order of tiles; ``keys`` are those of their maxima."""

    file: IO[bytes]
    tiles: _Tiles
    keys: list[Int64[Tensor, " n"]]
    dtypes: list[np.dtype]

    def add(self, found: TileMaxima) -> MarkedCells:
        cells = found.cells
        self.keys.append(cells.single[cells.single_values > self.tiles.threshold])
        self._append(found.windows)
        return cells

    def _append(self, windows: Float[Tensor, "n k"]) -> None:
        values = windows.cpu().numpy()
        self.dtypes.append(values.dtype)
        self.file.write(values.tobytes())

    def of(self, maxima: LocalMaxima) -> Callable[[Int64[Tensor, " c"]], Float[Tensor, "c k"]]:
        """A function that returns the cells of some rows of the maxima; tiles with plateaus are read again."""
        wanted = self.tiles.keys(maxima)
        for number, keys in self._missing(maxima, wanted):
            window, values = self.tiles.with_margin(number)
            start = torch.tensor([each.start for each in window][::-1])
            at = cells_at(keys, self.tiles.extents) - start
            local = _flat(keys // math.prod(self.tiles.extents), at, tuple(values.shape[1:]))
            self.keys.append(keys)
            self._append(_windows(values, local))
        keys, order = torch.cat(self.keys).sort()
        rows = order[torch.searchsorted(keys, wanted)].numpy()
        if not len(rows):
            return lambda own: torch.zeros(len(own), math.prod([9] * len(self.tiles.extents)), dtype=torch.float64)
        self.file.flush()
        stored = np.memmap(self.file, self.dtypes[-1], "r").reshape(len(keys), -1)
        return lambda own: torch.from_numpy(stored[rows[own.numpy()]].astype(np.float64))

    def _missing(self, maxima: LocalMaxima, wanted: Int64[Tensor, " n"]) -> Iterator[tuple[int, Int64[Tensor, " k"]]]:
        """The maxima of which no tile has stored the cells, by the tile that holds them: those of plateaus."""
        missing = ~torch.isin(wanted, torch.cat(self.keys))
        keys, numbers = wanted[missing], self.tiles.numbers_of(maxima.at[missing])
        for number in np.unique(numbers).tolist():
            yield number, keys[torch.from_numpy(numbers == number)]


def _check(extents: Sequence[int], tile: Sequence[int] | None, min_distance: float, max_peaks: int | None) -> None:
    if len(extents) not in {2, 3} or min(extents) < 1:
        raise ValueError(f"maps have 2 axes and volumes 3, with cells, got {tuple(extents)}")
    if tile is not None and (len(tile) != len(extents) or min(tile) < 1):
        raise ValueError(f"a tile has the axes of the map {tuple(extents)}, from 1 cell, got {tuple(tile)}")
    if not 0 <= min_distance < float("inf") or (max_peaks is not None and max_peaks < 1):
        raise ValueError(f"need min_distance >= 0 and max_peaks >= 1 or None, got {min_distance=}, {max_peaks=}")
