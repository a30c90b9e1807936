"""Head, anchors and post-processing as one module, from feature maps to detections: what is exported and compiled."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor, nn

from detect.anchors.grid import AnchorGrid
from detect.heads.detections import PaddedDetections, PostProcess
from detect.heads.pyramid import FeatureMaps, list_maps
from detect.heads.retinanet import RetinaNetHead


class DetectionHead(nn.Module):
    """From the feature maps of a pyramid to a fixed number of detections for each image, of any batch and size.

    Args:
        head: with as many anchors to a cell as the grid.
        grid: anchors with exact strides; those of other dialects follow from the size of a padded input, which feature maps
            do not tell.
        post_process: thresholds and numbers.
        max_candidates: pairs of anchor and class that meet in suppression, see :meth:`PostProcess.padded`.

    Raises:
        ValueError: head and grid differ in anchors, or strides are not exact.

    >>> import torch
    >>> from detect.anchors.anchor_set import AnchorSet
    >>> grid = AnchorGrid(AnchorSet.of([[(10, 20)], [(30, 30)]], strides=(8, 16)))
    >>> model = DetectionHead(RetinaNetHead(16, grid.num_anchors, num_classes=3), grid)
    >>> found = model([torch.rand(2, 16, 4, 6), torch.rand(2, 16, 2, 3)], torch.tensor([[32, 48], [30, 40]]))
    >>> found.boxes.shape, found.valid.any().item()  # 30 anchors of 3 classes; at first every score is .01
    (torch.Size([2, 90, 4]), False)
    """

    def __init__(
        self,
        head: RetinaNetHead,
        grid: AnchorGrid,
        post_process: PostProcess | None = None,
        *,
        max_candidates: int = 1000,
    ) -> None:
        super().__init__()
        head.check_anchors(grid.num_anchors)
        if grid.strides != "exact":
            raise ValueError(f"need a grid with strides='exact', got {grid.strides!r}")
        self.head = head
        self.grid = grid
        self.post_process = post_process or PostProcess()
        self.max_candidates = max_candidates

    def forward(self, features: FeatureMaps, image_hw: Int64[Tensor, "b 2"]) -> PaddedDetections:
        """Detections; ``image_hw`` is (height, width) of each image without padding."""
        maps = list_maps(features)
        logits, deltas = self.head(maps)
        placed = self.grid.place([(level.shape[-2], level.shape[-1]) for level in maps], device=logits.device)
        return self.post_process.padded(
            logits,
            deltas,
            anchors=placed.boxes,
            anchors_per_level=placed.num_per_level,
            image_hw=image_hw,
            max_candidates=self.max_candidates,
        )
