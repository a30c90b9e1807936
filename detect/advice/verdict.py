"""Advice in words: up to three lines on what is lost, what to set, and what makes small objects larger."""

from __future__ import annotations

from collections.abc import Iterator

from detect.advice.advise import Advice
from detect.advice.curves import Curve
from detect.advice.lost_objects import LEAST_PX, least_px
from detect.advice.lost_sums import LossSums
from detect.catalog.detectors import Detector
from detect.wording import plural, significant

NOTABLE = 0.01  # share of small objects that is worth a line


def verdict(advice: Advice) -> tuple[str, ...]:
    r"""What a colleague would say first.

    >>> from detect.advice.advise import advise
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> first, second, _ = verdict(advise(read_coco(sample_annotations("nuclei")), "tood", size=128))
    >>> print(first, second, sep="\n")
    tood at shortest:128:213:mmdet: of 318 objects, at least 36 (11.3%) get no cell in any assignment.
    Set input size 384 x 639 to lose 2 objects instead of 36, at 9 times the compute.
    """
    lines = [_lost(advice), _settings(advice), _small(advice)]
    return tuple(line for line in lines if line)


def share_text(count: int, whole: int) -> str:
    """A share in percent, with more digits below one percent.

    >>> share_text(45, 1000), share_text(3, 4784), share_text(1, 100_000), share_text(0, 9)
    ('4.5%', '0.06%', 'under 0.01%', '0%')
    """
    share = count / max(whole, 1)
    if count and share < 1e-4:
        return "under 0.01%"
    return f"{share:.1%}" if share >= 0.01 else f"{share:.2%}" if count else "0%"


def reason_in_words(detector: Detector, loss: LossSums, *, count: int = 2) -> str:
    """What happens to the objects of a reason, as the predicate of a sentence about as many."""
    nms, one = detector.nms, count == 1
    be, get, have = ("is", "gets", "has") if one else ("are", "get", "have")
    if loss.reason == "no positive":
        by_rule = {
            "one-query": f"{have} no query: an image has {detector.queries}",
            "center-peak": f"{'shares its' if one else 'share their'} peak with another object of the category",
            "center-in-box": f"{get} no cell in any assignment",
            "fcos": f"{get} no cell",
        }
        return by_rule.get(detector.rule, f"{get} no anchor")
    within = " within a category" if nms and nms.across == "category" else ""
    return {
        "dropped": f"{be} dropped in training, which keeps {detector.max_truth} of an image",
        "too large": f"{be} too large for reg_max {detector.reg_max}: no cell reaches every side",
        "suppressed": f"{be} removed by suppression{within} at IoU {nms.iou if nms else 0:g}, even if predicted perfectly",
        "not returned": f"{be} not returned: an image has {detector.max_det} detections",
    }[loss.reason]


def cost_in_words(cost: float, image_ms: float | None = None) -> str:
    """A cost as a multiple of the compute, and in the time of an image if that is known.

    >>> cost_in_words(2.25), cost_in_words(78.9, 12.0)
    ('2.2 times the compute', '79 times the compute (947 ms an image)')
    """
    time = "" if image_ms is None else f" ({duration_ms(cost * image_ms)} an image)"
    return f"{significant(cost, 2)} times the compute{time}"


def duration_ms(milliseconds: float) -> str:
    """A time in milliseconds, or in seconds from one second on.

    >>> duration_ms(27.04), duration_ms(2040)
    ('27 ms', '2 s')
    """
    return f"{significant(milliseconds, 3)} ms" if milliseconds < 1000 else f"{significant(milliseconds / 1000, 2)} s"


def change_in_words(curve: Curve, image_ms: float | None = None) -> str:
    """What to set, what it saves, and what it costs.

    >>> from detect.advice.curves import Option
    >>> options = Option(640, "imgsz=640", 90), Option(960, "imgsz=960", 4, 2.25)
    >>> change_in_words(Curve("input size", "px", 1000, options, 0, 1))
    'Set imgsz=960 to lose 4 objects instead of 90, at 2.2 times the compute'
    """
    best, now = curve.best, curve.now
    if not curve.is_worth_it:
        return (
            f"Keep {now.text}: {'no other value saves enough objects' if now.num_lost else 'no object is lost by it'}"
        )
    cost = f", at {cost_in_words(best.cost, image_ms)}" if best.cost > 1 else ""
    return f"Set {best.text} to lose {plural(best.num_lost, 'object')} instead of {now.num_lost:,}{cost}"


def _lost(advice: Advice) -> str:
    number, rule = advice.num_objects, advice.rule
    place = f"{advice.detector.name} without a resize" if rule.name == "none" else f"{advice.detector.name} at {rule}"
    found = sorted((each for each in advice.losses if each.num_lost), key=lambda each: -each.num_lost)
    if not found:
        return f"{place} loses none of {plural(number, 'object')} by its rules and limits."
    told = []
    for each in found:
        words = reason_in_words(advice.detector, each, count=each.num_lost)
        told.append(f"{each.num_lost:,} ({share_text(each.num_lost, number)}) {words}")
    return f"{place}: of {plural(number, 'object')}, at least {'; '.join(told)}."


def _settings(advice: Advice) -> str:
    sentences = []
    for curve in advice.changes:
        part = curve.num_objects < advice.num_objects
        sentences.append(
            change_in_words(curve, advice.image_ms) + (f" (of {curve.num_objects:,} compared)." if part else ".")
        )
    if not sentences and any(each.num_lost for each in advice.losses):
        sentences = ["Keep the settings: no other value saves enough objects to be worth its cost."]
    return " ".join(sentences)


def _small(advice: Advice) -> str:
    """The objects that are hard to see, and what makes them larger at the lowest cost."""
    number, few = advice.num_objects, len(advice.sums.small)
    if few < NOTABLE * number:
        return ""
    limit, be = least_px(advice.detector.strides), "is" if few == 1 else "are"
    line = f"{plural(few, 'object')} ({share_text(few, number)}) {be} under {limit:g} px after the resize"
    if limit > LEAST_PX:
        line += ", smaller than one cell"
    larger = sorted(_ways_to_enlarge(advice))
    return f"{line}: {larger[0][1]}." if larger else f"{line}."


def _ways_to_enlarge(advice: Advice) -> Iterator[tuple[float, str]]:
    """Costs, and what a larger input or tiles do, on top of the change that is advised."""
    for curve in advice.curves:
        advised = curve.best
        for option in curve.options:
            goes_on = option.cost >= advised.cost and option.finer >= advised.finer
            if goes_on and option.num_small < curve.now.num_small / 2 and option.cost > 1:
                left = share_text(option.num_small, curve.num_objects)
                yield option.cost, f"{option.text} leaves {left}, at {cost_in_words(option.cost, advice.image_ms)}"
    tiles, tiling = advice.sums.tiles, advice.sums.tiles and advice.sums.tiles.tiling
    if tiles and tiling and tiling.is_enough:
        shown = (
            f"tiles of {tiling.size} px that overlap by {tiling.overlap} show objects {tiling.shrink:.1f} times larger"
        )
        yield tiles.cost, f"{shown}, at {cost_in_words(tiles.cost, advice.image_ms)}"
