"""Export of a detector to one ONNX file, checked on real images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from detect.detectors.exported import ExportedBoxes, ExportedPoints
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ExportError, MissingExtraError
from detect.evaluation.angles import angle_errors
from detect.files import temporary_folder
from detect.keypoints.orientations import NO_ORIENTATION, PER_TURN

CHECKED_AT_ONCE = 8  # images
POSITION_PX = 0.05  # differences up to these come from another order of operations in float32
SCORE = 1e-3
ANGLE_DEG = 0.1
MOST_IMAGES, LARGEST_SIDE_PX = 2**16, 2**16
DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64", "tensor(bool)": "bool"}
AXES = {  # names of the axes that are of any size
    "images": ("batch", "channels", "height", "width"),
    "heatmaps": ("batch", "types", "rows", "columns"),
    "results": ("batch", "results", "coordinates"),
}

Detector = RetinaNetDetector | LandmarkDetector
Exported = ExportedBoxes | ExportedPoints
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an ONNX file; in the shape, an axis of any size has a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ExportCheck:
    """An ONNX file, and the largest differences between what it and PyTorch detect in the images of its export.

    If ``num_found`` is 0 the images prove nothing. ``why_fixed`` says why the file takes one image size only, although
    others were wanted.
    """

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    why_fixed: str | None = None
    num_images: int = 0
    num_found: int = 0
    position_px: float = 0.0
    score: float = 0.0
    angle_deg: float = 0.0


@dataclass(frozen=True, eq=False)
class Originals:
    """Where images lie on their canvases, see :mod:`detect.detectors.exported`, and their sizes before resizing.

    Points are in the original images by the convention ``pixel_origin`` (:mod:`detect.keypoints.coordinates`).
    """

    content: Float64[Tensor, "b 4"]
    original_hw: Int64[Tensor, "b 2"]
    pixel_origin: str = "center"


def export_onnx(
    detector: Detector,
    path: str | Path,
    images: Sequence[Float[Tensor, "d _ _"]] | Float[Tensor, "b d h w"],
    image_hw: Int64[Tensor, "b 2"],
    *,
    originals: Originals | None = None,
    size_multiple: int | None = None,
    max_candidates: int = 1000,
) -> ExportCheck:
    """Write a detector as one ONNX file, for any number of images.

    The file includes normalisation, decoding and suppression, or the search for peaks. From ``images`` (0 to 1) and
    ``image_hw`` that of a :class:`RetinaNetDetector` computes ``boxes`` (b, n, 4), ``scores``, ``classes`` and ``valid``
    (b, n). That of a :class:`LandmarkDetector` computes ``points`` (b, n, 2), ``scores``, ``types`` and ``valid``, and the
    ``heatmaps`` (b, j, h / stride, w / stride), probabilities; with orientations also ``angles`` (b, n), in degrees.

    onnxruntime runs the file on the images, and its detections are compared with the detector's own.

    Args:
        images: real images, of one height and width; the file is made for this size.
        image_hw: (height, width) of each image without the padding on the right and below.
        originals: the file takes ``content`` and ``original_hw`` in place of ``image_hw``, and returns results in pixels of
            the original images: boxes clipped to the image, and no points more than a heatmap cell outside it.
        size_multiple: the file takes heights and widths that are any multiples of this number of pixels, and ``images`` may
            have several sizes. If the network cannot be written so, the file is for the size of the first image.
        max_candidates: pairs of anchor and class of an image that enter suppression, see
            :meth:`~detect.heads.postprocess.PostProcess.padded`, or its points.

    Raises:
        ExportError: the file detects something else than PyTorch, or ONNX has no form for a part of the detector. No file
            is written then.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        runtime, _, _ = map(import_module, ("onnxruntime", "onnx", "onnxscript"))
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'detect-heads[export]'") from None
    copied = copy.deepcopy(detector).cpu().float().eval()
    model = _exported(copied, max_candidates, originals.pixel_origin if originals else "center").eval()
    batches = list(_batches(images, image_hw, originals))
    path = Path(path)
    with temporary_folder(path.parent) as folder:
        written = folder / path.name
        why_fixed = _write(model, written, batches[0], size_multiple)
        session = runtime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
        inputs, outputs = (tuple(map(_info, ports)) for ports in (session.get_inputs(), session.get_outputs()))
        check = ExportCheck(path, inputs, outputs, why_fixed)
        for batch in batches:
            if batch["images"].shape[1:] == batches[0]["images"].shape[1:] or (size_multiple and not why_fixed):
                check = _check_batch(model, session, batch, check)
        written.replace(path)
    return check


def _exported(detector: Detector, max_candidates: int, pixel_origin: str) -> Exported:
    if isinstance(detector, RetinaNetDetector):
        return ExportedBoxes(detector, max_candidates=max_candidates)
    return ExportedPoints(detector, max_candidates=max_candidates, pixel_origin=pixel_origin)


def _batches(images: Sequence[Tensor] | Tensor, image_hw: Tensor, originals: Originals | None) -> Iterator[Inputs]:
    """Neighbouring images of one size, with all that belongs to them."""
    columns = {"image_hw": image_hw}
    if originals is not None:
        columns |= {"content": originals.content, "original_hw": originals.original_hw}
    for _, same in groupby(range(len(images)), key=lambda row: images[row].shape):
        rows = list(same)
        for start in range(0, len(rows), CHECKED_AT_ONCE):
            part = rows[start : start + CHECKED_AT_ONCE]
            batch = {"images": torch.stack([images[row] for row in part]).float()}
            batch |= {name: values[part] for name, values in columns.items()}
            yield {name: values.detach().cpu() for name, values in batch.items()}


def _write(model: Exported, path: Path, batch: Inputs, size_multiple: int | None) -> str | None:
    """Write the file for images of any size, or else of the batch's size; the reason if that is not as wanted."""
    rows = torch.arange(2) % len(batch["images"])  # two images: the exporter takes a batch of one as always one
    names = ("images", "content", "original_hw") if "content" in batch else ("images", "image_hw")
    inputs = {name: batch[name][rows] for name in names}
    shapes = {name: {0: torch.export.Dim("batch", max=MOST_IMAGES)} for name in names}
    if not size_multiple:
        _write_program(model, path, inputs, shapes)
        return None
    if size_multiple % model.detector.backbone.multiple:
        _write_program(model, path, inputs, shapes)
        return f"the backbone pads images to multiples of {model.detector.backbone.multiple} pixels"
    _fix_padding(model)
    height, width = (torch.export.Dim(name, max=LARGEST_SIDE_PX // size_multiple) for name in ("height", "width"))
    sizes = {2: size_multiple * height, 3: size_multiple * width}
    empty = inputs["images"].new_zeros(2, inputs["images"].shape[1], 4 * size_multiple, 5 * size_multiple)
    try:
        _write_program(model, path, {**inputs, "images": empty}, {**shapes, "images": shapes["images"] | sizes})
    except ExportError as error:
        _write_program(model, path, inputs, shapes)
        return str(error)
    return None


def _fix_padding(model: nn.Module) -> None:
    """Replace timm's convolutions whose padding depends on the input's size, on which the exporter spends hours.

    The sides of their inputs are multiples of the stride, so that the padding is always the kernel's extent less the stride.
    """
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and type(conv).__name__ == "Conv2dSame":
                below, right = (
                    (kernel - 1) * dilation + 1 - stride
                    for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
                )
                pad = nn.ZeroPad2d((right // 2, right - right // 2, below // 2, below - below // 2))
                like = {each: getattr(conv, each) for each in ("kernel_size", "stride", "dilation", "groups")}
                plain = nn.Conv2d(conv.in_channels, conv.out_channels, **like)
                plain.weight, plain.bias = conv.weight, conv.bias
                setattr(parent, name, nn.Sequential(pad, plain))


def _write_program(model: Exported, path: Path, inputs: Inputs, dynamic_shapes: Mapping[str, Any]) -> None:
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                model,
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=dict(dynamic_shapes),
                input_names=list(inputs),
                output_names=list(model.outputs),
                verbose=False,
            )
        if program is None:
            raise ExportError(f"{path.name}: the export gave no program")
        program.save(str(path))
    except Exception as error:  # the exporter raises many types for an unknown operator
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"{path.name}: ONNX has no form for the detector: {reason}") from error


def _info(port: Any) -> TensorInfo:
    """An input or output of a session."""
    names = AXES.get(port.name, AXES["results"])
    shape = tuple(size if isinstance(size, int) else name for size, name in zip(port.shape, names, strict=False))
    return TensorInfo(port.name, DTYPES[port.type], shape)


def _check_batch(model: Exported, session: Any, batch: Inputs, check: ExportCheck) -> ExportCheck:
    """The check with more images in it; raises ExportError if something is detected by only one of the two."""
    inputs = {each.name: batch[each.name].numpy() for each in check.inputs}
    outputs = session.run([name for name in model.outputs if name != "heatmaps"], inputs)
    for number, found in enumerate(model.detect(batch["images"], batch["image_hw"])):
        image = slice(number, number + 1)
        place = [batch[name][image] if name in batch else None for name in ("content", "original_hw")]
        own = _Found.of(*(each.numpy() for each in model.in_original(found, *place).columns))
        other = _Found.of(*(each[image] for each in outputs))
        position, score, angle, alone = _pair(own, other, getattr(model.detector, "orientation", NO_ORIENTATION))
        if (angle > ANGLE_DEG).any():
            raise ExportError(
                f"{check.path}: in image {check.num_images} an angle of the ONNX file is {angle.max():.3g} degrees from "
                "PyTorch's: nothing was written"
            )
        if (alone > model.threshold + SCORE).any():  # just above the threshold, rounding decides
            raise ExportError(
                f"{check.path}: in image {check.num_images} PyTorch finds {len(own.scores)}, the ONNX file "
                f"{len(other.scores)}, and {len(alone)} of them have no counterpart, with scores up to {alone.max():.3f}: "
                "nothing was written. If PyTorch finds more, raise max_candidates"
            )
        check = replace(
            check,
            num_images=check.num_images + 1,
            num_found=check.num_found + len(own.scores),
            position_px=max(check.position_px, float(position.max(initial=0))),
            score=max(check.score, float(score.max(initial=0))),
            angle_deg=max(check.angle_deg, float(angle.max(initial=0))),
        )
    return check


class _Found(NamedTuple):
    """The results of one image: boxes or points, their scores, their classes or keypoint types, and angles or none."""

    positions: Float[ndarray, "n k"]
    scores: Float[ndarray, " n"]
    kinds: Int64[ndarray, " n"]
    angles: Float[ndarray, " n"]

    @classmethod
    def of(
        cls, positions: ndarray, scores: ndarray, kinds: ndarray, valid: ndarray, angles: ndarray | None = None
    ) -> _Found:
        """The valid results of a batch of one."""
        degrees = np.zeros_like(scores) if angles is None else angles
        return cls(positions[valid], scores[valid], kinds[valid], degrees[valid])


def _pair(own: _Found, other: _Found, orientation: str) -> tuple[Float[ndarray, " _"], ...]:
    """Differences in position, score and angle of the pairs found in both, and the scores of those without a counterpart."""
    position = np.abs(own.positions[:, None] - other.positions[None]).max(axis=2, initial=0)
    score = np.abs(own.scores[:, None] - other.scores[None])
    far = np.maximum(position / POSITION_PX, score / SCORE)
    far[own.kinds[:, None] != other.kinds[None]] = np.inf
    rows, columns = linear_sum_assignment(np.minimum(far, 1e6))
    same = far[rows, columns] <= 1
    rows, columns = rows[same], columns[same]
    alone = np.concatenate([np.delete(own.scores, rows), np.delete(other.scores, columns)])
    angle = angle_errors(own.angles[rows], other.angles[columns], period=360.0 / PER_TURN.get(orientation, 1))
    return position[rows, columns], score[rows, columns], angle, alone
