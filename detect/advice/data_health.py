"""Signs that the labels of a dataset cost a detector objects or scores: what was found, where, and why it matters.

They concern boxes that can be read: unusable entries, repeated ids and identical boxes are findings of the reader. Sizes and
shapes are those after the resize. Borders and repeated sizes are in pixels of the image, as labelled; a tile is an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.spatial import cKDTree
from scipy.special import gammainc

from detect.advice.overlaps import overlapping_pairs
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.ops.box_arrays import xywh_to_xyxy
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

Rows = Int64[ndarray, " n"]
NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class DataSign:
    """Something about a dataset's labels that costs a detector objects or scores."""

    name: str  # a short noun phrase, such as "near-duplicates of the same category"
    rows: Rows  # of the instances concerned; empty if it concerns images or categories
    image_ids: tuple[int, ...]  # images concerned, where it concerns images
    categories: tuple[str, ...]  # names of the categories concerned, where it concerns categories
    words: str  # one sentence: what was found with its numbers, and why it matters to a detector


def data_signs(instances: ResizedInstances, *, rare: int = 50) -> tuple[DataSign, ...]:
    """Find what is odd about the labels of a dataset; only what is found is returned.

    Two signs need a count 5 times as high as by chance, and higher than a Poisson count reaches in 1 of 1,000 datasets:

    - Boxes that end on the border of their image. By chance, as many do per pixel as in the 10 pixels further inside.
    - Boxes of exactly one size, as copies and labels made from points have. Whole-pixel labels of small objects repeat by
      chance: as often as the median of the 24 nearest other sizes. Missing ones count once, so that a few fixed sizes do
      not hide each other.

    Args:
        instances: boxes after the detector's resize rule.
        rare: a category with fewer instances is rare.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "letterbox:640")
    >>> [sign.name for sign in data_signs(instances)]
    ['near-duplicates of the same category', 'objects cut by the border', 'boxes of the same size', 'unusual sizes']
    """
    gap = _border_gap(instances)
    return (
        *_near_duplicates(instances),
        *_categories(instances, rare),
        *_alike_names(instances),
        *_on_border(gap),
        *_repeated_sizes(instances),
        *_shapes(instances),
        *_unusual_sizes(instances, gap),
        *_images(instances),
    )


def _sign(
    name: str, words: str, *, rows: Rows = NO_ROWS, image_ids: Iterable[int] = (), categories: Iterable[str] = ()
) -> DataSign:
    return DataSign(name, rows, tuple(image_ids), tuple(categories), words)


def _share(part: int, whole: int, noun: str, verb: str) -> str:
    verb = {"are": "is", "have": "has"}.get(verb, f"{verb}s") if part == 1 else verb
    share = f"{part / whole:.1%}" if part >= whole / 1000 else "under 0.1%"
    return f"{part:,} of {plural(whole, noun)} ({share}) {verb}"


def _near_duplicates(instances: ResizedInstances) -> Iterator[DataSign]:
    """Pairs of nearly the same box; pairs of identical boxes are findings of the reader."""
    own = instances.dataset.instances
    pairs = overlapping_pairs(instances.boxes, own.image_rows, above_iou=NEAR_IOU)
    differ = (own.boxes_xywh[pairs.first] != own.boxes_xywh[pairs.second]).any(axis=1)
    same = own.category_ids[pairs.first] == own.category_ids[pairs.second]
    for chosen, which, why in (
        (same & differ, "the same category", "most are one object labelled twice, and suppression returns it once"),
        (~same & differ, "different categories", "where they are one object, one of its labels is wrong"),
    ):
        first, second = pairs.first[chosen], pairs.second[chosen]
        if len(first):
            words = f"boxes of {which} overlap with an IoU above {NEAR_IOU} in {plural(len(first), 'pair')}: {why}"
            yield _sign(f"near-duplicates of {which}", words, rows=np.union1d(first, second))


def _categories(instances: ResizedInstances, rare: int) -> Iterator[DataSign]:
    """Categories with no or few objects, the fewest first, and a large ratio of the most objects to the fewest."""
    dataset = instances.dataset
    ids, nums = np.unique(dataset.instances.category_ids, return_counts=True)
    num_of = dict.fromkeys(dataset.category_ids, 0) | dict(zip(ids.tolist(), nums.tolist(), strict=True))
    ordered = sorted((count, dataset.category_name(key)) for key, count in num_of.items())
    unused, used = [name for count, name in ordered if not count], [each for each in ordered if each[0]]
    if unused:
        words = f"no object is labelled {listed(unused)}: the outputs for it learn only background"
        yield _sign("categories without objects", words, categories=unused)
    few = [f"{name} {count:,}" for count, name in used if count < rare]
    if few:
        share = _share(len(few), len(ordered), "category", "have")
        words = f"{share} fewer than {rare:,} objects ({listed(few)}): too few to learn well and to measure AP"
        yield _sign("rare categories", words, categories=[name for _, name in used[: len(few)]])
    if used and used[-1][0] >= UNEQUAL * used[0][0]:
        (fewest, least), (most, largest) = used[0], used[-1]
        times = f"{largest} has {most / fewest:,.0f} times as many objects as {least} ({most:,} and {fewest:,})"
        words = f"{times}: frequent categories dominate the loss, while every category counts alike in mAP"
        yield _sign("unequal categories", words, categories=[largest, least])


def _alike_names(instances: ResizedInstances) -> Iterator[DataSign]:
    dataset, alike = instances.dataset, dict[str, list[str]]()
    for key in dataset.category_ids:
        name = dataset.category_name(key)
        alike.setdefault("".join(each for each in name.casefold() if each not in " -_"), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        shown = listed(" and ".join(map(repr, names)) for names in groups)
        words = f"names of categories differ at most in case, spaces and hyphens, {shown}: one kind of object is split"
        yield _sign("categories of nearly the same name", words, categories=chain.from_iterable(groups))


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


def _on_border(gap: Float64[ndarray, " n"]) -> Iterator[DataSign]:
    rows = np.flatnonzero(gap <= BORDER_PX)
    in_band = ((gap > BORDER_PX) & (gap <= BORDER_PX + BAND_PX)).sum()
    by_chance = max(in_band * (BORDER_PX + 1) / BAND_PX, 1.0)  # of whole-pixel gaps, 0 and 1 against 2 to 11
    if _exceeds(np.array([len(rows)]), np.array([by_chance])).all():
        words = f"{_share(len(rows), len(gap), 'box', 'end')} within {BORDER_PX:.0f} px of the image's border"
        words += f", {len(rows) / by_chance:.0f} times as many as by chance: these objects are cut off"
        yield _sign("objects cut by the border", f"{words}, and their boxes show only the visible part", rows=rows)


def _repeated_sizes(instances: ResizedInstances) -> Iterator[DataSign]:
    rows = np.flatnonzero(~_fills_image(instances))
    steps = np.round(instances.dataset.instances.boxes_xywh[rows, 2:] / STEP_PX)
    sizes, size_of, counts = np.unique(steps @ np.array([1, 1j]), return_inverse=True, return_counts=True)
    often = np.flatnonzero(counts >= MIN_REPEATS)
    corners = np.column_stack([sizes.real, sizes.imag])
    _, near = cKDTree(corners).query(corners[often], k=NUM_SIZES + 1, p=np.inf)
    usual = np.median(np.append(counts, 1)[near[:, 1:]], axis=1)  # the first is the size itself
    found = often[_exceeds(counts[often], usual, len(sizes))]
    if len(found):
        own = np.isin(size_of, found)
        most = found[counts[found].argmax()]
        size = " x ".join(f"{side:g}" for side in corners[most] * STEP_PX) + " px"
        one_of = f"of {len(found):,} sizes that repeat beyond chance, most often {size} ({counts[most]:,})"
        which = one_of if len(found) > 1 else f"exactly {size}"
        words = f"{_share(int(own.sum()), len(instances), 'box', 'are')} {which}"
        why = "they may be copies or made from points, and a detector learns no extents from such labels"
        yield _sign("boxes of the same size", f"{words}: {why}", rows=rows[own])


def _fills_image(instances: ResizedInstances) -> Bool[ndarray, " n"]:
    own = instances.dataset.instances
    image_areas = instances.dataset.images.wh.prod(axis=1, dtype=float)[own.image_rows]
    return (own.boxes_xywh[:, 2:].prod(axis=1) >= WHOLE_SHARE * image_areas) & _is_sized(instances)


def _shapes(instances: ResizedInstances) -> Iterator[DataSign]:
    """Boxes that fill their image, and long ones."""
    whole = np.flatnonzero(_fills_image(instances))
    if len(whole):
        words = f"{_share(len(whole), len(instances), 'box', 'cover')} at least {WHOLE_SHARE:.0%} of the image"
        yield _sign("boxes of the whole image", f"{words}: perhaps labels of images rather than of objects", rows=whole)
    ratio = instances.shapes.max(axis=1) / instances.shapes.min(axis=1)
    long = np.flatnonzero(ratio > LONG)
    if len(long):
        words = f"{_share(len(long), len(instances), 'box', 'have')} sides of a ratio above {LONG:.0f} after the resize"
        words += f", up to {ratio[long].max():,.0f}: usual anchors have ratios up to 2 and hardly overlap them"
        yield _sign("extreme aspect ratios", words, rows=long)


def _unusual_sizes(instances: ResizedInstances, gap: Float64[ndarray, " n"]) -> Iterator[DataSign]:
    """Boxes far from the median of their category in log size; those on the border may be small, since they are cut."""
    dataset, size = instances.dataset, np.log(instances.shapes.prod(axis=1)) / 2
    usual, score = np.zeros(len(size)), np.zeros(len(size))
    for rows in rows_by_value(dataset.instances.category_ids).values():
        if len(rows) >= MIN_BOXES:
            usual[rows] = np.median(size[rows])
            off = size[rows] - usual[rows]
            score[rows] = off / max(NORMAL_MAD * np.median(np.abs(off)), LEAST_SPREAD)
    far = np.flatnonzero((score > FAR) | ((score < -FAR) & (gap > BORDER_PX)))
    if len(far):
        row = far[np.abs(score[far]).argmax()]
        name = dataset.category_name(int(dataset.instances.category_ids[row]))
        px, median = np.exp([size[row], usual[row]])
        example = f"such as {name} of {px:,.1f} px (median {median:,.1f} px; sqrt(area) after the resize)"
        words = f"{_share(len(far), len(size), 'box', 'are')} far from the usual size of the category, {example}"
        yield _sign("unusual sizes", f"{words}: check their categories and corners", rows=far)


def _images(instances: ResizedInstances) -> Iterator[DataSign]:
    """Images without objects, and several images of one file; tiles keep the file of their image."""
    dataset, images = instances.dataset, instances.dataset.images
    empty = np.setdiff1d(np.arange(len(images)), dataset.annotations.image_rows)
    if len(empty):
        words = f"{_share(len(empty), len(images), 'image', 'have')} no objects: a detector learns them as background"
        yield _sign("images without objects", words, image_ids=images.ids[empty].tolist())
    ids_of: dict[str, list[int]] = {}
    for number, name in zip(images.ids.tolist(), images.file_names, strict=True):
        ids_of.setdefault(name, []).append(number)
    again = {name: ids for name, ids in ids_of.items() if name and len(ids) > 1 and instances.rule.name != "tiles"}
    if again:
        ids = list(chain.from_iterable(again.values()))
        words = f"{plural(len(ids), 'image')} share {plural(len(again), 'file')}, {listed(again)}"
        why = "objects labelled in only one of them are background in the others"
        yield _sign("files named by several images", f"{words}: {why}", image_ids=ids)
