"""Matching rules as data: their names, their ranges, and the arguments of the matchers that they stand for."""

from __future__ import annotations

import inspect
import math
from typing import get_args

import pytest

from detect.catalog.matching import CELL_RULES, AnchorMatching, CellMatching, FcosRanges, MaxIoURule
from detect.ops.matcher import MaxIoU


def test_rules_of_cells_are_told_from_rules_of_anchors_by_their_tags():
    tags = [{kind.__struct_config__.tag for kind in get_args(union)} for union in (CellMatching, AnchorMatching)]
    assert tags[0] == set(CELL_RULES)
    assert not tags[0] & tags[1]


def test_the_fields_of_max_iou_are_the_matchers_arguments():
    assert set(MaxIoURule.__struct_fields__) == set(inspect.signature(MaxIoU).parameters)


@pytest.mark.parametrize(("is_open", "first"), [(True, 0.0), (False, -1.0)])
def test_ranges_lie_between_the_limits(is_open, first):
    # closed ranges begin below 0, so that a side at distance 0 is in the first one
    assert FcosRanges(limits=(24, 48), is_open=is_open).ranges == ((first, 24), (24, 48), (48, math.inf))
