from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.ops.exact_sums import BITS, ExactMean, FirstItems, Sums, add, add_up, mean_or_nan

SHARES = st.lists(st.floats(0, 1), max_size=30)


@given(SHARES, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_a_mean_is_the_same_for_any_split_and_any_order(values, part_of):
    parts = [[value for value, own in zip(values, part_of, strict=False) if own == part] for part in (2, 0, 3, 1)]
    total = add_up(ExactMean.of(np.array(part, float)) for part in parts)
    whole = ExactMean.of(np.array(values, float))
    assert total == whole
    assert total.value == whole.value or not values
    assert_allclose(whole.value if values else 0.0, np.mean(values) if values else 0.0, atol=2.0**-BITS)


def test_sums_of_floats_themselves_depend_on_the_order():
    values = np.random.default_rng(0).random(10_000)
    orders = [np.random.default_rng(seed).permutation(values) for seed in range(5)]
    assert len({float(sum(order.tolist())) for order in orders}) > 1  # hence sums of integers
    assert len({mean_or_nan(order) for order in orders}) == 1


def test_counts_have_exact_means_and_nothing_has_none():
    assert ExactMean.of(np.array([3, 4])).value == 3.5
    assert mean_or_nan(np.array([True, False, False])) == 1 / 3
    assert np.isnan(mean_or_nan(np.zeros(0)))
    assert np.isnan(ExactMean.of(np.zeros(0, bool)).value)


def test_many_numbers_of_one_do_not_overflow():
    # 10 million times 2**40 exceeds 63 bits; each block of 65,536 does not
    assert ExactMean.of(np.ones(10_000_000)).total == 10_000_000 << BITS


@dataclass(frozen=True)
class Counted(Sums):
    name: str
    flag: bool
    numbers: dict[str, Any]
    nothing: None = None


def test_fields_are_added_one_by_one():
    one, other = Counted("px", True, {"b": (1, 2)}), Counted("px", True, {"b": (10, 20), "a": (5, 5)})
    assert one + other == Counted("px", True, {"a": (5, 5), "b": (11, 22)})
    assert list((one + other).numbers) == ["a", "b"]
    with pytest.raises(ValueError, match="cannot add what belongs to px and to em"):
        one + Counted("em", True, {})
    with pytest.raises(ValueError, match="zip"):
        add((1, 2), (1,))


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), min_size=1, max_size=5), st.integers(0, 6))
def test_first_items_are_those_of_all_parts(parts, most):
    total = add_up(FirstItems.of(part, most=most) for part in parts)
    every = sorted(item for part in parts for item in part)
    assert (len(total), list(total)) == (len(every), every[:most])
    assert total[:2] == tuple(every[:most][:2])
