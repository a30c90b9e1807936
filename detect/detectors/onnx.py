"""Export of a detector to one ONNX file, checked on real images."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from detect.anchors.generator import AnchorGenerator
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ExportError, MissingExtraError
from detect.heads.fpn import FeatureMaps, list_maps
from detect.heads.postprocess import PaddedDetections, PostProcess
from detect.heads.retinanet import RetinaNetHead
from detect.keypoints.peaks import Peaks

CHECKED_AT_ONCE = 8  # images
POSITION_PX = 0.05  # differences up to these come from another order of operations in float32
SCORE = 1e-3

Detector = RetinaNetDetector | LandmarkDetector


@dataclass(frozen=True)
class ExportCheck:
    """The largest differences between what the ONNX file and PyTorch detect in the images of an export.

    If ``num_found`` is 0 the images prove nothing.
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
    """Write a detector as one ONNX file, for any number of images of one height and width.

    The file of a :class:`RetinaNetDetector` includes normalisation, decoding and suppression: from ``images`` (0 to 1) and
    ``image_hw`` it computes ``boxes`` (b, n, 4), ``scores``, ``classes`` and ``valid`` (b, n). The file of a
    :class:`LandmarkDetector` computes ``heatmaps`` (b, j, h / stride, w / stride), probabilities, from ``images``; read them
    with :func:`~detect.keypoints.peaks.find_peaks`.

    onnxruntime runs the file on the images, and its detections are compared with the detector's own.

    Args:
        images: real images, whose height and width the file is made for.
        image_hw: (height, width) of each image without padding.
        max_candidates: pairs of anchor and class that enter suppression, see
            :meth:`~detect.heads.postprocess.PostProcess.padded`.

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
    model = _Boxes(copied, max_candidates) if isinstance(copied, RetinaNetDetector) else _Heatmaps(copied)
    images, image_hw = images.detach().cpu().float(), image_hw.cpu()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx-") as folder:
        written = Path(folder) / path.name
        _write(model.eval(), written, images, image_hw)
        session = runtime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
        check = ExportCheck(path, 0, 0, 0.0, 0.0)
        for batch in zip(images.split(CHECKED_AT_ONCE), image_hw.split(CHECKED_AT_ONCE), strict=True):  # type: ignore[no-untyped-call]
            inputs = {name: values.numpy() for name, values in zip(model.inputs, batch, strict=False)}
            outputs = session.run(None, inputs)
            check = _compare(model.detect(*batch), model.read(outputs, batch[1]), check, threshold=model.threshold)
        written.replace(path)
    return check


class DetectionHead(nn.Module):
    """A head with its post-processing: from feature maps of any size to a fixed number of detections for each image.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> grid = AnchorGenerator(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    >>> model = DetectionHead(RetinaNetHead(16, grid.num_anchors, num_classes=3), grid)
    >>> found = model([torch.rand(2, 16, 4, 6), torch.rand(2, 16, 2, 3)], torch.tensor([[32, 48], [30, 40]]))
    >>> found.boxes.shape, found.valid.any().item()  # 30 anchors of 3 classes; every score starts at .01
    (torch.Size([2, 90, 4]), False)

    The strides of ``grid`` are exact: others depend on the size of the padded input, which feature maps do not give. For
    ``max_candidates`` see :meth:`~detect.heads.postprocess.PostProcess.padded`.
    """

    def __init__(
        self,
        head: RetinaNetHead,
        grid: AnchorGenerator,
        post_process: PostProcess | None = None,
        *,
        max_candidates: int = 1000,
    ) -> None:
        super().__init__()
        head.check_anchors(grid.num_anchors)
        if grid.convention.stride_mode != "exact":
            raise ValueError(f"need a grid with strides='exact', got {grid.convention.stride_mode!r}")
        self.head = head
        self.grid = grid
        self.post_process = post_process or PostProcess()
        self.max_candidates = max_candidates

    def forward(self, features: FeatureMaps, image_hw: Int64[Tensor, "b 2"]) -> PaddedDetections:
        """The detections; ``image_hw`` is (height, width) of each image without padding."""
        maps = list_maps(features)
        output = self.head(maps)
        level_hw = [(level.shape[-2], level.shape[-1]) for level in maps]
        anchors = self.grid.generate(level_hw, device=output.logits.device)
        return self.post_process.padded(output, anchors, image_hw=image_hw, max_candidates=self.max_candidates)


class _Found(NamedTuple):
    """The detections of one image: boxes or points, their scores, and their classes or keypoint types."""

    positions: Float[ndarray, "n k"]
    scores: Float[ndarray, " n"]
    kinds: Int64[ndarray, " n"]


class _Boxes(nn.Module):
    """The exported form of a box detector."""

    inputs = ("images", "image_hw")
    outputs = ("boxes", "scores", "classes", "valid")

    def __init__(self, detector: RetinaNetDetector, max_candidates: int) -> None:
        super().__init__()
        self.detector = detector
        self.threshold = detector.post_process.lowest_threshold
        self.detections = DetectionHead(
            detector.head, detector.grid, detector.post_process, max_candidates=max_candidates
        )

    def forward(self, images: Tensor, image_hw: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detections(self.detector.features(images), image_hw))

    def detect(self, images: Tensor, image_hw: Tensor) -> list[_Found]:
        found = self.detector.detect(images, image_hw)
        return [_Found(each.boxes.numpy(), each.scores.numpy(), each.classes.numpy()) for each in found]

    def read(self, outputs: Sequence[ndarray], _: Tensor) -> list[_Found]:
        """Detections from the outputs of the file."""
        return [
            _Found(boxes[valid], scores[valid], classes[valid])
            for boxes, scores, classes, valid in zip(*outputs, strict=True)
        ]


class _Heatmaps(nn.Module):
    """The exported form of a landmark detector."""

    inputs = ("images",)
    outputs = ("heatmaps",)

    def __init__(self, detector: LandmarkDetector) -> None:
        super().__init__()
        self.detector = detector
        self.threshold = detector.threshold

    def forward(self, images: Tensor) -> Tensor:
        return self.detector(images).logits.sigmoid()

    def detect(self, images: Tensor, image_hw: Tensor) -> list[_Found]:
        return self._by_image(self.detector.detect(images, image_hw), len(images))

    def read(self, outputs: Sequence[ndarray], image_hw: Tensor) -> list[_Found]:
        """Detections from the outputs of the file."""
        return self._by_image(self.detector.read_points(torch.as_tensor(outputs[0]), image_hw), len(image_hw))

    @staticmethod
    def _by_image(peaks: Peaks, num_images: int) -> list[_Found]:
        images = map(peaks.of_image, range(num_images))
        return [_Found(*map(np.asarray, (each.cells, each.scores, each.types))) for each in images]


def _write(model: _Boxes | _Heatmaps, path: Path, images: Tensor, image_hw: Tensor) -> None:
    rows = torch.arange(2) % len(images)  # two images: the exporter takes a batch of one as always one
    inputs = dict(zip(model.inputs, (images[rows], image_hw[rows]), strict=False))
    batch = {0: torch.export.Dim("b", max=2**16)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own warnings
            program = torch.onnx.export(
                model,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=dict.fromkeys(inputs, batch),
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


def _compare(expected: Sequence[_Found], got: Sequence[_Found], check: ExportCheck, *, threshold: float) -> ExportCheck:
    """The check with more images in it; raises ExportError if something is detected by only one of the two."""
    for own, other in zip(expected, got, strict=True):
        position, score, alone = _pair(own, other)
        if (alone > threshold + SCORE).any():  # just above the threshold, rounding decides
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
        )
    return check


def _pair(own: _Found, other: _Found) -> tuple[Float[ndarray, " m"], Float[ndarray, " m"], Float[ndarray, " _"]]:
    """Differences in position and score of the pairs found in both, and the scores of detections without a counterpart."""
    position = np.abs(own.positions[:, None] - other.positions[None]).max(axis=2, initial=0)
    score = np.abs(own.scores[:, None] - other.scores[None])
    far = np.maximum(position / POSITION_PX, score / SCORE)
    far[own.kinds[:, None] != other.kinds[None]] = np.inf
    rows, columns = linear_sum_assignment(np.minimum(far, 1e6))
    same = far[rows, columns] <= 1
    rows, columns = rows[same], columns[same]
    alone = np.concatenate([np.delete(own.scores, rows), np.delete(other.scores, columns)])
    return position[rows, columns], score[rows, columns], alone
