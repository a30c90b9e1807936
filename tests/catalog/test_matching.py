"""Matching rules as data: their names, their ranges, and the arguments of the matchers that they stand for."""

from __future__ import annotations

import inspect
import math

import pytest

from detect.catalog.matching import FcosRanges, MaxIoURule
from detect.ops.matcher import MaxIoU


def test_the_fields_of_max_iou_are_the_matchers_arguments():
    assert set(MaxIoURule.__struct_fields__) == set(inspect.signature(MaxIoU).parameters)


@pytest.mark.parametrize(("is_open", "first"), [(True, 0.0), (False, -1.0)])
def test_ranges_lie_between_the_limits(is_open, first):
    # closed ranges begin below 0, so that a side at distance 0 is in the first one
    assert FcosRanges(limits=(24, 48), is_open=is_open).ranges == ((first, 24), (24, 48), (48, math.inf))
