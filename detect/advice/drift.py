"""Differences between training and validation that whole images show, and images that are in both.

Objects of an image are alike, so intervals come from drawing whole images again: the bootstrap of clusters (Field and Welsh
2007) with percentile intervals (Efron and Tibshirani 1993, chapter 13). These are too short for few images, so they are
expanded as by Hesterberg (2015). Sizes and shapes are those after the resize; a tile is an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.sparse import coo_array, csr_array
from scipy.special import ndtr, stdtrit

from detect.anchors.instances import ResizedInstances
from detect.ops.box_arrays import row_blocks
from detect.wording import listed, plural

LEVEL = 0.95
OBJECTS = 2  # column of the sums of an image
MIN_IMAGES = 10  # of a part, with objects: fewer do not show how much images vary
DRAWS_AT_ONCE = 2**21  # images drawn that are in memory together


@dataclass(frozen=True)
class Difference:
    """A mean of each part, and the 95 % interval of validation minus training; infinite with too few images."""

    train: float
    val: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.val - self.train

    @property
    def is_found(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0

    def words(self, what: str, unit: str) -> str | None:
        """What differs, with the difference and its interval; None if it is not found."""
        interval = f"{self.value:+.2f} {unit} (95% interval {self.low:+.2f} to {self.high:+.2f})"
        return f"{what}; the difference is {interval}" if self.is_found else None


@dataclass(frozen=True)
class CategoryShift:
    """How the shares of categories differ: their total variation distance, half the sum of absolute differences."""

    distance: float
    by_chance: float  # a random split of all images into parts of these sizes stays below it with 95 % probability
    category: str  # that differs most, and its share of the objects of each part
    train: float
    val: float

    @property
    def is_found(self) -> bool:
        """Whether the distance is above those of random splits."""
        return self.distance > self.by_chance


@dataclass(frozen=True)
class Drift:
    """What differs between training and validation; made by :func:`drift`."""

    size: Difference  # mean log2 sqrt(area) in pixels: octaves
    ratio: Difference  # mean log2 height / width: octaves
    objects: Difference  # per image
    categories: CategoryShift
    shared_ids: tuple[int, ...]  # ids of validation images that are in training too

    def in_words(self) -> tuple[str, ...]:
        """Sentences about what differs, with its numbers; none if nothing does."""
        return tuple(filter(None, (self._size(), self._ratio(), self._objects(), self._categories(), self._shared())))

    def _size(self) -> str | None:
        px = f"sqrt(area) is {2**self.size.val:,.1f} px against {2**self.size.train:,.1f} px (geometric means)"
        which = "larger" if self.size.value > 0 else "smaller"
        return self.size.words(f"validation objects are {which} than training objects: {px}", "octaves")

    def _ratio(self) -> str | None:
        sides = f"height / width is {2**self.ratio.val:.2f} against {2**self.ratio.train:.2f} (geometric means)"
        which = "taller" if self.ratio.value > 0 else "wider"
        return self.ratio.words(f"validation objects are {which} than training objects: {sides}", "octaves")

    def _objects(self) -> str | None:
        means = f"{self.objects.val:.3g} objects on average against {self.objects.train:.3g} in training"
        return self.objects.words(f"validation images have {means}", "objects")

    def _categories(self) -> str | None:
        each = self.categories
        shares = f"{each.category}, which differs most, has {each.val:.1%} of the objects against {each.train:.1%}"
        chance = f"total variation distance {each.distance:.3f}; 95% of random splits stay below {each.by_chance:.3f}"
        return f"categories have other shares in validation: {shares} ({chance})" if each.is_found else None

    def _shared(self) -> str | None:
        count = len(self.shared_ids)
        which = f"{plural(count, 'validation image')} {'has' if count == 1 else 'have'} the name and size of a training"
        words = f"{which} image (ids {listed(self.shared_ids)}): scores are too high where they are the same image"
        return words if count else None


def drift(train: ResizedInstances, val: ResizedInstances, *, num_resamples: int = 1000, seed: int = 0) -> Drift:
    """Compare the objects of training and validation, and find images that are in both.

    Each mean has an interval of its own, which excludes 0 by chance in 5 % of random splits. The distance between shares of
    categories, which is never 0, is compared with those of random splits of all images. Nothing differs where a part has
    fewer than 10 images with objects. Categories are the same if their names are. Images are the same if their file names
    and sizes are, or without file names their ids, sizes and boxes.

    Args:
        train: boxes after the detector's resize rule.
        val: boxes after the same rule.
        num_resamples: how often images are drawn again.
        seed: of the draws.

    Raises:
        ValueError: the resize rules differ, or there are no resamples.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> dataset = read_coco(sample_annotations("bccd"))
    >>> even, odd = (dataset.take_images(np.arange(start, len(dataset.images), 2)) for start in (0, 1))
    >>> drift(ResizedInstances.of(even, "none"), ResizedInstances.of(odd, "none")).in_words()
    ()
    >>> found = drift(ResizedInstances.of(even, "none"), ResizedInstances.of(dataset, "none"))
    >>> found.in_words()[0].partition(" (")[0]
    '182 validation images have the name and size of a training image'
    """
    if train.rule != val.rule or num_resamples < 1:
        what = f"got {train.rule} for training, {val.rule} for validation, and {num_resamples=}"
        raise ValueError(f"need one resize rule and num_resamples >= 1, {what}")
    random, sums = np.random.default_rng(seed), (_image_sums(train), _image_sums(val))
    enough = min(_num_with_objects(part) for part in sums) >= MIN_IMAGES
    limits = _limits(*sums, num_resamples, random) if enough else np.array([(-np.inf, np.inf)] * 3)
    means = np.column_stack([_means(part.sum(axis=0, keepdims=True))[0] for part in sums])
    size, ratio, objects = (Difference(*each) for each in np.column_stack([means, limits]).tolist())
    categories = _category_shift(train, val, num_resamples if enough else 0, random)
    return Drift(size, ratio, objects, categories, _shared_ids(train, val, sums))


def _image_sums(instances: ResizedInstances) -> Float64[ndarray, "b 4"]:
    """The columns of each image: sum of log2 sqrt(area), sum of log2 height / width, number of objects, and 1."""
    image_rows, num_images = instances.dataset.instances.image_rows, len(instances.dataset.images)
    width, height = np.log2(instances.shapes).T
    columns = [np.bincount(image_rows, each, num_images) for each in ((width + height) / 2, height - width)]
    return np.column_stack([*columns, np.bincount(image_rows, minlength=num_images), np.ones(num_images)])


def _num_with_objects(sums: Float64[ndarray, "b 4"]) -> int:
    return int((sums[:, OBJECTS] > 0).sum())


def _limits(
    train: Float64[ndarray, "b 4"], val: Float64[ndarray, "k 4"], num_resamples: int, random: np.random.Generator
) -> Float64[ndarray, "3 2"]:
    """The interval of each difference of means, from images of both parts drawn again."""
    drawn = [_means(_drawn(part, num_resamples, random)) for part in (train, val)]
    fewest = min(map(_num_with_objects, (train, val)))
    tail = ndtr(np.sqrt(fewest / (fewest - 1)) * stdtrit(fewest - 1, (1 - LEVEL) / 2))  # below 2.5 %: expanded
    return np.nanquantile(drawn[1] - drawn[0], [tail, 1 - tail], axis=0).T


def _drawn(sums: Float64[ndarray, "b 4"], num_resamples: int, random: np.random.Generator) -> Float64[ndarray, "r 4"]:
    """The sums of as many images, drawn with replacement, for each resample."""
    num_images, result = len(sums), np.empty((num_resamples, sums.shape[1]))
    for block in row_blocks(num_resamples, max(DRAWS_AT_ONCE // num_images, 1)):
        count = len(result[block])
        cells = random.integers(0, num_images, (count, num_images)) + np.arange(count)[:, None] * num_images
        times = np.bincount(cells.ravel(), minlength=count * num_images).reshape(count, num_images)
        result[block] = times @ sums
    return result


def _means(sums: Float64[ndarray, "r 4"]) -> Float64[ndarray, "r 3"]:
    """Means over objects of log size and log ratio, NaN without objects, and objects per image."""
    totals = np.where(sums[:, OBJECTS:] > 0, sums[:, OBJECTS:], np.nan)
    return np.column_stack([sums[:, :OBJECTS] / totals[:, :1], sums[:, OBJECTS] / totals[:, 1]])


def _category_shift(
    train: ResizedInstances, val: ResizedInstances, num_resamples: int, random: np.random.Generator
) -> CategoryShift:
    """The distance between shares of categories, and that of random splits; it is infinite without any."""
    names, counts = _category_counts(train, val)
    if not names:
        return CategoryShift(0.0, np.inf, "", 0.0, 0.0)
    is_train = np.arange(counts.shape[0]) < len(train.dataset.images)
    shares = _shares(counts, is_train[None])
    by_chance = np.empty(num_resamples)
    for block in row_blocks(num_resamples, max(DRAWS_AT_ONCE // len(is_train), 1)):
        splits = random.permuted(np.tile(is_train, (len(by_chance[block]), 1)), axis=1)
        by_chance[block] = _distance(_shares(counts, splits))
    limit = float(np.quantile(by_chance, LEVEL, method="higher")) if num_resamples else np.inf
    most = int(np.abs(shares[0] - shares[1])[0].argmax())
    own, other = shares[:, 0, most].tolist()
    return CategoryShift(float(_distance(shares)[0]), limit, names[most], own, other)


def _category_counts(train: ResizedInstances, val: ResizedInstances) -> tuple[list[str], csr_array]:
    """Names of categories, and the objects of each (column) in each image (row), training images first."""
    datasets = (train.dataset, val.dataset)
    names = sorted({data.category_name(key) for data in datasets for key in data.category_ids})
    columns = []
    for data in datasets:
        ids, category_of = np.unique(data.instances.category_ids, return_inverse=True)
        place = np.array([names.index(data.category_name(key)) for key in ids.tolist()], np.int64)
        columns.append(place[category_of])
    rows = [train.dataset.instances.image_rows, val.dataset.instances.image_rows + len(train.dataset.images)]
    entries = (np.concatenate(rows), np.concatenate(columns))
    shape = len(train.dataset.images) + len(val.dataset.images), len(names)
    return names, coo_array((np.ones(len(entries[0])), entries), shape=shape).tocsr()


def _shares(counts: csr_array, is_train: Bool[ndarray, "r b"]) -> Float64[ndarray, "2 r c"]:
    """Shares of categories in training and in validation, for each way to split the images."""
    train = (counts.T @ is_train.T.astype(float)).T
    parts = np.stack([train, counts.sum(axis=0) - train])
    return parts / np.maximum(parts.sum(axis=2, keepdims=True), 1)


def _distance(shares: Float64[ndarray, "2 r c"]) -> Float64[ndarray, " r"]:
    return np.round(np.abs(shares[0] - shares[1]).sum(axis=1) / 2, 12)  # splits of equal shares are equally far apart


def _shared_ids(
    train: ResizedInstances, val: ResizedInstances, sums: Sequence[Float64[ndarray, "_ 4"]]
) -> tuple[int, ...]:
    """Ids of the validation images that are in training."""
    known = set(_image_keys(train, sums[0])) - {None}
    ids = val.dataset.images.ids.tolist()
    return tuple(number for number, key in zip(ids, _image_keys(val, sums[1]), strict=True) if key in known)


def _image_keys(instances: ResizedInstances, sums: Float64[ndarray, "b 4"]) -> list[tuple[object, ...] | None]:
    """The file name and size of each image; without a name its id, size and sums over objects, or None without any."""
    images = instances.dataset.images
    columns = zip(images.file_names, images.ids.tolist(), images.wh.tolist(), sums.tolist(), strict=True)
    return [(name, *wh) if name else (number, *wh, *own) if own[OBJECTS] else None for name, number, wh, own in columns]
