"""What a command tells of the dataset it read: counts, categories and the first findings, which shards of it add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detect.data.coco_checks import by_id
from detect.data.coco_dataset import CocoDataset, left_out_words, unnamed
from detect.data.coco_entries import Finding
from detect.errors import CocoError
from detect.ops.box_arrays import count_values
from detect.ops.exact_sums import FirstItems, Sums

MAX_FINDINGS = 1000  # of each kind that are kept; all are counted


class FirstFindings(FirstItems[Finding]):
    """The number of findings, and the first by id."""

    @staticmethod
    def order(item: Any) -> Any:
        return by_id(item)


@dataclass(frozen=True)
class Names:
    """The names of categories by id, which shards must agree about."""

    of_id: Mapping[int, str]

    def __add__(self, other: Names) -> Names:
        for key in self.of_id.keys() & other.of_id.keys():
            if self.of_id[key] != other.of_id[key]:
                raise CocoError(f"category id {key} is both {self.of_id[key]!r} and {other.of_id[key]!r}")
        return Names(dict(sorted({**self.of_id, **other.of_id}.items())))


@dataclass(frozen=True)
class DatasetCounts(Sums):
    """The size of a dataset, and its findings.

    >>> from detect.data.coco_dataset import read_coco
    >>> from detect.samples import sample_annotations
    >>> counts = DatasetCounts.of(read_coco(sample_annotations("bccd")))
    >>> counts.num_boxes, len(counts.invalid), counts.boxes_of
    (4886, 2, {1: 372, 2: 4153, 3: 361})
    """

    num_images: int
    boxes_of: Mapping[int, int]
    """Boxes of each category id that has some."""
    num_crowd: int
    names: Names
    invalid: FirstItems[Finding]
    suspicious: FirstItems[Finding]
    files: FirstItems[str]

    @classmethod
    def of(cls, dataset: CocoDataset) -> DatasetCounts:
        """Count a dataset, or a shard of it."""
        return cls(
            len(dataset.images),
            count_values(dataset.instances.category_ids),
            len(dataset.crowd),
            Names(dataset.categories),
            FirstFindings.of(dataset.invalid, most=MAX_FINDINGS),
            FirstFindings.of(dataset.suspicious, most=MAX_FINDINGS),
            FirstItems.of(dataset.files, most=MAX_FINDINGS),
        )

    @property
    def num_boxes(self) -> int:
        return sum(self.boxes_of.values())

    @property
    def categories(self) -> Mapping[int, str]:
        """Names by id, of the categories that the files name."""
        return self.names.of_id

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Sorted ids of the categories that the files name or the boxes use."""
        return tuple(sorted({*self.categories, *self.boxes_of}))

    def category_name(self, category_id: int) -> str:
        """See :meth:`CocoDataset.category_name`."""
        return self.categories.get(category_id) or unnamed(category_id)

    def with_left_out(self, message: str) -> str:
        """See :meth:`CocoDataset.with_left_out`."""
        return left_out_words(message, self.invalid)

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """The findings that are kept, with their kind."""
        return [("invalid", each) for each in self.invalid] + [("suspicious", each) for each in self.suspicious]
