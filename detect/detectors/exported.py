"""Detectors as they are exported: modules from images to a fixed number of results for each image.

No shape depends on the data. ``content`` (x0, y0, x1, y1) is where an image lies on its canvas, the network's input: the
corners (0, 0) and (width, height) moved by the resize rule and not rounded, so that the scale along x is exactly (x1 - x0) /
width. Everything is in continuous pixels, in which pixel i covers [i, i + 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from detect.conventions import ORIGIN_SHIFTS
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.keypoints.orientations import NO_ORIENTATION, in_degrees

Content = Float64[Tensor, "b 4"]
Sizes = Int64[Tensor, "b 2"]


class Results(NamedTuple):
    """Boxes or points of each image, their scores, classes or keypoint types, and which of them are real.

    Points of a detector with orientations have angles, in degrees as ``detect predict`` writes them.
    """

    positions: Float[Tensor, "b n k"]
    scores: Float[Tensor, "b n"]
    kinds: Int64[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]
    angles: Float[Tensor, "b n"] | None = None

    def where(self, valid: Bool[Tensor, "b n"], positions: Float[Tensor, "b n k"]) -> Results:
        """Other positions, and zeros where the results are not ``valid``."""
        moved = positions.to(self.positions).where(valid[..., None], 0)
        angles = None if self.angles is None else self.angles.where(valid, 0)
        return Results(moved, self.scores.where(valid, 0), self.kinds.where(valid, 0), valid, angles)

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """The results without angles that there are not."""
        return tuple(each for each in self if each is not None)


class ExportedBoxes(nn.Module):
    """A box detector: boxes (x0, y0, x1, y1), scores, classes and ``valid``, in falling order of score.

    The inputs are images with either ``image_hw``, or ``content`` and ``original_hw``. With the latter, boxes are in pixels
    of the original images, clipped to them, and not valid if nothing is left.
    """

    outputs = ("boxes", "scores", "classes", "valid")

    def __init__(self, detector: RetinaNetDetector, *, max_candidates: int = 1000) -> None:
        super().__init__()
        self.detector = detector
        self.threshold = detector.post_process.lowest_threshold
        self.max_candidates = max_candidates

    def forward(
        self,
        images: Float[Tensor, "b d h w"],
        image_hw: Sizes | None = None,
        content: Content | None = None,
        original_hw: Sizes | None = None,
    ) -> tuple[Tensor, ...]:
        detector, end_hw = self.detector, _end_hw(image_hw, content)
        maps = detector.features(images)
        anchors = detector.grid.generate([(level.shape[-2], level.shape[-1]) for level in maps], device=images.device)
        most = self.max_candidates
        found = detector.post_process.padded(detector.head(maps), anchors, image_hw=end_hw, max_candidates=most)
        return self.in_original(Results(*found), content, original_hw).columns

    def detect(self, images: Float[Tensor, "b d h w"], image_hw: Sizes) -> list[Results]:
        """What the detector itself finds: one batch of one for each image."""
        found = self.detector.detect(images, image_hw)
        return [_all_valid(each.boxes, each.scores, each.classes) for each in found]

    def in_original(self, found: Results, content: Content | None, original_hw: Sizes | None) -> Results:
        """Results in pixels of the original images, if they are given."""
        if content is None or original_hw is None:
            return found
        boxes = _uncanvas(found.positions, content, original_hw)
        boxes = boxes.clamp(min=0).minimum(_wh(original_hw).repeat(1, 2)[:, None])
        return found.where(found.valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=2), boxes)


class ExportedPoints(nn.Module):
    """A landmark detector: points (x, y), scores, keypoint types and ``valid``, in falling order of score, and the heatmaps.

    With orientations there are ``angles`` too, in degrees clockwise, from -180 up to 180 or, of an axis, from 0 up to 180.

    The inputs are those of :class:`ExportedBoxes`. Points are pixel indices: the centre of the first pixel is (0, 0). With
    ``content`` they are in the original images, by the convention ``pixel_origin``, and not valid if they lie more than a
    heatmap cell outside.
    """

    def __init__(self, detector: LandmarkDetector, *, max_candidates: int = 1000, pixel_origin: str = "center") -> None:
        super().__init__()
        self.detector = detector
        self.threshold = detector.threshold
        self.max_candidates = max_candidates
        self.pixel_origin = pixel_origin
        oriented = detector.orientation != NO_ORIENTATION
        self.outputs = ("points", "scores", "types", "valid", *(["angles"] if oriented else []), "heatmaps")

    def forward(
        self,
        images: Float[Tensor, "b d h w"],
        image_hw: Sizes | None = None,
        content: Content | None = None,
        original_hw: Sizes | None = None,
    ) -> tuple[Tensor, ...]:
        output, end_hw = self.detector(images), _end_hw(image_hw, content)
        heatmaps, most = output.logits.sigmoid(), self.max_candidates
        peaks, angles = self.detector.read_padded(heatmaps, end_hw, output.orientations, max_peaks=most)
        return (*self.in_original(Results(*peaks, angles), content, original_hw).columns, heatmaps)

    def detect(self, images: Float[Tensor, "b d h w"], image_hw: Sizes) -> list[Results]:
        """What the detector itself finds: one batch of one for each image."""
        peaks = self.detector.detect(images, image_hw)
        found = map(peaks.of_image, range(len(images)))
        return [_all_valid(each.cells, each.scores, each.types, each.angles) for each in found]

    def in_original(self, found: Results, content: Content | None, original_hw: Sizes | None) -> Results:
        """Results in pixels of the original images, if they are given, with angles in degrees instead of radians."""
        if found.angles is not None:
            found = found._replace(angles=self._in_degrees(found.angles, content, original_hw).where(found.valid, 0))
        if content is None or original_hw is None:
            return found
        points, margin = found.positions.double() + ORIGIN_SHIFTS["center"], float(self.detector.stride)
        inside = (points >= content[:, None, :2] - margin) & (points <= content[:, None, 2:] + margin)
        restored = _uncanvas(points, content, original_hw) - ORIGIN_SHIFTS[self.pixel_origin]
        return found.where(found.valid & inside.all(dim=2), restored)

    def _in_degrees(self, angles: Float[Tensor, "b n"], content: Content | None, original_hw: Sizes | None) -> Tensor:
        """Angles in degrees; a resize rule that scales x and y differently changes them."""
        if content is not None and original_hw is not None:
            scale = ((content[:, 2:] - content[:, :2]) / _wh(original_hw)).to(angles)
            angles = torch.atan2(angles.sin() / scale[:, 1:], angles.cos() / scale[:, :1])
        return in_degrees(angles, self.detector.orientation)


def _all_valid(positions: Tensor, scores: Tensor, kinds: Tensor, angles: Tensor | None = None) -> Results:
    valid = torch.ones_like(kinds[None], dtype=torch.bool)
    return Results(positions[None], scores[None], kinds[None], valid, None if angles is None else angles[None])


def _end_hw(image_hw: Sizes | None, content: Content | None) -> Sizes:
    """(height, width) up to the end of each image on its canvas, in whole pixels, as the resize rules round it."""
    if content is None:
        if image_hw is None:
            raise ValueError("need image_hw, or content and original_hw")
        return image_hw
    extent = (content[:, 2:] - content[:, :2]).round().clamp(min=1)
    return (content[:, :2] + extent).flip(1).to(torch.int64)


def _uncanvas(positions: Float[Tensor, "b n k"], content: Content, original_hw: Sizes) -> Float64[Tensor, "b n k"]:
    """Continuous points or boxes of the canvas in the original images."""
    scale, num_points = (content[:, 2:] - content[:, :2]) / _wh(original_hw), positions.shape[2] // 2
    start, scale = (each.repeat(1, num_points)[:, None] for each in (content[:, :2], scale))
    return (positions.double() - start) / scale


def _wh(hw: Sizes) -> Float64[Tensor, "b 2"]:
    return hw.flip(1).double()
