"""Run a detector over images: COCO results in pixels of the images, and validation metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

from detect.conventions import ORIGIN_SHIFTS
from detect.data import CocoResults
from detect.data.coco_reader import Progress
from detect.data.resize import ResizeRule, parse_resize
from detect.detectors.landmarks import LandmarkDetector
from detect.evaluation.boxes import BoxEvaluation, best_as_dict, evaluate_boxes
from detect.evaluation.coco_points import LandmarkEvaluation, evaluate_landmarks
from detect.heads.postprocess import Detections
from detect.keypoints.orientations import NO_ORIENTATION, angles_between, directions, in_degrees
from detect.keypoints.peaks import Peaks
from detect.loading.dataset import DetectionData
from detect.loading.image_ops import Picture, resize_picture
from detect.loading.labels import LabelMap
from detect.loading.sampling import image_loader
from detect.loading.sharing import from_main, gather, own_share
from detect.loading.transforms import Transform, resize_transform
from detect.ops.box_arrays import xywh_to_xyxy, xyxy_to_xywh
from detect.training.builder import Detector
from detect.training.slicing import TileGrid, merge_boxes, merge_points

NO_TYPE = -1  # of a box
FOUND = 1.0  # the visibility of a keypoint in COCO results
MAIN_METRIC = {"boxes": "ap", "landmarks": "f1_5px"}  # decides which checkpoint is the best


class _Found(NamedTuple):
    """The objects of one image, in pixels of the image; boxes or points are NaN, and a box has no keypoint type.

    Angles are in radians, NaN without orientations.
    """

    category_ids: Int64[ndarray, " n"]
    scores: Float64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]
    points: Float64[ndarray, "n 2"]
    types: Int64[ndarray, " n"]
    angles: Float64[ndarray, " n"]


def find_objects(
    model: Detector,
    data: DetectionData,
    *,
    labels: LabelMap,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    pixel_origin: str = "center",
    tiles: str | ResizeRule | None = None,
    turned: bool = False,
    shared: bool = False,
    on_progress: Progress | None = None,
) -> CocoResults:
    """Detect objects in the images of a dataset; results are sorted by image, then by falling score.

    Boxes are clipped to their image, and dropped if nothing is left. Points more than a heatmap cell outside their image, in
    the padding of the resize rule, are dropped. A batch holds images of one input size, so an image's results do not depend
    on the other images, except for rounding.

    Args:
        model: the detector, in evaluation mode and with its weights on ``device``.
        data: the images, without augmentation, with the resize rule that the model was trained for.
        pixel_origin: the keypoints' convention in training and in the results, see :mod:`detect.keypoints.coordinates`.
        tiles: a rule ``tiles:S:OVERLAP``: images larger than a tile are cut into tiles, which take the resize rule each, and
            what is found in them is merged (:mod:`detect.training.slicing`). The limit of detections holds for a tile.
        turned: of a :class:`~detect.detectors.landmarks.LandmarkDetector`, see its ``detect``.
        shared: the processes of a run share the images, each image once; the main process gets all results, the others none.
    """
    tiles = parse_resize(tiles) if tiles else None
    if shared:
        data = copy.copy(data)
        data.image_rows = data.image_rows[list(own_share(len(data)))]
    detect = _Detect(model, data, labels, device=device, pixel_origin=pixel_origin, turned=turned)
    sizes_wh = {row: (width, height) for row, (width, height) in enumerate(data.dataset.images.wh.tolist())}
    grids = {row: TileGrid.of(sizes_wh[row], tiles) for row in data.image_rows.tolist()} if tiles else {}
    grids = {row: grid for row, grid in grids.items() if len(grid.corners) > 1}
    whole = copy.copy(data)
    whole.image_rows = data.image_rows[~np.isin(data.image_rows, list(grids))]
    found: list[tuple[int, _Found]] = []
    for batch in image_loader(whole, batches_by_size(whole, batch_size), num_workers=num_workers):
        own = batch.image_rows.tolist()
        objects = detect.objects(batch.images, batch.image_hw, [sizes_wh[row] for row in own])
        found += zip(own, objects, strict=True)
        if on_progress:
            on_progress("detecting", len(found), len(data))
    for row, grid in grids.items():
        found.append((row, detect.in_tiles(data.open(row), grid, batch_size)))
        if on_progress:
            on_progress("detecting", len(found), len(data))
    return _as_results(gather(found) if shared else found, labels, getattr(model, "orientation", NO_ORIENTATION))


@dataclass(frozen=True, eq=False)
class _Detect:
    """A detector whose objects are in pixels of the images that it was shown resized."""

    model: Detector
    data: DetectionData
    labels: LabelMap
    device: torch.device | str
    pixel_origin: str
    turned: bool

    def objects(
        self, images: Float[Tensor, "b d h w"], image_hw: Int64[Tensor, "b 2"], sizes_wh: Sequence[tuple[int, int]]
    ) -> list[_Found]:
        """The objects of each image of a batch; ``sizes_wh`` are the sizes before the resize rule."""
        with torch.inference_mode():
            how = {"turned": True} if self.turned else {}  # which is for landmarks alone
            output = self.model.detect(images.to(self.device), image_hw.to(self.device), **how)
        found = []
        for number, size_wh in enumerate(sizes_wh):
            transform = resize_transform(self.data.resize, size_wh)
            if isinstance(output, Peaks):
                margin_px = float(self.model.stride) if isinstance(self.model, LandmarkDetector) else 0.0
                own = output.of_image(number)
                found.append(_points_found(own, transform, self.labels, margin_px, self.pixel_origin))
            else:
                found.append(_boxes_found(output[number], transform, self.labels))
        return found

    def in_tiles(self, picture: Picture, grid: TileGrid, batch_size: int) -> _Found:
        """The objects of a large image, from its tiles in batches."""
        (width, height), corners, found = grid.tile_wh, grid.corners, list[_Found]()
        for start in range(0, len(corners), batch_size):
            windows = [
                Picture(picture.values[:, y : y + height, x : x + width], Transform(grid.tile_wh), grid.tile_wh)
                for x, y in corners[start : start + batch_size].tolist()
            ]
            contents = [resize_picture(window, self.data.resize) for window in windows]
            images = torch.stack([content.on_canvas(self.data.channels) for content in contents])
            image_hw = torch.stack([content.end_hw for content in contents])
            found += self.objects(images, image_hw, [grid.tile_wh] * len(windows))
        tile = np.repeat(np.arange(len(corners)), [len(each.scores) for each in found])
        every = _Found(*(np.concatenate(column) for column in zip(*found, strict=True)))
        every.boxes_xywh[:, :2] += corners[tile]
        every.points[:] += corners[tile]
        columns = {"scores": every.scores, "classes": every.category_ids}
        if isinstance(self.model, LandmarkDetector):
            columns["classes"] = every.types
            cell_px = self.model.stride / min(resize_transform(self.data.resize, grid.tile_wh).scale_xy)
            kept = merge_points(grid, every.points + ORIGIN_SHIFTS[self.pixel_origin], tile, **columns, cell_px=cell_px)
        else:
            post_process = self.model.post_process
            if post_process.class_agnostic:
                columns["classes"] = np.zeros_like(every.category_ids)
            boxes, iou_threshold = xywh_to_xyxy(every.boxes_xywh), post_process.iou_threshold
            kept = merge_boxes(grid, boxes, tile, **columns, iou_threshold=iou_threshold)
        return _Found(*(column[kept] for column in every))


def batches_by_size(data: DetectionData, batch_size: int) -> list[list[int]]:
    """Batches of places whose images have the same size after resizing."""
    canvas_wh = data.resize.resize_images(data.dataset.images.wh[data.image_rows]).canvas_wh
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place, size in enumerate(canvas_wh.tolist()):
        by_size.setdefault(tuple(size), []).append(place)
    return [
        places[start : start + batch_size] for places in by_size.values() for start in range(0, len(places), batch_size)
    ]


def validate(model: Detector, data: DetectionData, *, labels: LabelMap, **options: Any) -> dict[str, float]:
    """Metrics of a detector: COCO's twelve for boxes, or F1 at each radius and the mean count error; NaN if undefined.

    Orientations add the median error of the angles within 5 px. ``best_f1`` is the highest F1 over all categories at any
    score, at IoU .5 or within 5 px, and ``best_threshold`` that score. The options are those of :func:`find_objects`.

    The processes of a run share the images; the main one computes the metrics, and all get them.
    """
    results = find_objects(model, data, labels=labels, shared=True, **options)
    return from_main(lambda: _metrics_of(results, data, labels))


def _metrics_of(results: CocoResults, data: DetectionData, labels: LabelMap) -> dict[str, float]:
    evaluation: BoxEvaluation | LandmarkEvaluation
    if data.keypoints is None or not labels.category_types:
        evaluation = evaluate_boxes(results, data.dataset)
        metrics = asdict(evaluation.overall)
    else:
        evaluation = evaluate_landmarks(results, data.keypoints)
        metrics = {f"f1_{scores.radius:g}px": scores.micro.f1 for scores in evaluation.overall}
        metrics["count_mae"] = evaluation.overall[0].count.mae
        if data.keypoints.orientation != NO_ORIENTATION:
            angle = evaluation.overall[-1].angle
            metrics["angle_error_deg"] = math.nan if angle is None else angle.median
    metrics |= best_as_dict(evaluation.best_f1)
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def _boxes_found(detections: Detections, transform: Transform, labels: LabelMap) -> _Found:
    boxes = transform.invert_boxes(_numbers(detections.boxes))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    scores = _numbers(detections.scores)[inside]
    category_ids = np.array(labels.category_ids, np.int64)[detections.classes.cpu().numpy()[inside]]
    none = np.full((len(scores), 2), np.nan), np.full(len(scores), NO_TYPE), np.full(len(scores), np.nan)
    return _Found(category_ids, scores, xyxy_to_xywh(boxes[inside]), *none)


def _points_found(peaks: Peaks, transform: Transform, labels: LabelMap, margin_px: float, pixel_origin: str) -> _Found:
    points = _numbers(peaks.cells)
    low, high = transform.apply_to_points(np.array([[0.0, 0.0], transform.image_wh])) - ORIGIN_SHIFTS["center"]
    inside = ((points >= low - margin_px) & (points <= high + margin_px)).all(axis=1)
    category_of_type = np.array(
        [labels.keypoint_table(number)[0] for number in range(len(labels.type_names))], np.int64
    )
    types, scores = peaks.types.cpu().numpy()[inside], _numbers(peaks.scores)[inside]
    restored = transform.invert_points(points[inside], pixel_origin="center")
    angles = np.full(len(scores), np.nan)
    if peaks.angles is not None:
        tips = points[inside] + directions(_numbers(peaks.angles)[inside])
        angles = angles_between(restored, transform.invert_points(tips, pixel_origin="center"))
    restored += ORIGIN_SHIFTS["center"] - ORIGIN_SHIFTS[pixel_origin]
    return _Found(category_of_type[types], scores, np.full((len(scores), 4), np.nan), restored, types, angles)


def _as_results(rows_and_found: Sequence[tuple[int, _Found]], labels: LabelMap, orientation: str) -> CocoResults:
    """Results with one keypoint each: of a category with several, the others are 0, 0, 0, which is not predicted."""
    rows, found = [row for row, _ in rows_and_found], [each for _, each in rows_and_found]
    numbers = np.zeros(0, np.int64)
    none = _Found(numbers, np.zeros(0), np.zeros((0, 4)), np.zeros((0, 2)), numbers, np.zeros(0))  # for n = 0
    every = _Found(*(np.concatenate(column) for column in zip(none, *found, strict=True)))
    image_rows = np.repeat(np.array(rows, np.int64), [len(each.scores) for each in found])
    order = np.lexsort((-every.scores, image_rows))
    every = _Found(*(column[order] for column in every))
    places = {number: labels.keypoint_table(number) for number in np.unique(every.types).tolist() if number != NO_TYPE}
    keypoints = []
    for point, number in zip(every.points, every.types.tolist(), strict=True):
        _, place, count = places.get(number, (0, 0, 0))
        table = np.zeros((count, 3))
        if count:
            table[place] = *point, FOUND
        keypoints.append(table)
    own = (np.arange(len(order)), image_rows[order], every.category_ids, every.scores, every.boxes_xywh)
    angles = None if orientation == NO_ORIENTATION else in_degrees(every.angles, orientation)
    return CocoResults(*own, tuple(keypoints), (), angles_deg=angles)


def _numbers(values: Tensor) -> ndarray:
    return values.cpu().double().numpy()  # not every device has doubles
