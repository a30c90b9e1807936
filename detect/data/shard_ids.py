"""Ids of the shards of a dataset, kept within bounds: do two shards share one?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from numpy import ndarray

MAX_KEPT = 2**18  # ids: all of them up to here, then the half, the quarter and so on by their hash

Shared = tuple[int, str, str]  # an id, and two shards that have it


@dataclass(frozen=True, eq=False)
class ShardIds:
    """Different ids with the number of their shard in ``names``; above ``MAX_KEPT``, those of the lowest hashes.

    Two shards with a good part of their ids in common are found at any size, a single common id up to ``MAX_KEPT`` ids.

    >>> one, other = ShardIds.of(np.array([3, 4]), "a.json"), ShardIds.of(np.array([4, 5]), "b.json")
    >>> (one + other).shared
    (4, 'a.json', 'b.json')
    """

    ids: Int64[ndarray, " n"]
    """Sorted."""
    shard: Int64[ndarray, " n"]
    names: tuple[str, ...]
    halvings: int = 0
    shared: Shared | None = None

    @classmethod
    def of(cls, ids: Int64[ndarray, " n"], name: str) -> ShardIds:
        """The ids of one shard; those below 0 are none."""
        if len(ids) and ids[0] >= 0 and (ids[1:] > ids[:-1]).all():
            different = ids
        else:
            ordered = np.sort(ids[ids >= 0])  # np.unique hashes, which takes many times as long
            different = ordered[np.diff(ordered, prepend=-1) > 0]
        return cls(different, np.zeros(len(different), np.int64), (name,)).bounded()

    def __add__(self, other: ShardIds) -> ShardIds:
        ids, shard = np.concatenate([self.ids, other.ids]), np.concatenate([self.shard, other.shard + len(self.names)])
        order = np.argsort(ids, kind="stable")
        ids, shard, names = ids[order], shard[order], self.names + other.names
        again = np.flatnonzero(ids[1:] == ids[:-1])
        found = [each for each in (self.shared, other.shared) if each]
        for row in again[:1].tolist():
            first, second = sorted(names[shard[each]] for each in (row, row + 1))
            found.append((int(ids[row]), first, second))
        halvings = max(self.halvings, other.halvings)
        return ShardIds(ids, shard, names, halvings, min(found, default=None)).bounded()

    def bounded(self) -> ShardIds:
        """At most ``MAX_KEPT`` ids, and of all shards the same share."""
        halvings, kept = self.halvings, _is_kept(self.ids, self.halvings)
        while kept.sum() > MAX_KEPT:
            halvings += 1
            kept = _is_kept(self.ids, halvings)
        return ShardIds(self.ids[kept], self.shard[kept], self.names, halvings, self.shared)


def hashed(ids: Int64[ndarray, " n"]) -> UInt64[ndarray, " n"]:
    """A hash of each id, the finalizer of SplitMix64: different ids have different ones."""
    mixed: UInt64[ndarray, " n"] = ids.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _is_kept(ids: Int64[ndarray, " n"], halvings: int) -> Bool[ndarray, " n"]:
    """Whether the hash of an id lies in the lowest 2**-halvings of all."""
    if not halvings:
        return np.ones(len(ids), bool)
    lowest: Bool[ndarray, " n"] = hashed(ids) >> np.uint64(64 - halvings) == 0
    return lowest
