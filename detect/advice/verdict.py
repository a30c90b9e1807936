"""Advice in words: up to three lines on what is lost, what to set, and what else to look at."""

from __future__ import annotations

from detect.advice.advise import COCO_MAX_DETS, Advice
from detect.advice.curves import Curve
from detect.advice.lost_objects import LEAST_PX, LostObjects, least_px
from detect.catalog.detectors import Detector
from detect.wording import listed, plural

NOTABLE = 0.01  # share of small objects that is worth a line


def verdict(advice: Advice) -> tuple[str, ...]:
    r"""What a colleague would say first.

    >>> from detect.advice.advise import advise
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> first, second, _ = verdict(advise(read_coco(sample_annotations("nuclei")), "tood", size=128))
    >>> print(first, second, sep="\n")
    tood at shortest:128:213:mmdet: of 318 objects, at least 36 (11.3%) can never be learned, as no cell is left for them.
    Set input size 384 x 639: it loses 2 objects instead of 36, for 9 times the compute.
    """
    lines = [_lost(advice), _settings(advice), _small(advice) or _others(advice)]
    return tuple(line for line in lines if line)


def share_text(count: int, whole: int) -> str:
    """A share in percent, with more digits the smaller it is.

    >>> share_text(45, 1000), share_text(3, 4784), share_text(0, 9)
    ('4.5%', '0.06%', '0%')
    """
    share = count / max(whole, 1)
    return f"{share:.1%}" if share >= 0.01 else f"{share:.2%}" if count else "0%"


def reason_in_words(detector: Detector, loss: LostObjects) -> str:
    """What happens to the objects of a reason, as the predicate of a sentence about them."""
    nms = detector.nms
    if loss.reason == "no positive":
        by_rule = {
            "one-query": f"have no query: an image has {detector.queries}",
            "center-peak": "share their peak with another object of their category",
            "center-in-box": "can never be learned, as no cell is left for them",
            "fcos": "can never be learned, as no cell takes them",
        }
        return by_rule.get(detector.rule, "can never be learned, as no anchor takes them")
    within = " within a category" if nms and nms.across == "category" else ""
    return {
        "dropped": f"are dropped in training, which keeps {detector.max_truth} of an image",
        "too large": f"are too large for reg_max {detector.reg_max}: no cell reaches all of their sides",
        "suppressed": f"are removed by suppression{within} at IoU {nms.iou if nms else 0:g}, even if predicted perfectly",
        "not returned": f"cannot be returned: an image has {detector.max_det} detections",
    }[loss.reason]


def change_in_words(curve: Curve) -> str:
    """What to set, what it saves, and what it costs.

    >>> from detect.advice.curves import Option
    >>> options = Option(640, "imgsz=640", 90), Option(960, "imgsz=960", 4, 2.25)
    >>> change_in_words(Curve("input size", "px", 1000, options, 0, 1))
    'Set imgsz=960: it loses 4 objects instead of 90, for 2.2 times the compute'
    """
    best, now = curve.best, curve.now
    cost = f", for {best.cost:.2g} times the compute" if best.cost > 1 else ""
    return f"Set {best.text}: it loses {plural(best.num_lost, 'object')} instead of {now.num_lost:,}{cost}"


def _lost(advice: Advice) -> str:
    number, rule = len(advice.instances), advice.instances.rule
    place = f"{advice.detector.name} without a resize" if rule.name == "none" else f"{advice.detector.name} at {rule}"
    found = sorted((each for each in advice.losses if each.num_lost), key=lambda each: -each.num_lost)
    if not found:
        return f"{place} can learn and return every one of the {number:,} objects."
    told = "; ".join(
        f"{each.num_lost:,} ({share_text(each.num_lost, number)}) {reason_in_words(advice.detector, each)}"
        for each in found
    )
    return f"{place}: of {number:,} objects, at least {told}."


def _settings(advice: Advice) -> str:
    sentences = []
    for curve in advice.changes:
        part = curve.num_objects < len(advice.instances)
        sentences.append(change_in_words(curve) + (f" (of {curve.num_objects:,} compared)." if part else "."))
    if not sentences and any(each.num_lost for each in advice.losses):
        sentences = ["Keep the settings: no other value saves enough objects to be worth its cost."]
    return " ".join(sentences)


def _small(advice: Advice) -> str:
    """The objects that are hard to see, and what makes them larger."""
    number, few = len(advice.instances), len(advice.small)
    if few < NOTABLE * number:
        return ""
    limit = least_px(advice.detector.strides)
    line = f"{few:,} objects ({share_text(few, number)}) are under {limit:g} px after the resize"
    if limit > LEAST_PX:
        line += ", smaller than one cell"
    if advice.tiles and advice.tiles.is_enough:
        cuts, tiles = advice.tiles.cuts, advice.tiles
        larger = f"{tiles.shrink:.1f} times larger, for {tiles.cost:.0f} times the compute"
        return f"{line}: tiles of {cuts.size} px that overlap by {cuts.overlap} show objects {larger}."
    for curve in advice.curves:
        half = [each for each in curve.options if each.num_small < curve.now.num_small / 2 and each.cost > 1]
        if half and curve.now.num_small:
            best = min(half, key=lambda each: each.cost)
            left = share_text(best.num_small, curve.num_objects)
            return f"{line}: {best.text} leaves {left}, for {best.cost:.2g} times the compute."
    return f"{line}."


def _others(advice: Advice) -> str:
    """What the labels show, or what limits the scores."""
    if advice.unscored:
        return f"COCO's AP cannot count {plural(advice.unscored, 'object')}: beyond {COCO_MAX_DETS} detections of an image."
    if advice.drift and advice.drift.in_words():
        return advice.drift.in_words()[0]
    names = [sign.name for sign in advice.signs]
    return f"Look at the labels: {listed(names)}." if names else ""
