"""Anchors fitted to the data and a head for them, inside torchvision's RetinaNet."""

import detect
from detect.ops.torchvision_import import import_torchvision
from detect.samples import sample_annotations

torchvision = import_torchvision()  # or import it yourself if its compiled operators load

dataset = detect.read_coco(sample_annotations("bccd"))
boxes = detect.ResizedInstances.of(dataset, "shortest:800:1333")
grid = detect.AnchorGenerator(detect.fit_anchors(boxes, k=9))  # on the levels that the boxes need: here three of five
levels = [(8, 16, 32, 64, 128).index(level.stride) for level in grid.anchors.levels]
head = detect.RetinaNetHead(256, grid.num_anchors, num_classes=len(dataset.categories) + 1)
plain = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
model = detect.import_head(plain, head, grid, levels=levels)

if __name__ == "__main__":
    print("anchors of a cell on each level:", dict(zip(levels, grid.num_anchors, strict=True)))
