"""Keypoints by fixed slots: a network predicts ten points and the presence of each; the i-th instance belongs to slot i.

Instances are ordered as annotated, or from left to right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from detect.detectors.backbones import Backbone, Normalise
from detect.detectors.landmarks import LandmarkDetector
from detect.keypoints.keypoints import Keypoints
from detect.keypoints.peaks import Peaks

NUM_SLOTS = 10
POOLED_CELLS = 4  # per side: a mean over the whole image would lose positions
HIDDEN = 256
BETA = 0.05  # of the smooth L1 loss, in extents of the image
POINT_WEIGHT = 5.0  # of coordinates as shares of the image against presence: Carion et al. 2020, appendix A.4


class SlotLosses(NamedTuple):
    """Two numbers whose sum is minimised."""

    presence: Float[Tensor, ""]
    point: Float[Tensor, ""]


class SlotDetector(LandmarkDetector):
    """A backbone, its coarsest map pooled to 4 x 4 cells, two linear layers: a logit and (x, y) for each slot.

    It has the interface of a heatmap detector but no map: points are rows of (x, y) as shares of the image.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_slots: int = NUM_SLOTS,
        is_sorted: bool = False,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        seed: int = 0,
    ) -> None:
        nn.Module.__init__(self)  # the base's would make a pyramid and a head
        self.stride, self.threshold, self.num_slots, self.is_sorted = 1, 0.5, num_slots, is_sorted
        self.normalise = Normalise(backbone.in_channels, mean=mean, std=std)
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            self.hidden = nn.Linear(backbone.channels[-1] * POOLED_CELLS**2, HIDDEN)
            self.output = nn.Linear(HIDDEN, num_slots * 3)
        generator = Generator().manual_seed(seed)
        for layer in (self.hidden, self.output):
            nn.init.kaiming_uniform_(layer.weight, a=1, generator=generator)
            nn.init.zeros_(layer.bias)

    def slots(self, images: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k 3"]:
        """Logit of presence, x and y of each slot; a share of .5 is the middle of the image."""
        cells = functional.adaptive_avg_pool2d(self.backbone(self.normalise(images))[-1], POOLED_CELLS)
        output = self.output(self.hidden(cells.flatten(1)).relu()).view(-1, self.num_slots, 3)
        return torch.cat([output[..., :1], output[..., 1:] + 0.5], dim=2)

    def losses(  # type: ignore[override]
        self,
        images: Float[Tensor, "b d h w"],
        targets: Keypoints,
        *,
        ignored: Sequence[Float[Tensor, "_ 4"] | None] | None = None,  # noqa: ARG002 - a slot has no place to ignore
    ) -> SlotLosses:
        """Losses of presence and coordinates."""
        extent = images.new_tensor([images.shape[-1], images.shape[-2]])
        self.divisor = torch.tensor(float(len(images)))  # a mean over images
        points, present = slot_targets(targets, self.num_slots, is_sorted=self.is_sorted, device=images.device)
        return slot_losses(self.slots(images), points / extent, present)

    @torch.no_grad()
    def detect(self, images: Tensor, image_hw: Tensor, *, turned: bool = False) -> Peaks:  # noqa: ARG002
        """The points of the slots that are present, in pixel indices."""
        slots = self.slots(images)
        scores = slots[..., 0].sigmoid()
        image, slot = (scores > self.threshold).nonzero(as_tuple=True)
        extent = images.new_tensor([images.shape[-1], images.shape[-2]])
        points = slots[image, slot, 1:] * extent
        return Peaks(points, scores[image, slot], image, torch.zeros_like(image), None, len(images), 1)


def slot_targets(
    targets: Keypoints, num_slots: int, *, is_sorted: bool = False, device: torch.device | str
) -> tuple[Float[Tensor, "b k 2"], Bool[Tensor, "b k"]]:
    """Assign the i-th instance of an image to slot i; instances beyond the last slot are left out.

    The order is that of the annotation or, sorted, from left to right in the augmented image.
    """
    points = torch.as_tensor(targets.points, device=device).float()
    image = torch.as_tensor(targets.image, device=device)
    seen = torch.as_tensor(targets.visibility, device=device) > 0
    counts = torch.bincount(image, minlength=targets.num_images)
    order = points[:, 0].argsort(stable=True) if is_sorted else torch.arange(len(image), device=image.device)
    order = order[image[order].argsort(stable=True)]
    slot = torch.empty_like(image)
    slot[order] = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image[order]]
    kept = seen & (slot < num_slots)
    in_slots = points.new_zeros(targets.num_images, num_slots, 2)
    present = torch.zeros(targets.num_images, num_slots, dtype=torch.bool, device=image.device)
    in_slots[image[kept], slot[kept]] = points[kept]
    present[image[kept], slot[kept]] = True
    return in_slots, present


def slot_losses(
    slots: Float[Tensor, "b k 3"], points: Float[Tensor, "b k 2"], present: Bool[Tensor, "b k"]
) -> SlotLosses:
    """Mean cross-entropy of presence over slots, and weighted mean smooth L1 of x plus y over slots with a point."""
    presence = functional.binary_cross_entropy_with_logits(slots[..., 0], present.float())
    rows = functional.smooth_l1_loss(slots[..., 1:], points, beta=BETA, reduction="none").sum(dim=2)
    point = (rows * present).sum() / present.sum().clamp(min=1)
    return SlotLosses(presence, POINT_WEIGHT * point)
