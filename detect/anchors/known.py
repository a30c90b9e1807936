"""Anchors that detectors ship with, by name, to compare with fitted ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detect.anchors.anchor_set import AnchorSet
from detect.errors import AnchorFileError

CORNER = 0.0  # torchvision, detectron2 and mmdetection centre anchors on the top left corner of their cell
OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # Lin et al. 2017, section 4: three sizes per octave
RATIOS = (0.5, 1.0, 2.0)  # height / width


def load_anchors(name_or_path: str | Path) -> AnchorSet:
    """Load a known set by name, or an ``anchors.yaml`` by its path or its folder.

    Raises:
        AnchorFileError: the argument is neither a known name nor a readable file.

    >>> load_anchors("yolov2-voc").num_anchors
    5
    """
    if known := KNOWN_ANCHORS.get(str(name_or_path)):
        return known
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "anchors.yaml"
    if not path.exists():
        raise AnchorFileError(f"{name_or_path}: no such file; known by name: {', '.join(sorted(KNOWN_ANCHORS))}")
    return AnchorSet.load(path)


def _scaled(pairs: Sequence[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    return [(width * factor, height * factor) for width, height in pairs]


def _sizes_by_ratios(sizes: Sequence[float], ratios: Sequence[float] = RATIOS) -> list[tuple[float, float]]:
    """All sizes by all ratios, sizes varying faster: the order of torchvision's and mmdetection's channels."""
    return [(size / ratio**0.5, size * ratio**0.5) for ratio in ratios for size in sizes]


# Redmon and Farhadi 2017, yolov2-voc.cfg and yolov2.cfg: in cells of 32 pixels
_YOLOV2_VOC = [(1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071)]
_YOLOV2_COCO = [(0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828)]
# Redmon and Farhadi 2018, yolov3.cfg; the same rows are YOLOv5's at 640
_YOLOV3_COCO = [
    [(10, 13), (16, 30), (33, 23)],
    [(30, 61), (62, 45), (59, 119)],
    [(116, 90), (156, 198), (373, 326)],
]

KNOWN_ANCHORS = {
    anchors.name: anchors
    for anchors in (
        # Lin et al. 2017, section 4: sizes 32 to 512 on P3 to P7, three octave steps, three ratios
        AnchorSet.of(
            [_sizes_by_ratios([4 * stride * step for step in OCTAVE]) for stride in (8, 16, 32, 64, 128)],
            strides=(8, 16, 32, 64, 128),
            resize="shortest:800:1333",
            name="retinanet",
            center_offset=CORNER,
        ),
        # Lin et al. 2017 (feature pyramids), section 4.1: one size per level on P2 to P6, three ratios
        AnchorSet.of(
            [_sizes_by_ratios([8.0 * stride]) for stride in (4, 8, 16, 32, 64)],
            strides=(4, 8, 16, 32, 64),
            resize="shortest:800:1333",
            name="faster-rcnn-fpn",
            center_offset=CORNER,
        ),
        AnchorSet.of([_scaled(_YOLOV2_VOC, 32)], strides=(32,), resize="stretch:416x416", name="yolov2-voc"),
        AnchorSet.of([_scaled(_YOLOV2_COCO, 32)], strides=(32,), resize="stretch:416x416", name="yolov2-coco"),
        AnchorSet.of(_YOLOV3_COCO, strides=(8, 16, 32), resize="stretch:416x416", name="yolov3-coco"),
        AnchorSet.of(_YOLOV3_COCO, strides=(8, 16, 32), resize="letterbox:640", name="yolov5-coco"),
    )
}
