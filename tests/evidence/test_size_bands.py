"""Weights by size inside a category: bands, their weights, and what a criterion makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evidence_parts.size_bands import BandedCriterion, SizeBands

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.image_targets import ImageTargets
from detect.heads.retinanet import HeadOutput
from detect.samples import sample_annotations

ANCHORS = AnchorSet.of([[(20, 20), (50, 50)], [(90, 90)]], strides=[8, 16])


@pytest.fixture(scope="module")
def assignment():
    dataset = read_coco(sample_annotations("bccd")).take_images(np.arange(60))
    return assign(ResizedInstances.of(dataset, "stretch:320x240"), AnchorGenerator(ANCHORS))


def test_bands_of_a_category_share_its_loss_equally(assignment):
    bands = SizeBands.of(assignment)
    categories = assignment.instances.dataset.instances.category_ids
    areas, positives = assignment.instances.shapes.prod(axis=1), assignment.positives.sum(axis=1)
    shares, weighed = [], 0.0
    for row, category in enumerate(np.unique(categories)):
        own = np.searchsorted(bands.edges[row], areas)
        for band in range(3):
            chosen = (categories == category) & (own == band)
            shares.append(bands.weights[row, band] * positives[chosen].mean())
            weighed += bands.weights[row, band] * positives[chosen].sum()
    assert shares == pytest.approx([shares[0]] * 9)
    assert weighed == pytest.approx(positives.sum())


def test_a_band_weighs_as_a_whole_class_does():
    """Two instances of one class, in two bands, against two classes with the same weights: the losses of boxes agree."""
    bands = SizeBands(np.array([[1000.0], [1000.0]]), np.array([[3.0, 0.5], [7.0, 7.0]]))
    placed = AnchorGenerator(ANCHORS).generate([(8, 8), (4, 4)])
    drawn = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 4, 24, 25], [10, 8, 60, 58]])
    logits, deltas = (torch.randn(1, len(placed.boxes), columns, generator=drawn) for columns in (2, 4))
    output = HeadOutput(logits, deltas / 4)
    plain = RetinaNetCriterion(box_loss="giou")
    by_class = RetinaNetCriterion(box_loss="giou", positive_weights=[3.0, 0.5])
    banded = BandedCriterion(plain, bands)(output, placed, [ImageTargets(boxes, torch.tensor([0, 0]))])
    wanted = by_class(output, placed, [ImageTargets(boxes, torch.tensor([0, 1]))])
    assert banded.box == wanted.box != plain(output, placed, [ImageTargets(boxes, torch.tensor([0, 0]))]).box
