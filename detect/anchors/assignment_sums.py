"""AssignmentSums: the counts of an assignment, by size, ratio and category. Counts of shards add up."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from detect.ops.exact_sums import ExactMean, FirstItems, Sums
from detect.wording import listed

NEGLECTED = 0.2  # share of the mean number of positives
MAX_WEIGHT = 30.0  # of a positive anchor; the largest in docs/evidence.md, of k-means anchors on platelets
MAX_LISTED = 1000  # annotation ids


@dataclass(frozen=True)
class AssignedGroup:
    """The anchors of one group of instances."""

    name: str
    count: int
    positives: float
    """Mean number of positive anchors per instance."""
    low_quality_only: int
    """Instances that have positive anchors only by the low-quality rule."""
    unassigned: int
    """Instances without a positive anchor."""
    ambiguous_lost: int
    """Ambiguous anchors that are candidates for an instance of this group and learn another instance."""


@dataclass(frozen=True)
class AssignedLevel(Sums):
    """The anchors of one level over all images that have instances; those not positive or ignored are background."""

    name: str
    num_anchors: int
    positives: int
    by_threshold: int
    """Positives without the low-quality rule."""
    ignored: int
    ambiguous: int


@dataclass(frozen=True)
class GroupCounts(Sums):
    """The fields of an :class:`AssignedGroup`, as counts."""

    name: str
    positives: ExactMean
    low_quality_only: int
    unassigned: int
    ambiguous_lost: int

    @property
    def group(self) -> AssignedGroup:
        others = (self.low_quality_only, self.unassigned, self.ambiguous_lost)
        return AssignedGroup(self.name, self.positives.count, self.positives.value, *others)


class AssignmentNumbers:
    """The numbers of an assignment, computed from its sums."""

    @property
    @abstractmethod
    def sums(self) -> AssignmentSums: ...

    @property
    def by_level(self) -> tuple[AssignedLevel, ...]:
        return self.sums.levels

    @property
    def by_size(self) -> tuple[AssignedGroup, ...]:
        return tuple(each.group for each in self.sums.of_size)

    @property
    def by_ratio(self) -> tuple[AssignedGroup, ...]:
        return tuple(each.group for each in self.sums.of_ratio)

    @property
    def by_category(self) -> tuple[AssignedGroup, ...]:
        return tuple(each.group for each in self.sums.of_category.values())

    @property
    def overall(self) -> AssignedGroup:
        return self.sums.all_instances.group

    @property
    def evenness(self) -> float:
        """Mean over categories of the mean over instances of min(1, positives / half the mean positives of all instances).

        1 if every instance has at least half the positives of the mean instance.
        """
        mean = max(self.sums.all_instances.positives.value, 1e-9)
        shares = []
        for times in self.sums.numbers.values():
            enough = math.fsum(count * min(1.0, 2 * positives / mean) for positives, count in times.items())
            shares.append(enough / sum(times.values()))
        return math.fsum(shares) / len(shares) if shares else math.nan

    @property
    def neglected(self) -> tuple[AssignedGroup, ...]:
        """Categories with fewer positives per instance than ``NEGLECTED`` times the mean of all instances, fewest first.

        Without weights the other categories dominate the loss: in docs/evidence.md a short training then hardly learns it.
        """
        groups = sorted(self.by_category, key=lambda group: group.positives)
        return tuple(group for group in groups if group.positives < NEGLECTED * self.overall.positives)

    def neglect_in_words(self) -> str | None:
        """A sentence with the neglected categories and the mean of all instances; None if no category is neglected."""
        if not self.neglected:
            return None
        named = listed(f"{group.name} {group.positives:.1f}" for group in self.neglected)
        return f"uneven assignment: positive anchors per box: {named}; mean of all boxes {self.overall.positives:.1f}"

    def positive_weights(self, counts: Mapping[int, int] | None = None) -> dict[int, float]:
        """The weight of each category's positive anchors, by category id, with which no category outvotes another.

        Args:
            counts: instances of each category, by default those of this assignment; see :func:`balanced_weights`.
        """
        own = {category: each.positives for category, each in self.sums.of_category.items()}
        means = {category: each.value for category, each in own.items()}
        return balanced_weights(means, counts or {category: each.count for category, each in own.items()})


@dataclass(frozen=True)
class AssignmentSums(Sums, AssignmentNumbers):
    """The counts of an assignment; made by :attr:`detect.anchors.assignment.Assignment.sums`."""

    levels: tuple[AssignedLevel, ...]
    all_instances: GroupCounts
    of_size: tuple[GroupCounts, ...]
    of_ratio: tuple[GroupCounts, ...]
    of_category: Mapping[int, GroupCounts]
    numbers: Mapping[int, Mapping[int, int]]
    """For each category, how many instances have each number of positives."""
    low_quality_only_ids: FirstItems[int]
    unassigned_ids: FirstItems[int]
    by_predictions: bool

    @property
    def sums(self) -> AssignmentSums:
        return self


def balanced_weights(
    positives: Mapping[int, float], counts: Mapping[int, int], *, limit: float = MAX_WEIGHT
) -> dict[int, float]:
    """Weights inversely proportional to the mean positives of an instance, at most ``limit``; all by category.

    Their mean over all positives is 1: here 100 * 20 * 0.55 + 100 * 2 * 5.5 = 100 * 20 + 100 * 2.

    >>> balanced_weights({1: 20.0, 2: 2.0}, {1: 100, 2: 100})
    {1: 0.55, 2: 5.5}
    """
    order = sorted(positives, key=lambda category: positives[category])
    total = sum(counts[category] * positives[category] for category in order)
    capped = 0.0
    left = sum(counts.values())
    weights = {}
    for category in order:  # the fewest positives first: only these can reach the limit
        number, own = counts[category], positives[category]
        share = (total - capped) / left  # weighted positives of an instance that is not at the limit
        if share >= limit * own:
            weights[category] = limit
            capped += limit * number * own
            left -= number
        else:
            weights[category] = share / own
    return {category: weights[category] for category in positives}
