"""Heatmap targets of keypoints: any number of images, keypoint types, and points of one type in an image.

Coordinates and strides follow :mod:`detect.keypoints.coordinates`; a map has the cells needed to cover its image. NumPy
points give arrays, tensors give tensors on their device, with the same values: only drawing uses the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64
from numpy import ndarray

from detect.keypoints.coordinates import Stride, image_to_cells
from detect.keypoints.drawing import BLENDS, SHAPES, PlacedPoints, along_axes, draw_points, zeros
from detect.keypoints.keypoints import OCCLUDED, UNLABELLED, Keypoints, KeypointsLike
from detect.ops.array_kinds import Array, check_kinds, check_shape, like, to_numpy
from detect.ops.box_arrays import check_corners

Sigma = float | Sequence[float] | Array
CHOICES = {"shape": SHAPES, "center": ("exact", "cell"), "blend": tuple(BLENDS), "occluded": ("draw", "ignore")}


@dataclass(frozen=True, eq=False)
class HeatmapTargets:
    """Training targets of a batch. The m rows are the drawn points, in the order given.

    ``heatmaps`` are (b, j, h, w) or (b, j, d, h, w), float32. ``weights`` have the same shape: 0 in ignored regions and
    around ignored points, else 1, and in the cell of a drawn point the point's own weight; None if nothing is weighted or
    ignored. ``positives`` (m, 2 + D) are rows (image, type, [depth,] row, column), ``instances`` (m,) the indices of the
    points, ``offsets`` (m, D) the points minus the centres of their cells, (x, y[, z]) in cells, from -.5 to .5. If
    requested, ``sizes`` (m, D) are in cells and ``orientations`` (m, 2) are cosine and sine.

    ``point_weights`` (n,) is above 0 exactly for the drawn points. ``counts`` (b, j) counts these; the others are
    ``outside`` the map, ``ignored`` (occluded points with ``occluded="ignore"``, or weight 0) or ``unlabelled``, each (b,
    j).
    """

    heatmaps: Array
    weights: Array | None
    positives: Array
    instances: Array
    offsets: Array
    point_weights: Array
    counts: Array
    outside: Array
    ignored: Array
    unlabelled: Array
    sizes: Array | None = None
    orientations: Array | None = None

    def num_same_cell(self) -> int:
        """Count the drawn points whose cell an earlier point of their type already has."""
        return len(self.positives) - len(np.unique(to_numpy(self.positives), axis=0))

    def spread(self, values: Array) -> tuple[Array, Array]:
        """Write values (m, k) of the drawn points into maps (b, k, *cells), and mark their cells in a mask (b, 1, *cells).

        All keypoint types share the maps. Of several points in one cell, the nearest to its centre counts.
        """
        check_kinds(targets=self.heatmaps, values=values)
        check_shape("one row of values for each drawn point,", values, (len(self.positives), values.shape[-1]))
        positives, offsets, table = (to_numpy(each) for each in (self.positives, self.offsets, values))
        distance = (offsets.astype(np.float64) ** 2).sum(axis=1)
        order = np.lexsort((*table.T, *offsets.T, distance))  # ties do not depend on the order of points
        rows = order[np.unique(np.delete(positives, 1, axis=1)[order], axis=0, return_index=True)[1]]
        maps, mask = (
            zeros((len(self.heatmaps), channels, *self.heatmaps.shape[2:]), self.heatmaps)
            for channels in (values.shape[1], 1)
        )
        image, _, *cell = self.positives[like(rows, self.heatmaps)].T
        maps[(image, slice(None), *cell)] = like(table[rows].astype(np.float32), self.heatmaps)
        mask[(image, 0, *cell)] = 1
        return maps, mask


def render_heatmaps(
    points: KeypointsLike,
    image_hw: Sequence[int],
    *,
    stride: Stride = 4.0,
    sigma: Sigma = 2.0,
    shape: str = "gaussian",
    center: str = "exact",
    window: float = 3.0,
    blend: str = "max",
    pixel_origin: str = "center",
    occluded: str = "draw",
    instance_weights: Array | None = None,
    ignore: Sequence[Array] | None = None,
    sizes: Array | None = None,
    angles: Array | None = None,
) -> HeatmapTargets:
    """Draw keypoints as heatmaps.

    A Gaussian is exp(-(dx^2 / sx^2 + dy^2 / sy^2) / 2), which is 1 at the point itself; the value of its cell is lower,
    except with ``center="cell"``. Beyond ``window`` sigmas along an axis a Gaussian is 0, an error of at most exp(-window^2
    / 2): .0111 for 3 sigmas and .0003 for 4.

    Points of visibility 0 are not labelled, and their coordinates are not read. Points of visibility 1 (occluded) are drawn
    like those of 2, or ignored with ``occluded="ignore"``. Points outside the map or with NaN coordinates are not drawn.

    Positions are computed on the host: points (and visibilities, weights, sizes) on a device are copied from it, which waits
    for the device. Patches are then sent to the maps' device and blended there without waiting.

    >>> targets = render_heatmaps([np.array([[1.0, 0.0], [4.0, 1.0]]), np.zeros((0, 2))], (2, 5), stride=1, shape="pixel")
    >>> targets.heatmaps[0, 0]
    array([[0., 1., 0., 0., 0.],
           [0., 0., 0., 0., 1.]], dtype=float32)
    >>> targets.positives.tolist(), targets.counts.tolist()
    ([[0, 0, 0, 1], [0, 0, 1, 4]], [[2], [0]])

    Args:
        points: keypoints, or for each image an array as :meth:`Keypoints.of` takes them.
        image_hw: rows and columns of all images; for volumes (d, h, w), with points (x, y, z).
        stride: image pixels per cell, for all axes or for each of x, y(, z).
        sigma: in cells: a number, a tuple with one for each of x, y(, z), or for each point an array (n,) or (n, D).
            Below about .05 cells a Gaussian halfway between cells is 0 in float32, except with ``center="cell"``.
        shape: ``"gaussian"``, ``"disc"`` of radius sigma, or ``"pixel"``, the nearest cell alone.
        center: ``"exact"``, or ``"cell"`` to draw at the centre of the nearest cell.
        window: half width of a Gaussian's window, in sigmas.
        blend: value where Gaussians overlap, ``"max"`` or ``"sum"``.
        pixel_origin: convention of the points, see :mod:`detect.keypoints.coordinates`.
        occluded: ``"draw"`` or ``"ignore"``, for points of visibility 1.
        instance_weights: (n,), one for each point; points of weight 0 are ignored.
        ignore: boxes (r, 4) of each image, or of each image and type, ordered by image, then type: x0 y0 x1 y1 in the
            points' convention (for volumes x0 y0 z0 x1 y1 z1); the cells they touch get weight 0.
        sizes: (n, D) in image pixels, x before y.
        angles: (n,) in radians, for ``orientations``.

    Raises:
        ValueError: an array has another shape, a sigma or size is not positive, or a choice is unknown.
    """
    for (name, choices), given in zip(CHOICES.items(), (shape, center, blend, occluded), strict=True):
        if given not in choices:
            raise ValueError(f"{name} is one of {', '.join(choices)}, got {given!r}")
    if not window > 0:
        raise ValueError(f"need a positive window, got {window} sigmas")
    own = {"instance_weights": instance_weights, "ignore": ignore, "sizes": sizes, "angles": angles}
    check_kinds(points=points, sigma=sigma, **own)
    placed = PlacedPoints.of(points, image_hw, stride, pixel_origin=pixel_origin)
    scale = along_axes(sigma, placed.cells.shape, "sigma")
    of_points = _point_weights(instance_weights, len(placed.cells))
    labelled, inside = placed.visibility != UNLABELLED, placed.inside()
    unwanted = (of_points == 0) | ((placed.visibility == OCCLUDED) & (occluded == "ignore"))
    is_drawn, is_ignored = labelled & inside & ~unwanted, labelled & inside & unwanted
    reference = points.points if isinstance(points, Keypoints) else points[0]
    options: dict[str, Any] = {"shape": shape, "window": window, "blend": blend}

    def draw(rows: Int64[ndarray, " m"]) -> Array:
        maps = zeros((placed.num_images * placed.num_types, *placed.map_hw), reference)
        cells = placed.nearest(rows).astype(np.float64) if center == "cell" else placed.cells[rows]
        draw_points(maps, placed.of_map()[rows], cells[:, ::-1], scale[rows, ::-1], **options)
        return maps.reshape(placed.num_images, placed.num_types, *placed.map_hw)

    drawn, weights = np.flatnonzero(is_drawn), None
    if ignore is not None or instance_weights is not None or occluded == "ignore":
        weights = pixel_weights(draw(np.flatnonzero(is_ignored)), ignore, stride, pixel_origin)
        set_own_cells(weights, placed, drawn, of_points[drawn])
    nearest = placed.nearest(drawn)
    columns = {
        "positives": np.stack((placed.image[drawn], placed.types[drawn], *nearest.T[::-1]), axis=1),
        "instances": drawn,
        "offsets": (placed.cells[drawn] - nearest).astype(np.float32),
        "point_weights": np.where(is_drawn, of_points, np.float32(0)),
        "counts": placed.count(is_drawn),
        "outside": placed.count(labelled & ~inside),
        "ignored": placed.count(is_ignored),
        "unlabelled": placed.count(~labelled),
        **_geometry(sizes, angles, drawn, placed, stride),
    }
    return HeatmapTargets(draw(drawn), weights, **{name: like(column, reference) for name, column in columns.items()})


def sigma_from_size(
    sizes: Float[ndarray, "n d"], *, stride: float = 4.0, fraction: float = 0.09, min_sigma: float = 1.0
) -> Float[ndarray, "n d"]:
    """Return a sigma along each axis, in cells, as a fraction of each object's size in image pixels, at least ``min_sigma``
    cells.

    The default fraction is TTFNet's .54 / 6 (Liu et al. 2020, "Training-Time-Friendly Network", section 3.2).

    >>> sigma_from_size(np.array([[200.0, 40.0]]))
    array([[4.5, 1. ]])
    """
    if not (stride > 0 and fraction > 0 and min_sigma > 0):
        raise ValueError(f"need positive stride, fraction and min_sigma, got {stride=}, {fraction=}, {min_sigma=}")
    wrong = np.flatnonzero(~(sizes > 0).all(axis=1))
    if wrong.size > 0:
        raise ValueError(f"sizes are positive, got {sizes[wrong[0]].tolist()} in row {wrong[0]}")
    return np.maximum(sizes * (fraction / stride), min_sigma)


def pixel_weights(ignored: Array, regions: Sequence[Array] | None, stride: Stride, pixel_origin: str) -> Array:
    """Weights of cells: 0 where the maps (b, j, *cells) of ignored points are above 0 and where ignored regions lie, else 1.

    Regions are boxes x0, y0, x1, y1 in pixels, in volumes x0, y0, z0, x1, y1, z1, of each image or of each map, and include
    every cell that they touch.
    """
    check_kinds(ignored=ignored, regions=regions)
    weights = (ignored == 0).astype(np.float32) if isinstance(ignored, ndarray) else (ignored == 0).float()
    weights = weights if isinstance(weights, ndarray) else weights.contiguous()  # the maps below are views of it
    dims = weights.ndim - 2
    masked = weights.reshape(-1, 1, *weights.shape[2:])
    if regions is not None and len(regions) == len(weights):
        masked = weights
    elif regions is not None and len(regions) != len(masked):
        counts = f"{len(weights)} images or {len(masked)} maps, got {len(regions)}"
        raise ValueError(f"need regions to ignore for each of {counts}")
    kind = "image" if masked is weights else "map"
    for number, (of_image, boxes) in enumerate(zip(masked, regions or (), strict=False)):
        corners = to_numpy(boxes).astype(np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 * dims:
            raise ValueError(f"regions to ignore are (r, {2 * dims}), got {corners.shape}")
        check_corners(corners, f"regions to ignore of {kind} {number}")
        ends = np.split(corners, 2, axis=1)
        low, high = (image_to_cells(each, stride, pixel_origin=pixel_origin) + 0.5 for each in ends)
        for start, end in zip(np.floor(low).clip(0), np.ceil(high).clip(0), strict=True):
            window = tuple(slice(int(a), int(b)) for a, b in zip(start[::-1], end[::-1], strict=True))
            of_image[(slice(None), *window)] = 0
    return weights


def set_own_cells(
    weights: Array, placed: PlacedPoints, rows: Int64[ndarray, " m"], of_points: Float32[ndarray, " m"]
) -> None:
    """Set the weights of the cells that contain points, in place; of several points in a cell the largest weight counts."""
    columns = placed.image[rows], placed.types[rows], *placed.nearest(rows).T[::-1]
    at = np.ravel_multi_index(columns, tuple(weights.shape))
    different, which = np.unique(at, return_inverse=True)
    largest = np.zeros(len(different), np.float32)
    np.maximum.at(largest, which, of_points)
    weights.reshape(-1)[like(different, weights)] = like(largest, weights)


def _point_weights(given: Array | None, count: int) -> Float32[ndarray, " n"]:
    if given is None:
        return np.ones(count, np.float32)
    weights = to_numpy(given).astype(np.float32)
    check_shape("one instance weight for each point,", weights, (count,))
    if not ((weights >= 0) & np.isfinite(weights)).all():
        raise ValueError(f"instance weights are finite and not negative, got {weights}")
    return weights


def _geometry(
    sizes: Array | None, angles: Array | None, drawn: Int64[ndarray, " m"], placed: PlacedPoints, stride: Stride
) -> dict[str, ndarray]:
    """Sizes in cells and orientations of the drawn points, if they are given."""
    columns = {}
    if sizes is not None:
        extents = to_numpy(sizes).astype(np.float64)
        check_shape("one size for each point and axis,", extents, placed.cells.shape)
        if not (extents[drawn] > 0).all():
            raise ValueError(f"sizes are positive, got {extents}")
        columns["sizes"] = (extents[drawn] / np.asarray(stride, np.float64)).astype(np.float32)
    if angles is not None:
        radians = to_numpy(angles).astype(np.float64)
        check_shape("one angle for each point,", radians, (len(placed.cells),))
        columns["orientations"] = np.stack([np.cos(radians[drawn]), np.sin(radians[drawn])], axis=1).astype(np.float32)
    return columns
