"""LossSums: the objects lost for one reason by size and category, and the first of them. Those of shards add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.advice.lost_objects import LostObjects, Reason
from detect.anchors.instances import ResizedInstances, area_ranges
from detect.ops.exact_sums import FirstItems, Sums

MAX_OBJECTS = 10_000  # lost objects of a reason that are kept, and as many contested ones; all are counted
MAX_IDS = 1000  # ids of annotations or images that are kept; all are counted


class LostObject(NamedTuple):
    """An object that is lost or contested."""

    annotation_id: int
    image_id: int
    file_name: str
    category_id: int
    width: float
    height: float
    """In pixels of the image."""
    resized_wh: tuple[float, float]


@dataclass(frozen=True)
class LossSums(Sums):
    """What :class:`detect.advice.lost_objects.LostObjects` tells, without the rows."""

    reason: Reason
    num_lost: int
    """Objects lost in any case, at the least."""
    lost: FirstItems[LostObject]
    """The objects that are lost whatever the network predicts."""
    contested: FirstItems[LostObject]
    """The objects of which some are lost; the predictions decide which."""
    by_size: tuple[tuple[str, int, int], ...]
    """Each range of sizes after the resize: its name, the objects lost or contested, and all of its objects."""
    of_category: Mapping[int, int]
    """The objects lost or contested by category id."""

    @classmethod
    def of(cls, loss: LostObjects, instances: ResizedInstances) -> LossSums:
        """Count the objects of one reason."""
        rows, own = loss.rows, instances.dataset.instances
        groups = [(each.name, int(np.isin(each.rows, rows).sum()), len(each.rows)) for each in area_ranges(instances)]
        ids, counts = np.unique(own.category_ids[rows], return_counts=True)
        lost, contested = _first(instances, loss.lost), _first(instances, loss.contested)
        of_category = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        return cls(loss.reason, loss.num_lost, lost, contested, tuple(groups), of_category)


def ids_of(ids: Int64[ndarray, " n"]) -> FirstItems[int]:
    """The number of ids, and the first of them."""
    return FirstItems(len(ids), tuple(np.sort(ids)[:MAX_IDS].tolist()), MAX_IDS)


def _first(instances: ResizedInstances, rows: Int64[ndarray, " m"]) -> FirstItems[LostObject]:
    own, images, number = instances.dataset.instances, instances.dataset.images, len(rows)
    rows = rows[np.lexsort((images.ids[own.image_rows[rows]], own.ids[rows]))][:MAX_OBJECTS]
    found = []
    for row in rows.tolist():
        image = int(own.image_rows[row])
        ids = int(own.ids[row]), int(images.ids[image]), images.file_names[image], int(own.category_ids[row])
        (width, height), (x, y) = own.boxes_xywh[row, 2:].tolist(), instances.shapes[row].tolist()
        found.append(LostObject(*ids, width, height, (x, y)))
    return FirstItems(number, tuple(sorted(found)), MAX_OBJECTS)
