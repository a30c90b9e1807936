"""``detector.json``: what a program needs to know to run an exported ONNX file, in keys that stay."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from detect.data.resize import SIZE_DIVISOR, ResizeRule
from detect.keypoints.orientations import NO_ORIENTATION
from detect.loading.image_ops import MODES

if TYPE_CHECKING:
    from detect.detectors.onnx import ExportCheck
    from detect.training.checkpoints import TrainedDetector

ROUNDINGS = {"": 0.0, "mmdet": 0.5, "detectron2": 0.5}  # of shortest:S:MAX, by convention
CONTENT = (
    "x0, y0, x1, y1 of the image on the canvas: offset and offset + image size * scale of the resize rule, not rounded"
)
IMAGE_HW = (
    "height and width up to the image's bottom right corner on the canvas, in whole pixels: offset + size of the resize "
    "rule. Of a centred letterbox this is more than the size of the image"
)
MEANINGS = {
    "images": "a batch of canvases: images resized and padded by the rule, values from 0 to 1",
    "image_hw": IMAGE_HW,
    "content": CONTENT,
    "original_hw": "height and width of the upright image in pixels, before resizing",
    "boxes": "x0, y0, x1, y1",
    "points": "x, y",
    "scores": "from 0 to 1, falling",
    "classes": "index into classes",
    "types": "index into keypoint_types",
    "angles": "degrees clockwise on screen, 0 to the right: from -180 up to 180, of an axis from 0 up to 180",
    "valid": "whether this row is a result: the others fill up the batch",
    "heatmaps": "probability of each cell of stride x stride pixels of the canvas, before peaks are searched",
}
_ROUNDED = "rounded to whole pixels, halves to the even number, at least 1"
_PLACES: dict[str, dict[str, str]] = {  # by kind of rule
    "none": {"scale": "1", "size": "that of the image", "canvas": "that of the image", "offset": "0"},
    "stretch": {
        "scale": "width / image width, height / image height",
        "size": "width x height",
        "canvas": "width x height",
        "offset": "0",
    },
    "letterbox": {
        "scale": "min(width / image width, height / image height), for both axes",
        "size": f"image size * scale, {_ROUNDED}",
        "canvas": "width x height",
        "offset": "(canvas - size) / 2 - 0.1, rounded to the nearest: an odd pixel is right and below",
    },
    "shortest": {
        "scale": "size / image size, for each axis",
        "size": "floor(image size * min(short / shorter side, long / longer side) + rounding), at least 1",
        "canvas": "size, each side rounded up to a multiple of `multiple`",
        "offset": "0",
    },
    "tiles": {
        "scale": "1",
        "size": "that of the image, which is a window of at most width x height",
        "canvas": "width x height",
        "offset": "0",
    },
}


def describe_export(
    trained: TrainedDetector, check: ExportCheck, *, max_candidates: int, original: bool
) -> dict[str, Any]:
    """The content of ``detector.json`` for an ONNX file."""
    model, labels = trained.config.model, trained.labels
    boxes = trained.task == "boxes"
    oriented = not boxes and trained.config.data.orientation != NO_ORIENTATION
    ports = {
        name: [{**vars(port), "meaning": MEANINGS[port.name]} for port in each]
        for name, each in (("inputs", check.inputs), ("outputs", check.outputs))
    }
    return {
        "file": check.path.name,
        "sha256": hashlib.sha256(check.path.read_bytes()).hexdigest(),
        **ports,
        "image": _image(trained.channels),
        "resize": describe_resize(trained.resize),
        "coordinates": _coordinates(
            trained.config.data.pixel_origin, boxes=boxes, original=original, oriented=oriented
        ),
        "thresholds": {
            "score": model.score_threshold if boxes else model.threshold,
            "best_score": trained.best_threshold,  # of the highest F1 on the run's validation data
            "nms": model.nms if boxes else None,
            "class_agnostic": model.class_agnostic if boxes else None,
            "iou": model.iou_threshold if boxes else None,
            "sigma": model.sigma if boxes else None,
            "max_results": model.detections_per_image if boxes else max_candidates,
            "max_candidates": max_candidates,
        },
        "keypoint_types": [
            dict(
                zip(
                    ("name", "category_id", "place", "num_keypoints"),
                    (name, *labels.keypoint_table(index)),
                    strict=True,
                )
            )
            for index, name in enumerate(labels.type_names)
        ],
        "stride": None if boxes else model.stride,
        "why_fixed_size": check.why_fixed,
        "verified": {
            "images": check.num_images,
            "results": check.num_found,
            "largest_difference_px": check.position_px,
            "largest_difference_score": check.score,
            "largest_difference_deg": check.angle_deg if oriented else None,
        },
    }


def describe_resize(rule: ResizeRule) -> dict[str, Any]:
    """A resize rule in numbers and words.

    >>> from detect.data.resize import parse_resize
    >>> described = describe_resize(parse_resize("letterbox:640"))
    >>> described["kind"], described["width"], described["height"], described["padding_value"]
    ('letterbox', 640, 640, 0)
    """
    numbers: dict[str, Any] = {}
    if rule.name == "shortest":
        numbers = dict(zip(("short", "long"), rule.sizes, strict=True))
        numbers |= {"rounding": ROUNDINGS[rule.convention], "multiple": SIZE_DIVISOR}
    elif rule.sizes:
        width, height = (rule.sizes * 2)[:2] if rule.name != "tiles" else rule.sizes[:1] * 2
        numbers = {"width": width, "height": height}
    return {
        "rule": str(rule),
        "kind": rule.name,
        **numbers,
        **_PLACES[rule.name],
        "padding_value": 0,
        "interpolation": "bilinear, antialiased where the image shrinks, each channel by itself, 8-bit images rounded to 8 "
        "bits: Pillow's resize with BILINEAR",
    }


def _image(channels: int) -> dict[str, Any]:
    grey = "L = 0.299 R + 0.587 G + 0.114 B" if channels == 1 else "repeated in the colours; alpha is 1"
    return {
        "channels": channels,
        "mode": MODES[channels],
        "layout": "batch, channels, height, width; channels in the order of mode",
        "range": [0, 1],
        "values": "8-bit values / 255; 16-bit values / 65535, in all channels",
        "grey": grey,
        "orientation": "upright: EXIF orientation applied",
    }


def _coordinates(pixel_origin: str, *, boxes: bool, original: bool, oriented: bool) -> dict[str, str]:
    if boxes or (original and pixel_origin == "corner"):
        pixels = "continuous: pixel i covers i to i + 1, the image's edges are 0 and its size"
        to_original = "(x - offset) / scale, clipped to the image; drop boxes of which nothing is left"
    else:
        pixels = "pixel indices: the centre of the first pixel is 0"
        to_original = "(x + 0.5 - offset) / scale - 0.5"
    frame = {"frame": "original"} if original else {"frame": "canvas", "to_original": to_original}
    if oriented and not original:
        frame["angles_to_original"] = "atan2(sin(angle) / scale along y, cos(angle) / scale along x)"
    return {**frame, "pixels": pixels}
