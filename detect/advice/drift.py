"""Differences between training and validation that whole images show, and images that are in both.

Objects of an image are alike, so an interval goes by how much images differ. Means over objects are ratios of sums over
images, with the variance of ratios (Cochran 1977, section 6.3) and Student's t for the images of the smaller part. These
need sums and sums of squares over images alone, which are exact, so that those of shards add up. Sizes and shapes are those
after the resize; a tile is an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from scipy.special import stdtrit

from detect.advice.image_hashes import ImageHashes
from detect.anchors.instances import ResizedInstances
from detect.ops.exact_sums import Sums
from detect.wording import listed, plural, significant

LEVEL = 0.95
SIZE, RATIO, OBJECTS, IMAGES = range(4)  # columns of the sums of an image
MIN_IMAGES = 10  # of a part, with objects: fewer do not show how much images vary
STEPS = 2**20  # of an octave: logarithms are summed as whole numbers of them


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
    """The category whose share of the objects differs most beyond chance, and its shares."""

    category: str
    train: float
    val: float
    by_chance: float
    """Random splits of all images into parts of these sizes differ by less, in every category, with 95 % probability."""

    @property
    def distance(self) -> float:
        return abs(self.val - self.train)

    @property
    def is_found(self) -> bool:
        """Whether the difference is above those of random splits."""
        return self.distance > self.by_chance


@dataclass(frozen=True)
class Drift:
    """What differs between training and validation; made by :func:`drift`."""

    num_images: int  # of the smaller part, with objects
    size: Difference  # mean log2 sqrt(area) in pixels: octaves
    ratio: Difference  # mean log2 height / width: octaves
    objects: Difference  # per image
    categories: CategoryShift
    shared_ids: tuple[int, ...]  # ids of validation images that are in training too

    def in_words(self) -> tuple[str, ...]:
        """Sentences about what differs, with its numbers; none if nothing does."""
        return tuple(filter(None, (self._size(), self._ratio(), self._objects(), self._categories(), self._shared())))

    def summary(self) -> tuple[str, ...]:
        """:meth:`in_words`, or that nothing was found, or could be."""
        if self.num_images < MIN_IMAGES:
            few = f"fewer than {MIN_IMAGES} images with objects, in training or validation: what differs cannot be told"
            return (*self.in_words(), few)
        nothing = "validation shares no image with training, and does not differ from it in sizes, shapes, numbers of "
        return self.in_words() or (f"{nothing}objects and categories beyond chance",)

    def _size(self) -> str | None:
        px = f"sqrt(area) is {2**self.size.val:,.1f} px against {2**self.size.train:,.1f} px (geometric means)"
        which = "larger" if self.size.value > 0 else "smaller"
        return self.size.words(f"validation objects are {which} than training objects: {px}", "octaves")

    def _ratio(self) -> str | None:
        sides = f"height / width is {2**self.ratio.val:.2f} against {2**self.ratio.train:.2f} (geometric means)"
        which = "taller" if self.ratio.value > 0 else "wider"
        return self.ratio.words(f"validation objects are {which} than training objects: {sides}", "octaves")

    def _objects(self) -> str | None:
        means = f"{significant(self.objects.val, 3)} objects on average against {significant(self.objects.train, 3)}"
        return self.objects.words(f"validation images have {means} in training", "objects")

    def _categories(self) -> str | None:
        each = self.categories
        shares = f"{each.category}, which differs most, has {each.val:.1%} of the objects against {each.train:.1%}"
        chance = f"with 95% probability random splits differ by less than {each.by_chance:.1%}"
        return f"categories have other shares in validation: {shares} ({chance})" if each.is_found else None

    def _shared(self) -> str | None:
        count = len(self.shared_ids)
        which = f"{plural(count, 'validation image')} {'has' if count == 1 else 'have'} the name and size of a training"
        words = f"{which} image (ids {listed(self.shared_ids)}): scores are too high where they are the same image"
        return words if count else None


@dataclass(frozen=True)
class DriftSums(Sums):
    """Sums over the images of one part, in which every category goes by its name."""

    products: tuple[tuple[int, ...], ...]
    """The products of each two columns of an image, summed: its objects' log2 sqrt(area) and log2 height / width, both in
    ``1 / STEPS``, their number, and 1."""
    num_with_objects: int
    of_category: Mapping[str, tuple[int, int, int]]
    """For each category, sums over images: of its objects, of their square, and of their product with all objects."""
    images: ImageHashes

    @classmethod
    def of(cls, instances: ResizedInstances, names: Mapping[int, str], known: ImageHashes | None = None) -> DriftSums:
        """The sums of a part, or of a shard, whose categories have these names; ``known`` leaves out other images."""
        columns = _columns(instances)
        exact = columns.astype(object)  # products exceed 64 bits
        images = _image_hashes(instances, columns)
        return cls(
            tuple(map(tuple, exact.T.dot(exact).tolist())) if len(exact) else ((0,) * 4,) * 4,
            int((columns[:, OBJECTS] > 0).sum()),
            _of_category(instances, names, columns[:, OBJECTS]),
            images if known is None else images.known_to(known),
        )

    def mean(self, value: int, per: int) -> float:
        """The sum of a column / the sum of another; NaN if that is 0."""
        sums = self.products[IMAGES]
        return sums[value] / sums[per] if sums[per] else math.nan

    def variance(self, value: int, per: int) -> float:
        """The variance of :meth:`mean`."""
        sums, number = self.products[IMAGES], self.products[IMAGES][IMAGES]
        of_value, both, of_per = self.products[value][value], self.products[value][per], self.products[per][per]
        squares = _squares(sums[value], sums[per], of_value, both, of_per)
        return number * squares / ((number - 1) * sums[per] ** 4)


def drift(train: DriftSums, val: DriftSums) -> Drift:
    """Compare the objects of training and validation, and find images that are in both.

    Each mean has an interval of its own, which excludes 0 by chance in 5 % of random splits. Shares of categories are
    compared with those of random splits of all images (with Bonferroni's correction for several categories). Nothing
    differs where a part has fewer than 10 images with objects. Categories are the same if their names are. Images are the
    same if their file names and sizes are, or without file names their ids, sizes and boxes.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> dataset = read_coco(sample_annotations("bccd"))
    >>> even = dataset.take_images(np.arange(0, len(dataset.images), 2))
    >>> parts = [DriftSums.of(ResizedInstances.of(each, "none"), dataset.categories) for each in (even, dataset)]
    >>> drift(*parts).in_words()[0].partition(" (")[0]
    '182 validation images have the name and size of a training image'
    """
    fewest = min(train.num_with_objects, val.num_with_objects)
    means = ((SIZE, OBJECTS, STEPS), (RATIO, OBJECTS, STEPS), (OBJECTS, IMAGES, 1))
    size, ratio, objects = (_difference(train, val, *each, fewest) for each in means)
    shared = np.sort(val.images.known_to(train.images).ids)
    return Drift(fewest, size, ratio, objects, _category_shift(train, val, fewest), tuple(shared.tolist()))


def _difference(train: DriftSums, val: DriftSums, value: int, per: int, unit: int, fewest: int) -> Difference:
    """The means of a column per another, and the interval of their difference; infinite with too few images."""
    own, other = (part.mean(value, per) / unit for part in (train, val))
    if fewest < MIN_IMAGES:
        return Difference(own, other, -math.inf, math.inf)
    deviation = math.sqrt(train.variance(value, per) + val.variance(value, per)) / unit
    width = float(stdtrit(fewest - 1, (1 + LEVEL) / 2)) * deviation
    return Difference(own, other, other - own - width, other - own + width)


def _category_shift(train: DriftSums, val: DriftSums, fewest: int) -> CategoryShift:
    """The category with the largest difference of shares beyond the limit of random splits."""
    found = [CategoryShift("", 0.0, 0.0, math.inf)]
    both = train + val
    sums, parts = both.products[IMAGES], [part.products[IMAGES] for part in (train, val)]
    for name, (own, squares, products) in both.of_category.items():
        counts = [part.of_category.get(name, (0,))[0] for part in (train, val)]
        shares = [count / max(part[OBJECTS], 1) for count, part in zip(counts, parts, strict=True)]
        limit = math.inf
        if fewest >= MIN_IMAGES:
            left = _squares(own, sums[OBJECTS], squares, products, both.products[OBJECTS][OBJECTS])
            of_image = left / (sums[OBJECTS] ** 2 * (sums[IMAGES] - 1))
            deviation = math.sqrt(of_image * sum(part[IMAGES] / part[OBJECTS] ** 2 for part in parts))
            limit = float(stdtrit(fewest - 1, 1 - (1 - LEVEL) / 2 / len(both.of_category))) * deviation
        found.append(CategoryShift(name, shares[0], shares[1], limit))
    return max(found[1:] or found, key=lambda each: (each.distance - each.by_chance, each.distance))


def _squares(value: int, per: int, of_value: int, both: int, of_per: int) -> int:
    """``per**2`` times the sum over images of the squares of value - mean * per, from sums and sums of products."""
    return per**2 * of_value - 2 * value * per * both + value**2 * of_per


def _columns(instances: ResizedInstances) -> Int64[ndarray, "b 4"]:
    """The columns of each image, see :attr:`DriftSums.products`."""
    image_rows, num_images = instances.dataset.instances.image_rows, len(instances.dataset.images)
    width, height = np.log2(instances.shapes).T
    logs = [np.rint(each * STEPS) for each in ((width + height) / 2, height - width)]
    sums = [np.bincount(image_rows, each, num_images) for each in logs]  # whole numbers, so in any order
    columns = np.column_stack([*sums, np.bincount(image_rows, minlength=num_images), np.ones(num_images)])
    return columns.astype(np.int64)


def _of_category(
    instances: ResizedInstances, names: Mapping[int, str], num_objects: Int64[ndarray, " b"]
) -> dict[str, tuple[int, int, int]]:
    own = instances.dataset.instances
    ids, category_of = np.unique(own.category_ids, return_inverse=True)
    known = sorted({names[key] for key in ids.tolist()})
    place = np.array([known.index(names[key]) for key in ids.tolist()], np.int64)[category_of]
    cells, counts = np.unique(own.image_rows * max(len(known), 1) + place, return_counts=True)
    image_rows, places = np.divmod(cells, max(len(known), 1))
    result = {}
    for number, name in enumerate(known):
        some, every = counts[places == number], num_objects[image_rows[places == number]]
        result[name] = (int(some.sum()), int((some * some).sum()), int((some * every).sum()))
    return result


def _image_hashes(instances: ResizedInstances, columns: Int64[ndarray, "b 4"]) -> ImageHashes:
    """Hash the file name and size of each image. One without a name is hashed by its id, size and sums over its objects."""
    images = instances.dataset.images
    numbers = zip(images.file_names, images.ids.tolist(), images.wh.tolist(), columns.tolist(), strict=True)
    keys = [(name, *wh) if name else (number, *wh, *own) if own[OBJECTS] else None for name, number, wh, own in numbers]
    return ImageHashes.of(keys, images.ids.tolist())
