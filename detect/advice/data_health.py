"""Signs that the labels of a dataset cost a detector objects or scores: what was found, where, and why it matters.

They concern boxes that can be read: unusable entries, repeated ids and identical boxes are findings of the reader. Sizes and
shapes are those after the resize. Borders and repeated sizes are in pixels of the image, as labelled; a tile is an image.
What is usual is taken from a sample of the images, then all boxes are counted: counts of shards add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex128, Float64, Int64
from numpy import ndarray
from scipy.spatial import cKDTree
from scipy.special import gammainc

from detect.advice.image_hashes import ImageHashes, hash_of
from detect.advice.lost_sums import MAX_IDS, ids_of
from detect.advice.overlaps import OverlappingPairs
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.data.dataset_counts import DatasetCounts
from detect.ops.box_arrays import xywh_to_xyxy
from detect.ops.exact_sums import FirstItems, Sums
from detect.wording import listed, plural

NEAR_IOU = 0.9  # two boxes above it are hardly two objects
UNEQUAL = 50  # most objects of a category / fewest: Datumaro's imbalance_ratio_thr
BORDER_PX, BAND_PX = 1.0, 10.0  # what is on the border, and the width of the band inside it
MIN_REPEATS, NUM_SIZES, STEP_PX = 5, 24, 0.01  # of one size; other sizes to compare it with; sizes that are the same
MIN_EXCESS, CHANCE = 5.0, 1e-3  # count / expected count; probability that a dataset without the cause shows a sign
WHOLE_SHARE = 0.99  # of the image's area
LONG = 10.0  # longer side / shorter side
FAR, MIN_BOXES = 4.0, 50  # robust standard deviations from a category's usual size; boxes that show it
NORMAL_MAD = 1.4826  # standard deviation / median absolute deviation of a normal distribution
LEAST_SPREAD = np.log(1.1)  # standard deviation of log size: labels of one size have none

NONE = FirstItems[int].of([], most=MAX_IDS)


@dataclass(frozen=True)
class DataSign:
    """Something about a dataset's labels that costs a detector objects or scores."""

    name: str  # a short noun phrase, such as "near-duplicates of the same category"
    words: str  # one sentence: what was found with its numbers, and why it matters to a detector
    ids: FirstItems[int] = NONE  # of the annotations concerned; empty if it concerns images or categories
    image_ids: FirstItems[int] = NONE  # images concerned, where it concerns images
    categories: tuple[str, ...] = ()  # names of the categories concerned, where it concerns categories


@dataclass(frozen=True)
class Usual:
    """What :func:`usual_labels` finds: typical and repeated sizes in a sample of the images, and repeated file names."""

    log_sizes: Mapping[int, tuple[float, float]]
    """The median of log size and its robust standard deviation, for each category with enough boxes in the sample."""
    repeated: tuple[complex, ...]
    """Sizes that repeat beyond chance, as width + i height in ``STEP_PX``."""
    files: ImageHashes
    """The images whose file is named by several."""


def usual_labels(sample: ResizedInstances, files: ImageHashes) -> Usual:
    """Find what is usual, from the boxes of a sample after the resize and the file names of all images."""
    size, spreads = _log_size(sample), {}
    for category, rows in rows_by_value(sample.dataset.instances.category_ids).items():
        if len(rows) >= MIN_BOXES:
            usual = float(np.median(size[rows]))
            off = float(np.median(np.abs(size[rows] - usual)))
            spreads[category] = usual, max(NORMAL_MAD * off, float(LEAST_SPREAD))
    again = np.isin(files.hashes, np.array(files.repeated, np.uint64))
    return Usual(spreads, _repeated_sizes(sample), ImageHashes(files.hashes[again], files.ids[again]))


@dataclass(frozen=True)
class SignSums(Sums):
    """What labels show, as counts and the first ids."""

    num_boxes: int
    num_pairs: tuple[int, int]
    """Near-duplicates of the same category, and of different ones."""
    near: tuple[FirstItems[int], FirstItems[int]]
    on_border: FirstItems[int]
    num_in_band: int
    of_repeated: tuple[int, ...]
    """How many boxes have each of the sizes that repeat."""
    repeated: FirstItems[int]
    whole: FirstItems[int]
    long: FirstItems[int]
    longest: FirstItems[float]
    """The negative of the largest ratio of sides."""
    far: FirstItems[int]
    farthest: FirstItems[tuple[float, int, int, float]]
    """The negative of the largest distance from the usual size, in robust deviations; annotation, category, log size."""
    empty: FirstItems[int]
    again: FirstItems[tuple[str, int]]
    """The file and id of images whose file is named by several."""

    @classmethod
    def of(cls, instances: ResizedInstances, pairs: OverlappingPairs, usual: Usual) -> SignSums:
        """Count the signs in a dataset, or in a shard; ``pairs`` are those of an image of every IoU above .9, or more."""
        dataset, own = instances.dataset, instances.dataset.instances
        gap, (num_pairs, near) = _border_gap(instances), _near_duplicates(instances, pairs)
        repeated, ratio = _repeats(instances, usual), instances.shapes.max(axis=1) / instances.shapes.min(axis=1)
        long, (far, farthest) = np.flatnonzero(ratio > LONG), _unusual_sizes(instances, gap, usual)
        empty = np.setdiff1d(np.arange(len(dataset.images)), dataset.annotations.image_rows)
        return cls(
            len(instances),
            num_pairs=num_pairs,
            near=near,
            on_border=ids_of(own.ids[gap <= BORDER_PX]),
            num_in_band=int(((gap > BORDER_PX) & (gap <= BORDER_PX + BAND_PX)).sum()),
            of_repeated=tuple(int((repeated == number).sum()) for number in range(len(usual.repeated))),
            repeated=ids_of(own.ids[repeated >= 0]),
            whole=ids_of(own.ids[_fills_image(instances)]),
            long=ids_of(own.ids[long]),
            longest=FirstItems.of((-ratio[long]).tolist(), most=1),
            far=far,
            farthest=farthest,
            empty=ids_of(dataset.images.ids[empty]),
            again=_named_again(instances, usual.files),
        )


def data_signs(sums: SignSums, counts: DatasetCounts, usual: Usual, *, rare: int = 50) -> tuple[DataSign, ...]:
    """Tell what is odd about the labels of a dataset; only what is found is returned.

    Two signs need a count 5 times as high as by chance, and higher than a Poisson count reaches in 1 of 1,000 datasets:

    - Boxes that end on the border of their image. By chance, as many do per pixel as in the 10 pixels further inside.
    - Boxes of exactly one size, as copies and labels made from points have. Whole-pixel labels of small objects repeat by
      chance: as often as the median of the 24 nearest other sizes. Missing ones count once, so that a few fixed sizes do
      not hide each other.

    Args:
        sums: of the dataset.
        counts: of the dataset.
        usual: what the sums were counted with.
        rare: a category with fewer instances is rare.
    """
    return (
        *_doubled(sums),
        *_categories(counts, rare),
        *_alike_names(counts),
        *_on_border(sums),
        *_of_one_size(sums, usual),
        *_shapes(sums),
        *_of_unusual_size(sums, counts, usual),
        *_images(sums, counts, usual),
    )


def _share(part: int, whole: int, noun: str, verb: str) -> str:
    verb = {"are": "is", "have": "has"}.get(verb, f"{verb}s") if part == 1 else verb
    share = f"{part / whole:.1%}" if part >= whole / 1000 else "under 0.1%"
    return f"{part:,} of {plural(whole, noun)} ({share}) {verb}"


def _near_duplicates(instances: ResizedInstances, pairs: OverlappingPairs) -> tuple[tuple[int, int], tuple[Any, Any]]:
    """Pairs of nearly the same box, of one category and of two; pairs of identical boxes are findings of the reader."""
    own, pairs = instances.dataset.instances, pairs.above(NEAR_IOU)
    differ = (own.boxes_xywh[pairs.first] != own.boxes_xywh[pairs.second]).any(axis=1)
    same = own.category_ids[pairs.first] == own.category_ids[pairs.second]
    chosen = same & differ, ~same & differ
    ids = (ids_of(own.ids[np.union1d(pairs.first[each], pairs.second[each])]) for each in chosen)
    return (int(chosen[0].sum()), int(chosen[1].sum())), (next(ids), next(ids))


def _doubled(sums: SignSums) -> Iterator[DataSign]:
    for number, ids, which, why in zip(
        sums.num_pairs,
        sums.near,
        ("the same category", "different categories"),
        (
            "most are one object labelled twice, and suppression returns it once",
            "where they are one object, one of its labels is wrong",
        ),
        strict=True,
    ):
        if number:
            words = f"boxes of {which} overlap with an IoU above {NEAR_IOU} in {plural(number, 'pair')}: {why}"
            yield DataSign(f"near-duplicates of {which}", words, ids)


def _categories(counts: DatasetCounts, rare: int) -> Iterator[DataSign]:
    """Categories with no or few objects, the fewest first, and a large ratio of the most objects to the fewest."""
    num_of = dict.fromkeys(counts.category_ids, 0) | dict(counts.boxes_of)
    ordered = sorted((count, counts.category_name(key)) for key, count in num_of.items())
    unused, used = [name for count, name in ordered if not count], [each for each in ordered if each[0]]
    if unused:
        words = f"no object is labelled {listed(unused)}: the outputs for it learn only background"
        yield DataSign("categories without objects", words, categories=tuple(unused))
    few = [f"{name} {count:,}" for count, name in used if count < rare]
    if few:
        share = _share(len(few), len(ordered), "category", "have")
        words = f"{share} fewer than {rare:,} objects ({listed(few)}): too few to learn well and to measure AP"
        yield DataSign("rare categories", words, categories=tuple(name for _, name in used[: len(few)]))
    if used and used[-1][0] >= UNEQUAL * used[0][0]:
        (fewest, least), (most, largest) = used[0], used[-1]
        times = f"{largest} has {most / fewest:,.0f} times as many objects as {least} ({most:,} and {fewest:,})"
        words = f"{times}: frequent categories dominate the loss, while every category counts alike in mAP"
        yield DataSign("unequal categories", words, categories=(largest, least))


def _alike_names(counts: DatasetCounts) -> Iterator[DataSign]:
    alike = dict[str, list[str]]()
    for key in counts.category_ids:
        name = counts.category_name(key)
        alike.setdefault("".join(each for each in name.casefold() if each not in " -_"), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        shown = listed(" and ".join(map(repr, names)) for names in groups)
        words = f"names of categories differ at most in case, spaces and hyphens, {shown}: one kind of object is split"
        yield DataSign("categories of nearly the same name", words, categories=tuple(chain.from_iterable(groups)))


def _is_sized(instances: ResizedInstances) -> Bool[ndarray, " n"]:
    """Whether the size of the instance's image is known, rather than the extent of its boxes."""
    dataset = instances.dataset
    return ~np.isin(dataset.images.ids, np.array(dataset.unsized, np.int64))[dataset.instances.image_rows]


def _border_gap(instances: ResizedInstances) -> Float64[ndarray, " n"]:
    """The distance of each box from the nearest border of its image in pixels; infinite if the border is not known."""
    own = instances.dataset.instances
    boxes = xywh_to_xyxy(own.boxes_xywh)
    beyond = instances.dataset.images.wh[own.image_rows] - boxes[:, 2:]
    gap = np.concatenate([boxes[:, :2], beyond], axis=1).min(axis=1)
    return np.where(_is_sized(instances), np.round(gap, 6), np.inf)  # rounded, so that 1 px is not 1.0000000001


def _exceeds(
    counts: Int64[ndarray, " n"], expected: Float64[ndarray, " n"], num_looked: int = 1
) -> Bool[ndarray, " n"]:
    """Whether counts are far above the expected ones, and too high for the largest of ``num_looked`` Poisson counts."""
    return (counts >= MIN_EXCESS * expected) & (num_looked * gammainc(counts, expected) < CHANCE)


def _on_border(sums: SignSums) -> Iterator[DataSign]:
    number = len(sums.on_border)
    by_chance = max(sums.num_in_band * (BORDER_PX + 1) / BAND_PX, 1.0)  # of whole-pixel gaps, 0 and 1 against 2 to 11
    if _exceeds(np.array([number]), np.array([by_chance])).all():
        words = f"{_share(number, sums.num_boxes, 'box', 'end')} within {BORDER_PX:.0f} px of the image's border"
        words += f", {number / by_chance:.0f} times as many as by chance: these objects are cut off"
        yield DataSign(
            "objects cut by the border", f"{words}, and their boxes show only the visible part", sums.on_border
        )


def _sizes(instances: ResizedInstances) -> Complex128[ndarray, " n"]:
    """The labelled size of each box, as width + i height in ``STEP_PX``."""
    steps: Complex128[ndarray, " n"] = np.round(instances.dataset.instances.boxes_xywh[:, 2:] / STEP_PX) @ np.array(
        [1, 1j]
    )
    return steps


def _repeated_sizes(sample: ResizedInstances) -> tuple[complex, ...]:
    """Sizes that repeat far more often than the sizes next to them, those of boxes of a whole image aside."""
    sizes, counts = np.unique(_sizes(sample)[~_fills_image(sample)], return_counts=True)
    often = np.flatnonzero(counts >= MIN_REPEATS)
    if not len(often):
        return ()
    corners = np.column_stack([sizes.real, sizes.imag])
    _, near = cKDTree(corners).query(corners[often], k=NUM_SIZES + 1, p=np.inf)
    usual = np.median(np.append(counts, 1)[near[:, 1:]], axis=1)  # the first is the size itself
    return tuple(sizes[often[_exceeds(counts[often], usual, len(sizes))]].tolist())


def _repeats(instances: ResizedInstances, usual: Usual) -> Int64[ndarray, " n"]:
    """The number of each box's size among those that repeat; -1 for others, and for boxes of a whole image."""
    if not usual.repeated:
        return np.full(len(instances), -1)
    known, sizes = np.array(usual.repeated), _sizes(instances)  # in rising order
    place = np.searchsorted(known, sizes).clip(max=len(known) - 1)
    return np.where((known[place] == sizes) & ~_fills_image(instances), place, -1)


def _of_one_size(sums: SignSums, usual: Usual) -> Iterator[DataSign]:
    if not usual.repeated:
        return
    most = int(np.argmax(sums.of_repeated))
    number, (width, height) = len(usual.repeated), (usual.repeated[most].real, usual.repeated[most].imag)
    size = f"{width * STEP_PX:g} x {height * STEP_PX:g} px"
    one_of = f"of {number:,} sizes that repeat beyond chance, most often {size} ({sums.of_repeated[most]:,})"
    words = f"{_share(len(sums.repeated), sums.num_boxes, 'box', 'are')} {one_of if number > 1 else f'exactly {size}'}"
    why = "they may be copies or made from points, and a detector learns no extents from such labels"
    yield DataSign("boxes of the same size", f"{words}: {why}", sums.repeated)


def _fills_image(instances: ResizedInstances) -> Bool[ndarray, " n"]:
    own = instances.dataset.instances
    image_areas = instances.dataset.images.wh.prod(axis=1, dtype=float)[own.image_rows]
    return (own.boxes_xywh[:, 2:].prod(axis=1) >= WHOLE_SHARE * image_areas) & _is_sized(instances)


def _shapes(sums: SignSums) -> Iterator[DataSign]:
    """Boxes that fill their image, and long ones."""
    if len(sums.whole):
        words = f"{_share(len(sums.whole), sums.num_boxes, 'box', 'cover')} at least {WHOLE_SHARE:.0%} of the image"
        why = "perhaps labels of images rather than of objects"
        yield DataSign("boxes of the whole image", f"{words}: {why}", sums.whole)
    if len(sums.long):
        words = f"{_share(len(sums.long), sums.num_boxes, 'box', 'have')} sides of a ratio above {LONG:.0f} after the resize"
        words += f", up to {-sums.longest[0]:,.0f}: usual anchors have ratios up to 2 and hardly overlap them"
        yield DataSign("extreme aspect ratios", words, sums.long)


def _log_size(instances: ResizedInstances) -> Float64[ndarray, " n"]:
    return np.log(instances.shapes.prod(axis=1)) / 2


def _unusual_sizes(
    instances: ResizedInstances, gap: Float64[ndarray, " n"], usual: Usual
) -> tuple[FirstItems[int], Any]:
    """Boxes far from the median of their category in log size; those on the border may be small, since they are cut."""
    own, size, score = instances.dataset.instances, _log_size(instances), np.zeros(len(instances))
    for category, rows in rows_by_value(own.category_ids).items():
        if category in usual.log_sizes:
            median, deviation = usual.log_sizes[category]
            score[rows] = (size[rows] - median) / deviation
    far = np.flatnonzero((score > FAR) | ((score < -FAR) & (gap > BORDER_PX)))
    most = far[np.abs(score[far]) == np.abs(score[far]).max(initial=0)]
    columns = (-np.abs(score[most]), own.ids[most], own.category_ids[most], size[most])
    return ids_of(own.ids[far]), FirstItems.of(zip(*(each.tolist() for each in columns), strict=True), most=1)


def _of_unusual_size(sums: SignSums, counts: DatasetCounts, usual: Usual) -> Iterator[DataSign]:
    for _, _, category, log_size in sums.farthest:
        px, median = np.exp([log_size, usual.log_sizes[category][0]])
        sizes = f"{px:,.1f} px (median {median:,.1f} px; sqrt(area) after the resize)"
        example = f"such as {counts.category_name(category)} of {sizes}"
        words = (
            f"{_share(len(sums.far), sums.num_boxes, 'box', 'are')} far from the usual size of the category, {example}"
        )
        yield DataSign("unusual sizes", f"{words}: check their categories and corners", sums.far)


def _named_again(instances: ResizedInstances, files: ImageHashes) -> FirstItems[tuple[str, int]]:
    """The file and id of each image whose file is named by several."""
    images, known = instances.dataset.images, set(files.hashes.tolist())
    rows = np.flatnonzero(np.isin(images.ids, files.ids)).tolist()
    named = [(images.file_names[row], int(images.ids[row])) for row in rows]
    return FirstItems.of([each for each in named if hash_of(each[0]) in known], most=MAX_IDS)


def _images(sums: SignSums, counts: DatasetCounts, usual: Usual) -> Iterator[DataSign]:
    """Images without objects, and several images of one file; tiles keep the file of their image."""
    if len(sums.empty):
        words = f"{_share(len(sums.empty), counts.num_images, 'image', 'have')} no objects"
        why = "a detector learns them as background"
        yield DataSign("images without objects", f"{words}: {why}", image_ids=sums.empty)
    if len(sums.again):
        names, number = dict.fromkeys(name for name, _ in sums.again), len(usual.files.repeated)
        shown = listed(chain(names, repeat("", number - len(names))))  # only the first are shown
        words = f"{plural(len(sums.again), 'image')} share {plural(number, 'file')}, {shown}"
        why = "objects labelled in only one of them are background in the others"
        ids = FirstItems(len(sums.again), tuple(number for _, number in sums.again), MAX_IDS)
        yield DataSign("files named by several images", f"{words}: {why}", image_ids=ids)
