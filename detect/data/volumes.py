"""Maps, volumes and slides in files larger than memory: NumPy arrays, TIFF and OME-TIFF, zarr and OME-Zarr.

A file is opened without reading its pixels; a window of it is read when it is asked for. Axes are letters in the order of
the file: x and y, z for slices, c for channels or keypoint types (also s, TIFF's samples of a pixel). Sizes of a pixel are
in micrometres, along the axes for which the file states them in a unit of length.
"""

from __future__ import annotations

import logging
import math
import re
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy import ndarray

from detect.errors import ImageError, MissingExtraError
from detect.files import is_folder, open_regular

MICROMETRES = {"angstrom": 1e-4, "nanometer": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micron": 1.0, "microns": 1.0}
MICROMETRES |= {"um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "millimeter": 1e3, "mm": 1e3, "cm": 1e4}
CENTIMETRE = 3  # of a TIFF's ResolutionUnit; inches are a printer's, not the specimen's
PLAIN_AXES = {2: "yx", 3: "zyx", 4: "czyx"}
MAX_PIECE_BYTES = 2**29  # what is read at once to see a part of it: a chunk, or all of an .npz
SCALES = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """An array in a file, whose ``values`` are read when they are sliced. ``pieces`` are the extents of its chunks."""

    path: Path
    values: Any
    axes: str
    spacing: Mapping[str, float]
    pieces: tuple[int, ...] | None = None

    @property
    def extents(self) -> tuple[int, ...]:
        """Number of pixels along [z,] y, x."""
        return tuple(self._along(axis) for axis in self.space)

    @property
    def space(self) -> str:
        """The axes of space, ``zyx`` or ``yx``."""
        return "zyx" if "z" in self.axes else "yx"

    @property
    def num_channels(self) -> int:
        """Number of channels or keypoint types."""
        return self._along("c") if "c" in self.axes else 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.values.dtype)

    @property
    def spacing_xyz(self) -> tuple[float, ...] | None:
        """Micrometres per pixel along x, y[, z]; None if the file does not state all of them."""
        sizes = [self.spacing.get(axis) for axis in reversed(self.space)]
        return None if None in sizes else tuple(float(size) for size in sizes if size is not None)

    def read(self, window: Sequence[slice]) -> ndarray:
        """The values (c, [z,] y, x) of a window along [z,] y, x, in the type of the file.

        Raises:
            ImageError: the file is damaged there.
        """
        along = dict(zip(self.space, window, strict=True))
        index = tuple(along.get(axis, slice(None) if axis == "c" else 0) for axis in self.axes)
        try:
            found = np.asarray(self.values[index])
        except Exception as error:  # of any codec
            raise ImageError(f"{self.path}: cannot be read at {_text(along)}: {_first_line(error)}") from None
        left = [axis for axis in self.axes if axis in along or axis == "c"]
        order = [left.index(axis) for axis in ("c", *self.space) if axis in left]
        found = found.transpose(order)
        return found if "c" in left else found[None]

    def as_maps(self, values: ndarray) -> ndarray:
        """Values as floats, in an array of their own: uint8 and uint16 divided by 255 and 65,535, floats as they are."""
        if self.dtype.name in SCALES:
            return np.ascontiguousarray(values.astype(np.float32) / np.float32(SCALES[self.dtype.name]))
        return np.array(values, values.dtype.newbyteorder("="), order="C")

    def check_maps(self) -> None:
        """Raise ImageError if values are neither floats, uint8 nor uint16."""
        if self.dtype.kind != "f" and self.dtype.name not in SCALES:
            raise ImageError(f"{self.path}: values of type {self.dtype}: maps are floats from 0 to 1, uint8 or uint16")

    def _along(self, axis: str) -> int:
        return int(self.values.shape[self.axes.index(axis)])


def open_array(path: str | Path, *, axes: str | None = None) -> ArrayFile:
    """Open the array of a file or zarr folder; of an OME-Zarr or a pyramid of a TIFF, its full resolution.

    Args:
        axes: one letter for each axis of the file, in its order; by default what the file says, else ``yx``, ``zyx``
            or ``czyx``. Other axes than x, y, z and c have the length 1.

    Raises:
        ImageError: the file does not exist, is damaged, of another kind, or cannot be read in parts of bounded size.
        MissingExtraError: a package that reads it is not installed.
    """
    path = Path(path)
    try:
        opened = _open(path)
    except (ImageError, MissingExtraError):
        raise
    except Exception as error:  # hostile files raise whatever zarr, tifffile and NumPy do not check
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or _first_line(error)}") from None
    values, found, spacing, pieces = opened
    shape = tuple(int(extent) for extent in values.shape)
    letters = _letters(path, shape, axes or found)
    if axes is not None and found is not None:
        spacing = {new: spacing[old] for new, old in zip(letters, found, strict=True) if old in spacing}
    if 0 in shape:
        raise ImageError(f"{path}: an array of {_shape(shape)} has no pixels")
    size = math.prod(pieces or (0,)) * np.dtype(values.dtype).itemsize
    if size > MAX_PIECE_BYTES:
        raise ImageError(
            f"{path}: stored in pieces of {size / 2**30:,.1f} GiB, too large to read one: save it in tiles"
        )
    return ArrayFile(path, values, letters, spacing, pieces)


Opened = tuple[Any, str | None, dict[str, float], tuple[int, ...] | None]


def _open(path: Path) -> Opened:
    if is_folder(path):
        return _open_zarr(path)
    with open_regular(path) as stream:
        start = stream.read(8)
    if start.startswith(b"\x93NUMPY"):
        return np.load(path, mmap_mode="r", allow_pickle=False), None, {}, None
    if start.startswith(b"PK"):
        return _open_npz(path)
    if start[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return _open_tiff(path)
    raise ImageError(f"{path}: neither NumPy's .npy and .npz, nor TIFF, nor a zarr folder")


def _open_npz(path: Path) -> Opened:
    """The only array of the file, or ``heatmaps``, as ``detect heatmaps render`` names them."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
        names = [*content]
        name = "heatmaps" if "heatmaps" in names else names[0] if len(names) == 1 else ""
        if not name:
            raise ImageError(f"{path}: arrays {', '.join(names)[:200]}: expected one, or one named heatmaps")
        with zipfile.ZipFile(path) as packed:
            size = packed.getinfo(f"{name}.npy").file_size
        if size > MAX_PIECE_BYTES:
            raise ImageError(f"{path}: {size / 2**30:,.1f} GiB unpacked, which is read as a whole: save it as .npy")
        values = content[name]
        if not isinstance(values, np.ndarray):  # NumPy gives the bytes of what is no array
            raise ImageError(f"{path}: {name}.npy in it is damaged")
    return values, "tcyx" if name == "heatmaps" and values.ndim == 4 else None, {}, None


def _open_tiff(path: Path) -> Opened:
    tifffile, zarr = _imported("tifffile", path), _imported("zarr", path)
    with ExitStack() as opened, _silent("tifffile"):
        file = opened.enter_context(tifffile.TiffFile(path))
        if not (len(file.pages) and file.series):  # counted first: a chain of pages that goes round has no end
            raise ImageError(f"{path}: a TIFF without an image")
        if ".ome.tif" in path.name.lower() and not file.is_ome:
            raise ImageError(f"{path}: no description by OME, as an OME-TIFF has: truncated, or plain TIFF")
        series = file.series[0]
        if any(page is None for page in series.pages):  # which would read as zeros
            raise ImageError(f"{path}: truncated: pages are missing")
        values = zarr.open(series.aszarr(level=0), mode="r")
        axes = series.axes.lower().replace("s", "c")
        if axes[:-2] in {"q", "i"}:  # pages that nothing describes
            axes = "z" + axes[1:]
        found = values, axes, _tiff_spacing(file), tuple(values.chunks)
        weakref.finalize(values, opened.pop_all().close)  # pixels are read later
    return found


def _tiff_spacing(file: Any) -> dict[str, float]:
    """Micrometres per pixel by OME's XML, ImageJ's description or a resolution per centimetre."""
    if file.ome_metadata:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata)
        fields = dict(re.findall(r'\b(PhysicalSize\w+)="([^"]*)"', pixels[0] if pixels else ""))
        named = {axis: f"PhysicalSize{axis.upper()}" for axis in "xyz"}
        return _in_micrometres({axis: (fields.get(key), fields.get(f"{key}Unit", "µm")) for axis, key in named.items()})
    tags, about = file.pages[0].tags, file.imagej_metadata or {}
    sizes: dict[str, tuple[Any, Any]] = {"z": (about.get("spacing"), about.get("unit"))}
    unit = about.get("unit") or ("cm" if _tag(tags, "ResolutionUnit") == CENTIMETRE else None)
    for axis, name in (("x", "XResolution"), ("y", "YResolution")):
        count, units = _tag(tags, name) or (0, 0)
        sizes[axis] = (units / count if count else None, unit)
    return _in_micrometres(sizes)


def _tag(tags: Any, name: str) -> Any:
    return tags[name].value if name in tags else None


def _open_zarr(path: Path) -> Opened:
    zarr = _imported("zarr", path)
    try:
        node = zarr.open(path, mode="r")
    except FileNotFoundError:
        raise ImageError(f"{path}: a folder, but not of zarr") from None
    if isinstance(node, zarr.Array):
        names = getattr(node.metadata, "dimension_names", None) or ()
        known = all(isinstance(name, str) and name for name in names)
        return node, "".join(name[0].lower() for name in names) if names and known else None, {}, tuple(node.chunks)
    content = node.attrs.asdict()
    images = (content.get("ome") or content).get("multiscales")
    if not images:
        inside = ", ".join(sorted(node.keys())[:5]) or "nothing"
        raise ImageError(f"{path}: a zarr group without OME's multiscales; give one of its arrays or images ({inside})")
    image, level = images[0], images[0]["datasets"][0]
    name = str(level["path"])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ImageError(f"{path}: level {name!r} leads out of the folder")
    array = node[name]
    entries = [each if isinstance(each, dict) else {"name": each} for each in image.get("axes") or ()]
    axes = "".join(str(each["name"])[0].lower() for each in entries) or ("tczyx" if array.ndim == 5 else None)
    scale = _scale_of(level, len(entries)) * _scale_of(image, len(entries))
    sizes = {axis: (size, each.get("unit")) for axis, size, each in zip(axes or "", scale, entries, strict=False)}
    return array, axes, _in_micrometres(sizes), tuple(array.chunks)


def _scale_of(entry: Mapping[str, Any], num_axes: int) -> ndarray:
    """The product of the scales among the coordinate transformations of an image or of one of its levels."""
    scale = np.ones(num_axes)
    for each in entry.get("coordinateTransformations") or ():
        if each.get("type") == "scale" and "scale" in each:
            scale = scale * np.asarray(each["scale"], float)
    return scale


def _in_micrometres(sizes: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """The sizes of the axes of space that are positive and in a known unit."""
    found = {}
    for axis, (size, unit) in sizes.items():
        factor = MICROMETRES.get(str(unit).lower())
        if axis in "xyz" and size is not None and factor and 0 < float(size) < math.inf:
            found[axis] = float(size) * factor
    return found


def _letters(path: Path, shape: tuple[int, ...], axes: str | None) -> str:
    """The letters of the axes, checked."""
    letters = (axes or PLAIN_AXES.get(len(shape), "")).lower().replace("s", "c")
    twice = len(set(letters)) < len(letters)
    if len(letters) != len(shape) or twice or not {"x", "y"} <= set(letters):
        said = f"axes {letters!r}" if letters else "no names of its axes"
        raise ImageError(
            f"{path}: {_shape(shape)} pixels, {said}: --axes takes one letter for each, of x, y, z and c (keypoint types)"
        )
    for axis, extent in zip(letters, shape, strict=True):
        if axis not in "xyzc" and extent > 1:
            raise ImageError(
                f"{path}: {extent:,} along the axis {axis!r} of {letters!r}, and one is read: save each in a file of its "
                "own, or give the axis its name by --axes"
            )
    return letters


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a package from logging what the error says."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _imported(name: str, path: Path) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(f"{path}: reading it needs {name}: pip install 'detect-heads[slides]'") from None


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(f"{extent:,}" for extent in shape)


def _text(window: Mapping[str, slice]) -> str:
    return ", ".join(f"{axis} {part.start:,} to {part.stop:,}" for axis, part in window.items())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
