"""Examples in docstrings of the evidence's modules."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest
from evidence_parts import (
    correlations,
    costs,
    document,
    drawing,
    free_predictors,
    gathered,
    plan,
    records,
    resampling,
    scoring,
    slots,
    training_runs,
    wording,
)

PARTS = [correlations, costs, document, drawing, free_predictors, gathered, plan, records, resampling, scoring]
PARTS += [slots, training_runs, wording]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_examples_in_docstrings_run(part: ModuleType):
    assert doctest.testmod(part).failed == 0
