"""FCOS's assignment: torchvision's own code, and a plain loop over every cell and object."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from detect.advice import level_cells
from detect.advice.fcos_assignment import fcos_positives
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import load_detector
from detect.catalog.matching import FcosRanges
from detect.data import read_coco
from detect.ops.torchvision_import import import_torchvision
from detect.samples import sample_annotations

STRIDES = (8, 16, 32, 64, 128)


def by_torchvision(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The cells of each object of one image, as torchvision's FCOS assigns them in its loss."""
    import_torchvision()
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOS
    from torchvision.models.detection.image_list import ImageList

    sizes = [(-(-int(size[1]) // stride), -(-int(size[0]) // stride)) for stride in STRIDES]
    canvas = torch.zeros(1, 3, sizes[0][0] * 8, sizes[0][1] * 8)
    maps = [torch.zeros(1, 1, *hw) for hw in sizes]
    generator = AnchorGenerator(sizes=tuple((stride,) for stride in STRIDES), aspect_ratios=((1.0,),) * 5)
    (anchors,) = generator(ImageList(canvas, [tuple(canvas.shape[-2:])]), maps)
    model = SimpleNamespace(
        center_sampling_radius=1.5, head=SimpleNamespace(compute_loss=lambda targets, heads, anchors, matches: matches)
    )
    targets = [{"boxes": torch.from_numpy(boxes).float()}]
    (matches,) = FCOS.compute_loss(model, targets, {}, [anchors], [h * w for h, w in sizes])
    return np.bincount(matches[matches >= 0].numpy(), minlength=len(boxes))


CASES = [("bccd", "stretch:640x512"), ("nuclei", "stretch:128x128"), ("bccd", "stretch:128x128")]


@pytest.mark.parametrize(("name", "resize"), CASES)
def test_positives_are_those_of_torchvision(name, resize):
    instances = ResizedInstances.of(read_coco(sample_annotations(name)), resize)
    rows, canvas_wh = instances.dataset.instances.image_rows, instances.image_canvas_wh
    torchvision = load_detector("fcos").matching
    boxes = np.rint(instances.boxes * 8) / 8  # torchvision rounds to single precision, and these do not need it
    found = fcos_positives(boxes, rows, canvas_wh=canvas_wh, strides=STRIDES, rule=torchvision)
    for image in range(len(canvas_wh)):
        if (rows == image).any():
            assert_array_equal(found[rows == image], by_torchvision(boxes[rows == image], canvas_wh[image]))
    assert (found > 0).any()


def by_loop(boxes: np.ndarray, size: np.ndarray, rule: FcosRanges) -> list[int]:
    counts = [0] * len(boxes)
    for stride, (low, high) in zip(STRIDES, rule.ranges, strict=False):
        for row in range(-(-size[1] // stride)):
            for column in range(-(-size[0] // stride)):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                candidates = []
                for number, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
                    sides = (x - x0, y - y0, x1 - x, y1 - y)
                    off = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2))
                    if (
                        min(sides) > 0
                        and (rule.radius is None or off < rule.radius * stride)
                        and low <= max(sides) <= high
                    ):
                        candidates.append(((x1 - x0) * (y1 - y0), number))
                if candidates:
                    counts[min(candidates)[1]] += 1
    return counts


@pytest.mark.parametrize("radius", [1.5, None])
@pytest.mark.parametrize("most", [40, 1_000_000])
def test_positives_are_those_of_a_loop(monkeypatch, most, radius):
    monkeypatch.setattr(level_cells, "MAX_PAIRS", most)
    draws = np.random.default_rng(0)
    canvas_wh = draws.integers(40, 200, (5, 2))
    rows = draws.integers(0, 5, 100)
    corners = np.rint(draws.random((100, 2)) * canvas_wh[rows] * 0.9)
    boxes = np.concatenate([corners, corners + draws.integers(1, 90, (100, 2))], axis=1)
    rule = FcosRanges(limits=(24, 48), radius=radius)
    found = fcos_positives(boxes, rows, canvas_wh=canvas_wh, strides=STRIDES[:3], rule=rule)
    for image in range(5):
        assert_array_equal(found[rows == image], by_loop(boxes[rows == image], canvas_wh[image], rule))
    assert (found == 0).sum() > 5


def test_no_objects_have_no_positives():
    none, size = np.zeros((0, 4)), np.array([[64, 64]])
    assert len(fcos_positives(none, np.zeros(0, int), canvas_wh=size, strides=STRIDES, rule=FcosRanges())) == 0
