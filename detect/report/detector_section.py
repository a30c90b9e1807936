"""The part of an anchor page for a named detector: its own score, what it learns from, and the text to copy."""

from __future__ import annotations

import html
from collections.abc import Sequence

from detect.anchors.assignment_sums import AssignedGroup
from detect.anchors.detector_score import DetectorScore
from detect.errors import ConvertError
from detect.interop.anchor_formats import convert_anchors
from detect.report.page import block
from detect.report.tables import escape, notes_list, table

LEARNS = """Positive anchors of a box, in the mean over the boxes of a size or category: how much of the loss is about them.
None: boxes that no anchor learns."""


def detector_section(scores: Sequence[DetectorScore]) -> list[str]:
    """Markup of a fit for a detector; further scores are of the anchors that it is compared with.

    >>> detector_section([])
    []
    """
    if not scores:
        return []
    return [_text(scores[0]), _scores(scores), _learns(scores)]


def _text(score: DetectorScore) -> str:
    detector = score.detector
    try:
        text = html.escape(convert_anchors(score.anchors, detector).text)
    except ConvertError as error:
        return block(f"No text for {escape(detector.name)}", escape(str(error)), "")
    where = f"For <code>{escape(detector.text.file)}</code>, at <code>{escape(detector.text.key)}</code>."
    content = f'<div class="copy"><button type="button">Copy</button><pre>{text}</pre></div>'
    return block(f"Text for {escape(detector.about or detector.name)}", where, content)


def _scores(scores: Sequence[DetectorScore]) -> str:
    first = scores[0]
    titles = ("", "score", f"mean {first.measure}", "reached", "positives per box")
    rows = []
    for each in scores:
        numbers = (f"{value:.4f}" for value in (each.score, each.average, each.recall))
        rows.append([each.anchors.name, *numbers, f"{each.assignment.overall.positives:.2f}"])
    caption = html.escape(f"{first.in_words()}.")
    return block(f"As {escape(first.detector.name)} matches", caption, table(titles, rows))


def _learns(scores: Sequence[DetectorScore]) -> str:
    """Positives by size and category, the anchor sets side by side."""
    titles = ["", "boxes"]
    for each in scores:
        titles += [f"positives, {each.anchors.name}", "none"]
    groups = [(*each.assignment.by_size, *each.assignment.by_category) for each in scores]
    rows = [_row(same) for same in zip(*groups, strict=True) if same[0].count]
    words = scores[0].assignment.neglect_in_words()
    return block("What it learns from", LEARNS, table(titles, rows) + notes_list([words] if words else []))


def _row(same: Sequence[AssignedGroup]) -> list[str]:
    cells = [same[0].name, f"{same[0].count:,}"]
    for group in same:
        cells += [f"{group.positives:.2f}", f"{group.unassigned:,}"]
    return cells
