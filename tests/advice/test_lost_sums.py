"""Lost objects as counts and the first of them: what rows tell, without rows."""

from __future__ import annotations

import numpy as np
from builders import coco_content
from hypothesis import given
from hypothesis import strategies as st

from detect.advice import lost_sums
from detect.advice.lost_objects import LostObjects
from detect.advice.lost_sums import LossSums, LostObject, ids_of
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.ops.exact_sums import FirstItems


def loss_of(lost: list[int], contested: list[int]) -> LossSums:
    """Rows of three objects of 8, 40 and 200 px; the last has the lowest id."""
    content = coco_content(
        [[0, 0, 4, 4], [0, 0, 20, 20], [0, 0, 100, 100]],
        ids=[7, 8, 3],
        image_ids=[1, 1, 2],
        category_ids=[1, 2, 2],
        image_wh=(200, 200),
    )
    loss = LostObjects("suppressed", np.array(lost, int), 1, np.array(contested, int))
    return LossSums.of(loss, ResizedInstances.of(read_coco(content), "letterbox:400"))


def test_objects_are_counted_by_size_and_category_and_listed_by_id():
    loss = loss_of([1, 2], [0])
    assert loss.num_lost == 3
    assert [(count, whole) for _, count, whole in loss.by_size] == [(1, 1), (1, 1), (1, 1)]
    assert loss.of_category == {1: 1, 2: 2}
    assert [each.annotation_id for each in loss.lost] == [3, 8]
    assert loss.contested.items == (LostObject(7, 1, "", 1, 4.0, 4.0, (8.0, 8.0)),)


def test_only_the_first_are_kept_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(lost_sums, "MAX_OBJECTS", 2)
    loss = loss_of([0, 1, 2], [])
    assert (len(loss.lost), [each.annotation_id for each in loss.lost]) == (3, [3, 7])
    assert (loss + loss).num_lost == 8
    assert loss_of([], []).lost == FirstItems(0, (), 2)


@given(st.lists(st.integers(0, 50)))
def test_ids_are_sorted(ids):
    assert ids_of(np.array(ids, np.int64)) == FirstItems.of(ids, most=lost_sums.MAX_IDS)
