"""A complete RetinaNet (Lin et al. 2017, "Focal Loss"): backbone, pyramid, head, losses and detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import level_hw
from detect.anchors.generator import AnchorGenerator, GridAnchors
from detect.detectors.backbones import Backbone, Normalise, PyramidLevels
from detect.heads.criterion import RetinaNetCriterion, RetinaNetLosses
from detect.heads.image_targets import ImageTargets
from detect.heads.postprocess import Detections, PostProcess
from detect.heads.retinanet import HeadOutput, RetinaNetHead


class RetinaNetDetector(nn.Module):
    """A backbone, a feature pyramid and a head for the levels, strides and shapes of an anchor set.

    Levels coarser than the backbone's maps are made by convolutions of stride 2. Maps without anchors still feed the finer
    levels of the pyramid. Images are batches of floats from 0 to 1, padded right and below.

    >>> from detect.detectors.backbones import build_backbone
    >>> anchors = AnchorSet.of([[(8, 8), (12, 9)], [(20, 20)]], strides=(4, 8))
    >>> backbone = build_backbone("tiny", strides=(4, 8, 16), in_channels=1)
    >>> detector = RetinaNetDetector(backbone, anchors, num_classes=2)
    >>> detector(torch.rand(1, 1, 32, 48)).logits.shape  # 2 anchors on 8 x 12 cells, 1 on 4 x 6
    torch.Size([1, 216, 2])

    Args:
        backbone: has a map for the stride of every level that is not coarser than its maps.
        anchors: the shapes of each level; a level without shapes is left out.
        pyramid_channels: channels of the levels and of :class:`~detect.heads.retinanet.RetinaNetHead`, which also takes
            ``num_classes``, ``num_convs`` and ``norm``.
        mean: of the images, one number or one for each channel; likewise ``std``.
        criterion: by default the focal loss and twice the GIoU loss.
        post_process: by default that of torchvision's RetinaNet.
        seed: of the weights of pyramid and head; None draws them from torch's global generator.

    Raises:
        ConfigError: neither the backbone nor convolutions of stride 2 can make a level of the anchors.
    """

    def __init__(
        self,
        backbone: Backbone,
        anchors: AnchorSet,
        num_classes: int,
        *,
        pyramid_channels: int = 64,
        num_convs: int = 2,
        norm: str | None = "group",
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        criterion: RetinaNetCriterion | None = None,
        post_process: PostProcess | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        generator = None if seed is None else Generator().manual_seed(seed)
        levels = tuple(level for level in anchors.levels if level.shapes)
        self.grid = AnchorGenerator(replace(anchors, levels=levels))
        self.normalise = Normalise(backbone.in_channels, mean=mean, std=std)
        self.backbone = backbone
        self.pyramid = PyramidLevels(
            backbone, [level.stride for level in levels], channels=pyramid_channels, generator=generator
        )
        self.head = RetinaNetHead(
            pyramid_channels, self.grid.num_anchors, num_classes, num_convs=num_convs, norm=norm, generator=generator
        )
        self.criterion = criterion or RetinaNetCriterion(box_loss="giou", box_weight=2.0)
        self.post_process = post_process or PostProcess()
        self.post_process.check_classes(num_classes)

    def features(self, images: Float[Tensor, "b d h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The input of the head: one map for each level of the anchors."""
        return self.pyramid(self.backbone(self.normalise(images)))

    def forward(self, images: Float[Tensor, "b d h w"]) -> HeadOutput:
        """Logits and deltas of every anchor."""
        return self.head(self.features(images))

    def losses(self, images: Float[Tensor, "b d h w"], targets: Sequence[ImageTargets]) -> RetinaNetLosses:
        """The losses of a batch, with one target for each image; raises as the criterion does."""
        return self.criterion(*self._output_and_anchors(images), targets)

    @property
    def divisor(self) -> Tensor:
        """What the losses of the last batch were divided by."""
        return self.criterion.divisor

    @torch.no_grad()
    def num_positives(self, images: Float[Tensor, "b d h w"], targets: Sequence[ImageTargets]) -> Int64[Tensor, " b"]:
        """The number of positive anchors of each image; if they depend on predictions, on those in evaluation."""
        height, width = images.shape[-2:]
        anchors, output = self.grid.generate(level_hw(self.grid, (height, width)), device=images.device), None
        if self.criterion.matcher.uses_predictions:
            was_training = self.training
            output = self.eval()(images)
            self.train(was_training)
        return (self.criterion.match(anchors, targets, output) >= 0).sum(dim=1)

    @torch.no_grad()
    def detect(self, images: Float[Tensor, "b d h w"], image_hw: Int64[Tensor, "b 2"]) -> list[Detections]:
        """The detections of each image, in pixels of the input; ``image_hw`` is (height, width) without padding.

        Call ``eval()`` first: the mode of the detector is left as it is.
        """
        output, anchors = self._output_and_anchors(images)
        return self.post_process(output, anchors, image_hw=image_hw)

    def _output_and_anchors(self, images: Tensor) -> tuple[HeadOutput, GridAnchors]:
        features = self.features(images)
        level_hw = [(level.shape[-2], level.shape[-1]) for level in features]
        image_hw = (images.shape[-2], images.shape[-1])
        return self.head(features), self.grid.generate(level_hw, image_hw, device=images.device)
