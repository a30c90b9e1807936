"""A complete landmark detector: backbone, pyramid, heatmaps, loss and the points read from the heatmaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.detectors.backbones import Backbone, Normalise, PyramidLevels
from detect.heads.criterion import Normalizer
from detect.heads.heatmap import HeatmapHead, HeatmapOutput
from detect.keypoints.coordinates import cells_to_image
from detect.keypoints.keypoints import Keypoints
from detect.keypoints.orientations import NO_ORIENTATION, PER_TURN, check_orientation, read_angles
from detect.keypoints.padded_peaks import PaddedPeaks, find_padded_peaks
from detect.keypoints.peaks import Peaks, find_peaks
from detect.keypoints.targets import HeatmapTargets, render_heatmaps
from detect.losses import batch_normalizer, heatmap_focal_loss, points_l1_loss

KEYPOINT_COLUMNS = ("points", "image", "types", "visibility")
NUM_TURNED = 8  # turns and reflections of an image
PIXEL_ORIGIN = "center"  # points are in pixel indices: the first pixel's centre is (0, 0)


class LandmarkLosses(NamedTuple):
    """The loss of a batch, normalised already."""

    heatmap: Float[Tensor, ""]


class OrientedLosses(NamedTuple):
    """The losses of a batch for a detector with orientations, normalised and weighted already."""

    heatmap: Float[Tensor, ""]
    orientation: Float[Tensor, ""]


class LandmarkDetector(nn.Module):
    """A backbone, a feature pyramid and heatmaps of one stride, one for each keypoint type.

    The heatmaps learn Gaussians at the points by the focal loss (Law and Deng 2018, equation 1); the detections are their
    peaks. Images are batches of floats from 0 to 1, padded right and below; points are (x, y) in pixel indices.

    >>> from detect.detectors.backbones import build_backbone
    >>> detector = LandmarkDetector(build_backbone("tiny", strides=(2, 4, 8), in_channels=1), num_types=3)
    >>> detector(torch.rand(1, 1, 32, 47)).logits.shape
    torch.Size([1, 3, 16, 24])

    Args:
        backbone: has a map of the stride; its coarser maps feed that level.
        stride: of the heatmaps, in image pixels.
        sigma_cells: standard deviation of the Gaussians, in cells.
        threshold: a peak's value in the heatmap is above it.
        pyramid_channels: channels of the pyramid and of :class:`~detect.heads.heatmap.HeatmapHead`, which also takes
            ``num_types``, ``num_convs``, ``norm`` and ``prior``.
        mean: of the images, one number or one for each channel; likewise ``std``.
        normalizer: maps the number of points of each image to the divisor of its loss, see :mod:`detect.losses.normalizers`.
        orientation: ``"directed"`` or ``"axis"`` to learn the points' angles too (:mod:`detect.keypoints.orientations`).
        orientation_weight: factor of their loss, the absolute error of cosine and sine at the points.
        seed: of the weights of pyramid and head; None draws them from torch's global generator.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_types: int = 1,
        *,
        stride: int = 2,
        sigma_cells: float = 2.0,
        threshold: float = 0.3,
        pyramid_channels: int = 32,
        num_convs: int = 1,
        norm: str | None = None,
        prior: float = 0.01,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        normalizer: Normalizer = batch_normalizer,
        orientation: str = NO_ORIENTATION,
        orientation_weight: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_orientation(orientation)
        generator = None if seed is None else Generator().manual_seed(seed)
        self.stride = stride
        self.sigma_cells = sigma_cells
        self.threshold = threshold
        self.normalizer = normalizer
        self.orientation = orientation
        self.orientation_weight = orientation_weight
        self.normalise = Normalise(backbone.in_channels, mean=mean, std=std)
        self.backbone = backbone
        self.pyramid = PyramidLevels(backbone, [stride], channels=pyramid_channels, generator=generator)
        options: dict[str, Any] = {"num_convs": num_convs, "norm": norm, "prior": prior, "generator": generator}
        self.head = HeatmapHead(pyramid_channels, num_types, orientation=orientation != NO_ORIENTATION, **options)

    def forward(self, images: Float[Tensor, "b d h w"]) -> HeatmapOutput:
        """Heatmaps as logits, of ceil(h / stride) rows and ceil(w / stride) columns."""
        (level,) = self.pyramid(self.backbone(self.normalise(images)))
        return self.head(level)

    def losses(
        self,
        images: Float[Tensor, "b d h w"],
        targets: Keypoints,
        *,
        ignored: Sequence[Float[Tensor, "_ 4"] | None] | None = None,
    ) -> LandmarkLosses | OrientedLosses:
        """The loss of a batch. Inside the boxes ``ignored``, in continuous pixels, only cells at the points count.

        They are of each image, or of each image and keypoint type, ordered by image, then type. Points without a known
        angle have no loss of orientation.
        """
        drawn = self.targets(images, targets, ignored)
        logits, orientations = self(images)
        maps, positives, counts = map(torch.as_tensor, (drawn.heatmaps, drawn.positives, drawn.counts))
        weights = None if drawn.weights is None else torch.as_tensor(drawn.weights)
        sums = heatmap_focal_loss(logits, maps, positives=positives, weights=weights)
        divisors = self.normalizer(counts.sum(dim=1))
        self.divisor = divisors.float().mean()
        loss = (sums / divisors).sum()
        if orientations is None or drawn.orientations is None:
            return LandmarkLosses(loss)
        wanted = torch.as_tensor(drawn.orientations)
        known = wanted.isfinite().all(dim=1)
        errors = points_l1_loss(orientations, wanted[known], positives=positives[known])
        return OrientedLosses(loss, self.orientation_weight * (errors / divisors).sum())

    def targets(
        self, images: Float[Tensor, "b d h w"], targets: Keypoints, ignored: Sequence[Tensor | None] | None = None
    ) -> HeatmapTargets:
        """The targets that these points give, on the images' device; raises as :meth:`losses`."""
        num_images, num_types = images.shape[0], self.head.num_types
        if (targets.num_images, targets.num_types) != (num_images, num_types):
            raise ValueError(
                f"targets of {targets.num_images} images and {targets.num_types} keypoint types for heatmaps of "
                f"{num_images} and {num_types}"
            )
        if ignored is not None and len(ignored) not in {num_images, num_images * num_types}:
            raise ValueError(
                f"regions to ignore of {len(ignored)} images or maps, for {num_images} images of {num_types} types"
            )
        regions = None
        if ignored is not None and any(each is not None and len(each) for each in ignored):
            none = images.new_zeros(0, 4)
            regions = [none if each is None else each - 0.5 for each in ignored]  # in pixel indices, as the points
        columns: dict[str, Any] = {name: torch.as_tensor(getattr(targets, name)) for name in KEYPOINT_COLUMNS}
        columns["points"] = columns["points"].to(images.device)  # on which the maps are made
        angles = None
        if self.orientation != NO_ORIENTATION:
            if targets.angles is None:
                raise ValueError(f"a detector with orientation={self.orientation!r} needs points with angles")
            angles = torch.as_tensor(targets.angles) * PER_TURN[self.orientation]
        return render_heatmaps(
            replace(targets, **columns, angles=None),
            (images.shape[-2], images.shape[-1]),
            stride=self.stride,
            sigma=self.sigma_cells,
            pixel_origin=PIXEL_ORIGIN,
            ignore=regions,
            angles=angles,
        )

    def num_positives(self, images: Float[Tensor, "b d h w"], targets: Keypoints) -> Int64[Tensor, " b"]:
        """The number of drawn points of each image."""
        return torch.as_tensor(self.targets(images, targets).counts).sum(dim=1)

    @torch.no_grad()
    def detect(
        self, images: Float[Tensor, "b d h w"], image_hw: Int64[Tensor, "b 2"], *, turned: bool = False
    ) -> Peaks:
        """The points found in each image, in pixels of the input; ``image_hw`` is (height, width) without padding.

        Their ``cells`` are pixels, as in a map of stride 1. Cells that cover only padding have no points. Call ``eval()``
        first: the mode of the detector is left as it is. ``turned`` averages the heatmaps over the eight turns and
        reflections of the images, for a network that has learned from such; orientations are read upright.
        """
        output = self(images)
        heatmaps = output.logits.float().sigmoid()
        heatmaps = self._over_turns(images, heatmaps) if turned else heatmaps
        return self.read_points(heatmaps, image_hw, output.orientations)

    def _over_turns(self, images: Tensor, upright: Tensor) -> Tensor:
        """The mean of the images' heatmaps and those of their seven other turns and reflections."""
        height, width = images.shape[-2:]
        whole = functional.pad(images, (0, -width % self.stride, 0, -height % self.stride))  # turned cells are cells
        total = upright
        for turns, is_mirrored in (pair for pair in product(range(4), (False, True)) if any(pair)):
            view = whole.flip(-1) if is_mirrored else whole
            heatmaps = self(view.rot90(turns, (-2, -1))).logits.float().sigmoid().rot90(-turns, (-2, -1))
            total = total + (heatmaps.flip(-1) if is_mirrored else heatmaps)
        return total / NUM_TURNED

    def read_points(
        self,
        heatmaps: Float[Tensor, "b j h w"],
        image_hw: Int64[Tensor, "b 2"],
        orientations: Float[Tensor, "b 2 h w"] | None = None,
    ) -> Peaks:
        """The points of heatmaps of probabilities, in the form that :meth:`detect` returns.

        They have ``angles`` if there are maps of ``orientations``.
        """
        peaks = find_peaks(self._without_padding(heatmaps, image_hw), threshold=self.threshold)
        covariance = None if peaks.covariance is None else peaks.covariance * self.stride**2
        angles = None
        if orientations is not None:
            own = {"image": peaks.image, "orientation": self.orientation}
            angles = read_angles(orientations.float(), peaks.cells, **own)
        return replace(peaks, cells=peaks.in_image(self.stride, PIXEL_ORIGIN), covariance=covariance, angles=angles)

    def read_padded(
        self,
        heatmaps: Float[Tensor, "b j h w"],
        image_hw: Int64[Tensor, "b 2"],
        orientations: Float[Tensor, "b 2 h w"] | None = None,
        *,
        max_peaks: int = 1000,
    ) -> tuple[PaddedPeaks, Float[Tensor, "b n"] | None]:
        """The points of heatmaps in shapes that do not depend on data; their ``cells`` are pixels of the input.

        The second are their angles in radians, if there are maps of ``orientations``.
        """
        covered = self._without_padding(heatmaps, image_hw)
        peaks = find_padded_peaks(covered, threshold=self.threshold, max_peaks=max_peaks)
        angles = None
        if orientations is not None:
            image = torch.arange(heatmaps.shape[0], device=heatmaps.device)[:, None].expand_as(peaks.types).flatten()
            own = {"image": image, "orientation": self.orientation}
            angles = read_angles(orientations, peaks.cells.flatten(0, 1), **own).reshape(peaks.scores.shape)
        return peaks._replace(cells=cells_to_image(peaks.cells, self.stride, pixel_origin=PIXEL_ORIGIN)), angles

    def _without_padding(self, heatmaps: Tensor, image_hw: Tensor) -> Tensor:
        """The heatmaps with 0 in cells that cover only padding."""
        wanted = (heatmaps.shape[0], 2)
        if tuple(image_hw.shape) != wanted:
            raise ValueError(f"image_hw is one height and width for each image, {wanted}, got {tuple(image_hw.shape)}")
        rows, columns = (
            torch.arange(extent, device=heatmaps.device) * self.stride < image_hw[:, axis, None].to(heatmaps.device)
            for axis, extent in enumerate(heatmaps.shape[-2:])
        )
        return heatmaps.where(rows[:, None, :, None] & columns[:, None, None, :], 0)
