"""Groups of an assignment add up to the whole, and categories with few positives are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import part_of
from numpy.testing import assert_allclose

from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.known import load_anchors
from detect.ops.matcher import Atss

SIZES = [(20.0, 27.3), (45.0,), (99.0,), (160.0,), (300.0,)]


def test_groups_add_up_to_the_whole():
    for instances in (part_of("bccd", "letterbox:96", step=30), part_of("nuclei", "none", step=2)):
        result = assign(instances, AnchorGenerator.of_sizes(SIZES))
        whole = result.overall
        for groups in (result.by_size, result.by_ratio, result.by_category):
            for field in ("count", "low_quality_only", "unassigned", "ambiguous_lost"):
                assert sum(getattr(group, field) for group in groups) == getattr(whole, field)
            assert_allclose(
                sum(group.positives * group.count for group in groups if group.count), result.positives.sum()
            )
        assert sum(level.positives for level in result.by_level) == result.positives.sum()


def test_categories_with_few_positives_are_neglected():
    bccd = part_of("bccd", "stretch:320x240", step=12)
    grid = AnchorGenerator(load_anchors("retinanet"))
    result = assign(bccd, grid)
    (platelets,) = result.neglected
    assert platelets.name == "Platelets"
    mean = result.positives.sum() / len(bccd)
    assert 0 < platelets.positives < 0.2 * mean
    assert result.neglect_in_words() == (
        f"uneven assignment: positive anchors per box: Platelets {platelets.positives:.1f}; mean of all boxes {mean:.1f}"
    )
    even = assign(bccd, grid, Atss())
    assert (even.neglected, even.neglect_in_words()) == ((), None)
    assert even.by_category[2].positives > 0.5 * even.overall.positives


def test_evenness_is_the_mean_over_categories_of_boxes_with_half_the_mean_positives():
    bccd = part_of("bccd", "stretch:320x240", step=12)
    result = assign(bccd, AnchorGenerator(load_anchors("retinanet")))
    positives = result.positives.sum(axis=1).tolist()
    enough = sum(positives) / len(positives) / 2
    shares: dict[int, list[float]] = {}
    for category, own in zip(bccd.dataset.instances.category_ids.tolist(), positives, strict=True):
        shares.setdefault(category, []).append(min(1, own / enough))
    by_hand = sum(sum(each) / len(each) for each in shares.values()) / len(shares)
    assert 0.1 < by_hand < 0.9
    assert result.evenness == pytest.approx(by_hand)
    alike = replace(result, positives=np.full_like(result.positives, 3))
    assert (alike.evenness, replace(result, positives=0 * result.positives).evenness) == (1, 0)
