"""Anchors fitted to the data and a head for them, inside torchvision's RetinaNet."""

from detect import ResizedInstances, fit_anchors, parse_resize, read_coco
from detect.anchors.generator import AnchorGenerator
from detect.heads.retinanet import RetinaNetHead
from detect.interop.torchvision import import_head
from detect.ops.torchvision_import import import_torchvision
from detect.samples import sample_annotations

torchvision = import_torchvision()  # or import it yourself if its compiled operators load

dataset = read_coco(sample_annotations("bccd"))
boxes = ResizedInstances.of(dataset, parse_resize("shortest:800:1333"))
grid = AnchorGenerator(fit_anchors(boxes, k=9))  # on the levels that the boxes need: here three of five
levels = [(8, 16, 32, 64, 128).index(level.stride) for level in grid.anchors.levels]
head = RetinaNetHead(256, grid.num_anchors, num_classes=len(dataset.categories) + 1)
plain = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
model = import_head(plain, head, grid, levels=levels)
