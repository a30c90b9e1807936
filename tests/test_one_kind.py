"""Functions of keypoints and heatmaps: arrays or tensors in, the same kind out; no integer maps; no shape that broadcasts.

Each public function of the modules below is in one of the two tables, which a test keeps complete.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from numpy.testing import assert_array_equal
from torch import Tensor
from torch.testing import assert_close

import detect.keypoints
from detect.data import read_coco
from detect.detectors.blob_detector import BlobDetector, fit_blob_detector
from detect.evaluation.angles import angle_errors, score_angles
from detect.evaluation.confusion import point_confusions
from detect.evaluation.oracle import oracle_round_trip
from detect.evaluation.point_matching import check_images, match_points, matches_by_score
from detect.evaluation.points import score_points
from detect.evaluation.precision_recall import choose_threshold
from detect.evaluation.predicted_points import are_counted, inside_any
from detect.heads.heatmap import HeatmapHead
from detect.keypoints import subpixel
from detect.keypoints.coco_keypoints import CocoKeypoints, coco_keypoints
from detect.keypoints.coordinates import cells_to_image, image_to_cells
from detect.keypoints.keypoints import Keypoints, by_group, is_predicted
from detect.keypoints.local_maxima import LocalMaxima, close_pairs, find_local_maxima, with_spacing
from detect.keypoints.orientations import angles_between, directions, in_degrees, read_angles
from detect.keypoints.padded_peaks import find_padded_peaks
from detect.keypoints.peaks import Peaks, find_peaks
from detect.keypoints.split_peaks import split_peaks
from detect.keypoints.targets import HeatmapTargets, pixel_weights, render_heatmaps
from detect.losses import (
    adaptive_wing_loss,
    heatmap_bce_loss,
    heatmap_focal_loss,
    heatmap_mse_loss,
    points_l1_loss,
)

MODULES = [
    *(f"detect.keypoints.{each.name}" for each in pkgutil.iter_modules(detect.keypoints.__path__)),
    *(
        f"detect.evaluation.{name}"
        for name in ("angles", "confusion", "coco_points", "oks", "oracle", "point_matching", "points")
    ),
    *("detect.evaluation.precision_recall", "detect.evaluation.predicted_points"),
    *("detect.losses.heatmaps", "detect.detectors.blob_detector"),
]
METHODS = (Keypoints, LocalMaxima, Peaks, HeatmapTargets, BlobDetector)
OTHERS = {  # functions of something else than the arrays of a user
    "coordinates": "origin_shift",  # of a word
    "drawing": "along_axes blend_patches blend_scattered draw_points map_size zeros",  # in place, below render_heatmaps
    "targets": "set_own_cells num_same_cell sigma_from_size",  # in place; a number
    "keypoints": "box_keypoints coco_keypoints per_image angles_per_image",  # of datasets; for score_points, always NumPy
    "orientations": "check_orientation",  # of a word
    "coco_points": "evaluate_landmarks point_results",  # of datasets, like those of oks and oracle
    "oks": "evaluate_oks",
    "oracle": "batches_of_one_size check_map_sizes coarsest_good nearest_neighbors oracle_round_trip",
    "confusion": "box_confusions count_confusions",
    "suppression": "noise_level suppress_explained suppress_near",  # tensors, below find_peaks, like these
    "local_maxima": "cells_at over_neighbours run_edges of maxima",
    "peaks": "select_maxima peaks_of",
    "subpixel": "fit_windows fit_in_chunks",
    "tiled_peaks": "find_tiled_peaks default_tile arrays of_arrays",  # of a function that reads
}
MAPS = {"heatmaps", "maps", "logits", "targets", "weights"}  # arguments that are maps
FREE = {  # arguments of any size, and those whose partner is one of the other arguments
    *(
        "match_points.predicted",
        *("score_angles.truth", "directions.angles", "in_degrees.angles", "read_angles.maps"),
        "match_points.truth",
        "matches_by_score.truth",
        "score_points.truth",
        "check_images.truth",
    ),
    *("choose_threshold.truth", "point_confusions.truth", "are_counted.true_points", "inside_any.points", "of.images"),
    *("by_group.values", "rows.index", "take.index", "spread.self", "spread.values", "heatmap_focal_loss.positives"),
    *("split_peaks.heatmaps", "pixel_weights.ignored", "fit_blob_detector.images"),
    *(f"{each.__name__}.maps" for each in subpixel.REFINEMENTS.values()),
}


def bells(*extents: int, seed: int = 0) -> ndarray:
    """Maps (2, 2, *extents) of a Gaussian each, and a little noise."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(extent) for extent in extents), indexing="ij")
    middles = random.uniform(1.5, np.array(extents) - 2.5, (2, 2, len(extents)))
    middles = middles.reshape(2, 2, len(extents), *[1] * len(extents))
    squares = sum((axis - middles[:, :, number]) ** 2 for number, axis in enumerate(axes))
    return np.exp(-squares / 8) + 0.01 * random.random((2, 2, *extents))


MAXIMA = find_local_maxima(bells(12, 14).reshape(4, 12, 14), 0.3)
PEAKS = find_peaks(bells(12, 14), threshold=0.3)
POINTS = [np.array([[3.0, 4.0], [9.5, 6.25], [5.0, 5.5]]), np.array([[2.0, 7.5], [8.0, 1.0]])]
SCORES = [np.array([0.9, 0.4, 0.6]), np.array([0.7, 0.3])]
KEYPOINTS = Keypoints.of(POINTS)
TARGETS = render_heatmaps(POINTS, (12, 14), stride=1)
CELLS = np.array([[0, 0, 3, 4], [1, 1, 5, 6], [1, 0, 2, 2]])
BLOB = 5 + bells(24, 26)[0, 0]
LOSS = {"targets": bells(6, 7).clip(0, 1), "weights": np.ones((2, 1, 6, 7))}
DRAWN = {
    "points": KEYPOINTS,
    "sigma": np.array([1.0, 2.0, 1.5, 1.0, 2.5]),
    "instance_weights": np.array([1.0, 0.0, 2.0, 1.0, 1.0]),
    "ignore": [np.array([[1.0, 1.0, 4.0, 5.0]]), np.zeros((0, 4))],
    "sizes": np.full((5, 2), 3.0),
    "angles": np.linspace(0, 1, 5),
}
SCORED = {"predicted": POINTS, "truth": [each + 0.25 for each in POINTS], "scores": SCORES}

REFINEMENTS = {
    each: {"maps": bells(12, 14).reshape(4, 12, 14), "maxima": MAXIMA} for each in subpixel.REFINEMENTS.values()
}

CASES: dict[Callable[..., Any], dict[str, Any]] = {
    image_to_cells: {"points": POINTS[0], "stride": (2, 4)},
    cells_to_image: {"cells": POINTS[0], "stride": 4},
    is_predicted: {"table": np.array([[3.0, 4.0, 1.0], [0.0, 0.0, 0.0]])},
    by_group: {"values": POINTS[0], "group": np.array([1, 0, 1]), "num_groups": 2},
    Keypoints.of: {"images": POINTS},
    LocalMaxima.rows: {"self": MAXIMA, "index": np.array([2, 0])},
    find_local_maxima: {"maps": bells(12, 14)[0], "threshold": 0.3},
    with_spacing: {"maxima": MAXIMA, "among": MAXIMA, "farthest": 11.0, "share": 0.2},
    close_pairs: {"maxima": MAXIMA, "radius": 9.0},
    find_padded_peaks: {"heatmaps": bells(12, 14), "max_peaks": 3},
    Peaks.counts: {"self": PEAKS},
    Peaks.in_image: {"self": PEAKS, "stride": (2.0, 4.0)},
    Peaks.of_image: {"self": PEAKS, "number": 1},
    Peaks.take: {"self": PEAKS, "index": np.array([2, 0])},
    find_peaks: {"heatmaps": bells(12, 14), "split": True, "sigma": (2.0, 2.0), "threshold": 0.3},
    split_peaks: {"heatmaps": bells(12, 14), "peaks": PEAKS, "sigma": 2.0},
    **REFINEMENTS,
    HeatmapTargets.spread: {"self": TARGETS, "values": np.linspace(0, 1, 10).reshape(5, 2)},
    render_heatmaps: {**DRAWN, "image_hw": (12, 14)},
    pixel_weights: {"ignored": bells(12, 14) * 0, "regions": DRAWN["ignore"], "stride": 1, "pixel_origin": "center"},
    score_points: {**SCORED, "radius": 3.0, "spacing": (1.0, 2.0)},
    match_points: {"predicted": POINTS[0], "truth": POINTS[1], "radius": 9.0},
    matches_by_score: {"predicted": POINTS[0], "truth": POINTS[1], "scores": SCORES[0], "radius": 9.0},
    check_images: SCORED,
    choose_threshold: {**SCORED, "radius": 3.0},
    angles_between: {"tails": POINTS[0], "heads": POINTS[0][::-1]},
    directions: {"angles": SCORES[0]},
    in_degrees: {"angles": SCORES[0], "orientation": "axis"},
    read_angles: {"maps": bells(6, 7), "cells": POINTS[0], "image": np.array([0, 1, 1]), "orientation": "axis"},
    angle_errors: {"predicted": SCORES[0], "truth": SCORES[0][::-1]},
    score_angles: {
        "predicted": POINTS,
        "truth": SCORED["truth"],
        "angles": SCORES,
        "true_angles": SCORES,
        "radius": 3.0,
    },
    point_confusions: {**SCORED, "names": ("a", "b"), "radius": 3.0, "threshold": 0.5},
    are_counted: {
        "points": POINTS[0],
        "group": np.array([0, 1, 1]),
        "true_points": POINTS,
        "radius": 1.0,
        "regions": [np.array([[1.0, 1.0, 4.0, 5.0]]), np.zeros((0, 4))],
    },
    inside_any: {"points": POINTS[0], "regions": np.array([[1.0, 1.0, 4.0, 5.0]])},
    heatmap_focal_loss: {"logits": bells(6, 7), "positives": CELLS, **LOSS},
    heatmap_bce_loss: {"logits": bells(6, 7), **LOSS},
    heatmap_mse_loss: {"maps": bells(6, 7), **LOSS},
    adaptive_wing_loss: {"maps": bells(6, 7), **LOSS},
    points_l1_loss: {"maps": bells(6, 7), "values": np.ones((3, 2)), "positives": CELLS},
    BlobDetector.predict: {"self": BlobDetector(2.0), "image": BLOB},
    BlobDetector.candidates: {"self": BlobDetector(2.0), "image": BLOB},
    fit_blob_detector: {"images": [BLOB, BLOB], "truth": [np.array([[9.0, 12.0]])] * 2, "sigmas": (2.0,)},
}
each_case = pytest.mark.parametrize(
    ("function", "arguments"), CASES.items(), ids=lambda each: getattr(each, "__qualname__", "")
)


def converted(value: Any, convert: Callable[[ndarray], Any]) -> Any:
    if isinstance(value, ndarray | Tensor):
        return convert(value)
    if isinstance(value, list):
        return [converted(each, convert) for each in value]
    if isinstance(value, dict):
        return {name: converted(each, convert) for name, each in value.items()}
    if is_dataclass(value):
        return replace(value, **{each.name: converted(getattr(value, each.name), convert) for each in fields(value)})
    return value


def as_tensor(values: ndarray) -> Tensor:
    return torch.from_numpy(values.copy())


def arrays_in(value: Any) -> Iterator[ndarray | Tensor]:
    if isinstance(value, ndarray | Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from arrays_in(each)
    elif is_dataclass(value):
        yield from arrays_in([getattr(value, each.name) for each in fields(value)])


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a function with at most two positional arguments, as its signature asks."""
    rest = dict(arguments)
    kinds = inspect.signature(function).parameters.values()
    names = [each.name for each in kinds if each.kind is not each.KEYWORD_ONLY]
    positional = [rest.pop(name) for name in names if name in rest]
    return function(*positional, **rest)


def test_the_tables_have_every_public_function():
    listed = {function.__qualname__ for function in CASES}
    listed |= {name for names in OTHERS.values() for name in names.split()}
    missing = []
    for module in map(import_module, MODULES):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                missing += [] if name in listed else [name]
    for owner in METHODS:
        for name, value in vars(owner).items():
            if callable(getattr(value, "__func__", value)) and not name.startswith("_"):
                missing += [] if listed & {name, f"{owner.__name__}.{name}"} else [f"{owner.__name__}.{name}"]
    assert not missing, missing


@each_case
def test_the_kind_that_goes_in_comes_out(function, arguments):
    before = [each.copy() for each in arrays_in([*arguments.values()])]
    of_arrays, of_tensors = call(function, arguments), call(function, converted(arguments, as_tensor))
    assert all(isinstance(each, ndarray) for each in arrays_in(of_arrays))
    assert all(isinstance(each, Tensor) for each in arrays_in(of_tensors))
    for ours, theirs in zip(arrays_in(of_arrays), arrays_in(of_tensors), strict=True):
        assert_close(torch.from_numpy(ours), theirs, equal_nan=True)
    for given, own in zip(arrays_in([*arguments.values()]), before, strict=True):
        assert_array_equal(given, own)  # nothing is written into


@each_case
def test_single_precision_stays(function, arguments):
    def narrow(values: ndarray) -> ndarray:
        return values.astype(np.float32) if values.dtype == np.float64 else values

    if function not in {BlobDetector.predict, BlobDetector.candidates, Peaks.in_image, LocalMaxima.rows, with_spacing}:
        found = call(function, converted(arguments, narrow))
        kinds = {name for each in arrays_in(found) if (name := str(each.dtype)).startswith("float")}
        assert kinds <= {"float32"} | ({"float64"} if function in {find_local_maxima, *REFINEMENTS} else set())


@each_case
def test_two_kinds_together_are_an_error_in_words(function, arguments):
    own = [name for name, value in arguments.items() if list(arrays_in(value))]
    for name in own if len(own) > 1 else []:
        mixed = {**arguments, name: converted(arguments[name], as_tensor)}
        with pytest.raises(ValueError, match=r"NumPy arrays and .* has tensors: give one kind"):
            call(function, mixed)


@each_case
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "bool"])
@pytest.mark.usefixtures("unchecked")
def test_maps_of_integers_are_refused(function, arguments, dtype):
    for name in MAPS & set(arguments):
        for convert in (np.asarray, as_tensor):
            wrong = {**arguments, name: converted(arguments[name], lambda each: (each * 200).astype(dtype))}
            message = (
                "255"
                if dtype == "uint8"
                else "65535"
                if dtype == "uint16"
                else "convert"
                if dtype == "bool"
                else "by the"
            )
            with pytest.raises(ValueError, match=f"are floats, got {dtype}: .*{message}"):
                call(function, converted(wrong, convert))


def places_of_arrays(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], ndarray]]:
    """Where arrays are among arguments: the keys, numbers and fields that lead to each."""
    if isinstance(value, ndarray):
        yield path, value
        return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if is_dataclass(value):
        inner = ((each.name, getattr(value, each.name)) for each in fields(value))
    for key, each in inner:
        yield from places_of_arrays(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], wrong: ndarray) -> Any:
    """The arguments with one array replaced."""
    if not path:
        return wrong
    key, *rest = path
    if is_dataclass(value):
        return replace(value, **{key: put(getattr(value, key), tuple(rest), wrong)})
    copied = value.copy()
    copied[key] = put(value[key], tuple(rest), wrong)
    return copied


def of_other_shape(values: ndarray) -> Iterator[ndarray]:
    """The array with one row, and without the last one; of maps also with one type, row or column."""
    for axis in range(values.ndim):
        if values.shape[axis] > 1 and len(values):
            yield values.take([0], axis=axis)
    if len(values) > 2:
        yield values[:-1]


@each_case
@pytest.mark.usefixtures("unchecked")
def test_no_shape_broadcasts(function, arguments):
    taken, places = [], list(places_of_arrays(arguments))
    for path, values in places if len(places) > 1 else []:
        if f"{function.__name__}.{path[0]}" in FREE:
            continue
        for wrong in of_other_shape(values):
            try:
                call(function, put(arguments, path, wrong))
            except ValueError:
                continue
            taken.append(f"{'.'.join(map(str, path))} {values.shape} as {wrong.shape}")
    assert taken == []


@pytest.mark.usefixtures("unchecked")
def test_a_network_refuses_what_is_no_map_of_floats():
    head = HeatmapHead(in_channels=4, num_types=2)
    with pytest.raises(ValueError, match="feature maps are tensors, got ndarray: torch"):
        head([np.zeros((1, 4, 5, 6), np.float32)])
    with pytest.raises(ValueError, match="features are floats, got uint8: divide them by 255"):
        head(torch.zeros(1, 4, 5, 6, dtype=torch.uint8))


def spots() -> CocoKeypoints:
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "keypoints": [9 * number, 20, 2]} for number in (1, 4)
    ]
    images = [{"id": 1, "width": 64, "height": 48}]
    content = {"images": images, "categories": [{"id": 1, "name": "spot"}], "annotations": annotations}
    return coco_keypoints(read_coco(content, keypoints=True))


WITH_SIGMA: dict[str, Callable[[Any], ndarray | float]] = {
    "render_heatmaps": lambda sigma: render_heatmaps(POINTS, (12, 14), stride=1, sigma=sigma).heatmaps,
    "find_peaks": lambda sigma: find_peaks(bells(12, 14), threshold=0.3, split=True, sigma=sigma).cells,
    "split_peaks": lambda sigma: split_peaks(bells(12, 14), PEAKS, sigma=sigma).cells,
    "oracle_round_trip": lambda sigma: oracle_round_trip(spots(), stride=4, sigma=sigma).scores.error.mean,
}


@pytest.mark.parametrize("function", WITH_SIGMA.values(), ids=WITH_SIGMA)
def test_sigma_is_a_number_or_one_for_each_axis(function):
    for sigma in ((2.0, 2.0), [2.0, 2.0], 2):
        assert_array_equal(function(sigma), function(2.0))
    for wrong in ((2.0, 2.0, 2.0), 0.0, (2.0, -1.0), float("nan")):
        with pytest.raises(ValueError, match="need one positive sigma, or one for each of 2 axes, got"):
            function(wrong)
