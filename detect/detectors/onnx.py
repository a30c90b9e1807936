"""Detectors for other programs: one ONNX file, checked on real images, and weights as torchvision names them."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ExportError, MissingExtraError
from detect.heads.postprocess import DetectionHead

IMAGES_AT_ONCE = 8  # in the check
POSITION_PX = 0.05  # what counts as the same: float32 in another order of operations
SCORE = 1e-3

Detector = RetinaNetDetector | LandmarkDetector


@dataclass(frozen=True)
class ExportCheck:
    """What the file found in the images given, beside what PyTorch finds: the same, but for these largest differences.

    Where ``num_found`` is 0 the images tell nothing.
    """

    path: Path
    num_images: int
    num_found: int
    position_px: float
    score: float


def export_onnx(
    detector: Detector,
    path: str | Path,
    images: Float[Tensor, "b d h w"],
    image_hw: Int64[Tensor, "b 2"],
    *,
    max_candidates: int = 1000,
) -> ExportCheck:
    """Write a detector as one ONNX file, for any number of images of the height and width of those given.

    Of a :class:`RetinaNetDetector` everything is in the file, normalisation, decoding and suppression too: ``images`` from 0
    to 1 and ``image_hw`` give ``boxes`` (b, n, 4), ``scores``, ``classes`` and ``valid`` (b, n). Of a
    :class:`LandmarkDetector` ``images`` give ``heatmaps`` (b, j, h / stride, w / stride), probabilities, for
    :func:`~detect.keypoints.peaks.find_peaks`.

    The file is run by onnxruntime on the images, and what it finds compared with what ``detect`` finds.

    Args:
        detector: it is left as it is, in training or not.
        path: of the file.
        images: real ones.
        image_hw: (height, width) of each without padding.
        max_candidates: pairs of anchor and class that meet in suppression, see
            :meth:`~detect.heads.postprocess.PostProcess.padded`.

    Raises:
        ExportError: the file does not find what PyTorch finds, or something in the detector has no form in ONNX; then no
            file is written.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    runtime = _import_packages()
    model = copy.deepcopy(detector).cpu().float().eval()
    images, image_hw = images.detach().cpu().float(), image_hw.cpu()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx-") as folder:
        beside = Path(folder) / path.name
        _write(_for_export(model, max_candidates), beside, images, image_hw)
        session = runtime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        check = ExportCheck(path, 0, 0, 0.0, 0.0)
        for batch in _batches(images, image_hw):
            check = _compare(*_of_batch(model, session, *batch), check, least=_least_score(model))
        beside.replace(path)
    return check


class _Found(NamedTuple):
    """What is in one image."""

    positions: Float[ndarray, "n k"]
    scores: Float[ndarray, " n"]
    kinds: Int64[ndarray, " n"]


class _Boxes(nn.Module):
    def __init__(self, detector: RetinaNetDetector, max_candidates: int) -> None:
        super().__init__()
        self.detector = detector
        self.detections = DetectionHead(
            detector.head, detector.grid, detector.post_process, max_candidates=max_candidates
        )

    def forward(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detections(self.detector.features(images), image_hw))


class _Heatmaps(nn.Module):
    def __init__(self, detector: LandmarkDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        return self.detector(images).logits.sigmoid()


def _import_packages() -> Any:
    try:
        import_module("onnx"), import_module("onnxscript")
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'detect-heads[export]'") from None


def _for_export(model: Detector, max_candidates: int) -> nn.Module:
    exported = _Boxes(model, max_candidates) if isinstance(model, RetinaNetDetector) else _Heatmaps(model)
    return exported.eval()


def _write(model: nn.Module, path: Path, images: Tensor, image_hw: Tensor) -> None:
    names = ["boxes", "scores", "classes", "valid"] if isinstance(model, _Boxes) else ["heatmaps"]
    rows = torch.arange(2) % len(images)  # two, since a batch of one is taken for always one
    inputs = {"images": images[rows], "image_hw": image_hw[rows]}
    if names == ["heatmaps"]:
        del inputs["image_hw"]
    batch = {0: torch.export.Dim("b", max=2**16)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            program = torch.onnx.export(
                model,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=dict.fromkeys(inputs, batch),
                input_names=list(inputs),
                output_names=names,
                verbose=False,
            )
        if program is None:
            raise ExportError(f"{path.name}: nothing came of the export")
        program.save(str(path))
    except Exception as error:  # whatever the exporter raises at an operator that it does not know
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"{path.name}: the detector has no form in ONNX: {reason}") from error


def _batches(images: Tensor, image_hw: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(images, IMAGES_AT_ONCE), torch.split(image_hw, IMAGES_AT_ONCE), strict=True))


def _of_batch(model: Detector, session: Any, images: Tensor, image_hw: Tensor) -> tuple[list[_Found], list[_Found]]:
    """What PyTorch finds in each image, and what the file finds."""
    inputs = {"images": images.numpy(), "image_hw": image_hw.numpy()}
    outputs = session.run(None, {each.name: inputs[each.name] for each in session.get_inputs()})
    if isinstance(model, RetinaNetDetector):
        wanted = [(each.boxes, each.scores, each.classes) for each in model.detect(images, image_hw)]
        got = [
            (boxes[valid], scores[valid], classes[valid])
            for boxes, scores, classes, valid in zip(*outputs, strict=True)
        ]
    else:
        both = model.detect(images, image_hw), model.read_points(torch.as_tensor(outputs[0]), image_hw)
        wanted, got = (
            [(each.cells, each.scores, each.types) for each in map(peaks.of_image, range(len(images)))]
            for peaks in both
        )
    return [_Found(*map(np.asarray, each)) for each in wanted], [_Found(*map(np.asarray, each)) for each in got]


def _least_score(model: Detector) -> float:
    return model.post_process.score_threshold if isinstance(model, RetinaNetDetector) else model.threshold


def _compare(wanted: Sequence[_Found], got: Sequence[_Found], check: ExportCheck, *, least: float) -> ExportCheck:
    """The check with these images in it.

    Raises:
        ExportError: something is found in one of the two only.
    """
    for own, other in zip(wanted, got, strict=True):
        position, score, alone = _pair(own, other)
        if (alone > least + SCORE).any():  # what is hardly above the threshold may be so in one of the two only
            raise ExportError(
                f"{check.path}: in image {check.num_images} PyTorch finds {len(own.scores)}, the ONNX file "
                f"{len(other.scores)}, and {len(alone)} of them have no counterpart, with scores up to {alone.max():.3f}: "
                "nothing was written. Where PyTorch finds more, more candidates may be needed than the file takes"
            )
        check = replace(
            check,
            num_images=check.num_images + 1,
            num_found=check.num_found + len(own.scores),
            position_px=max(check.position_px, float(position.max(initial=0))),
            score=max(check.score, float(score.max(initial=0))),
        )
    return check


def _pair(own: _Found, other: _Found) -> tuple[Float[ndarray, " m"], Float[ndarray, " m"], Float[ndarray, " _"]]:
    """Differences in position and score of what is the same in both, and the scores of what has no counterpart."""
    position = np.abs(own.positions[:, None] - other.positions[None]).max(axis=2, initial=0)
    score = np.abs(own.scores[:, None] - other.scores[None])
    far = np.maximum(position / POSITION_PX, score / SCORE)
    far[own.kinds[:, None] != other.kinds[None]] = np.inf
    rows, columns = linear_sum_assignment(np.minimum(far, 1e6))
    same = far[rows, columns] <= 1
    rows, columns = rows[same], columns[same]
    alone = np.concatenate([np.delete(own.scores, rows), np.delete(other.scores, columns)])
    return position[rows, columns], score[rows, columns], alone
