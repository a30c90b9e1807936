"""A custom detector: any backbone, a feature pyramid, anchors fitted to the data, the RetinaNet head."""

import torch
from torch import Tensor, nn

from detect import ResizedInstances, fit_anchors, parse_resize, read_coco
from detect.anchors.generator import AnchorGenerator
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.fpn import FeaturePyramid
from detect.heads.image_targets import ImageTargets
from detect.heads.postprocess import PostProcess
from detect.heads.retinanet import RetinaNetHead
from detect.samples import sample_annotations

boxes = ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))
grid = AnchorGenerator(fit_anchors(boxes, per_level=3, strides=(4, 8)))


class Detector(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 32, 7, stride=2, padding=3), nn.ReLU())
        self.stages = nn.ModuleList([stem, *(nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()) for _ in range(2))])
        self.pyramid = FeaturePyramid([32, 32], out_channels=64, extra=None)
        self.head = RetinaNetHead(64, grid.num_anchors, num_classes)
        self.criterion, self.post_process = RetinaNetCriterion(), PostProcess()

    def forward(self, images: Tensor, targets: list[ImageTargets] | None = None):
        features = [images := stage(images) for stage in self.stages][1:]  # strides 4 and 8
        output = self.head(self.pyramid(features))
        anchors = grid.generate([level.shape[-2:] for level in features], device=images.device)
        if targets is not None:
            return sum(self.criterion(output, anchors, targets))
        sizes = [tuple(4 * side for side in features[0].shape[-2:])] * len(images)
        return self.post_process(output, anchors, image_hw=sizes)


if __name__ == "__main__":
    detector = Detector(num_classes=1)
    truth = ImageTargets(torch.tensor([[30.0, 40.0, 52.0, 60.0]]), torch.tensor([0]))
    print("loss", float(detector(torch.rand(1, 3, 128, 128), [truth]).detach()))
