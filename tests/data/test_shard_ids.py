from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.data import shard_ids
from detect.data.shard_ids import ShardIds
from detect.ops.exact_sums import add_up


@given(st.lists(st.sets(st.integers(0, 40), max_size=12), min_size=1, max_size=5))
def test_the_lowest_id_in_two_shards_is_found(sets):
    parts = [ShardIds.of(np.array(sorted(ids), np.int64), f"{number}.json") for number, ids in enumerate(sets)]
    repeated = sorted(id_ for id_ in range(41) if sum(id_ in ids for ids in sets) > 1)
    found = add_up(parts).shared
    assert (found is None) == (not repeated)
    if found:
        number, *files = found
        assert number in repeated
        assert all(number in sets[int(file.split(".")[0])] for file in files)


def test_an_id_twice_in_one_shard_and_one_that_is_missing_are_not_shared():
    one, other = ShardIds.of(np.array([5, 5, -1]), "a"), ShardIds.of(np.array([6, -1, -1]), "b")
    assert (one + other).shared is None
    assert (one + other).ids.tolist() == [5, 6]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_of_many_ids_an_equal_share_of_each_shard_is_kept(monkeypatch, order):
    monkeypatch.setattr(shard_ids, "MAX_KEPT", 1000)
    ranges = [np.arange(0, 20_000), np.arange(20_000, 40_000), np.arange(40_000, 60_000)]
    total = add_up(ShardIds.of(ranges[number], str(number)) for number in order)
    assert 500 < len(total.ids) <= 1000
    assert total.shared is None
    shares = np.bincount(total.ids // 20_000)
    assert shares.min() > 0.7 * shares.max()  # the hash spreads ids evenly
    again = total + ShardIds.of(np.arange(15_000, 16_000), "again")
    assert again.shared is not None
    assert again.shared[1:] == ("0", "again")
