"""Tables of the pages, as HTML. Every text from a file is escaped here."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import THRESHOLDS, YOLOV5_RATIO, AnchorMetrics
from detect.data import Finding
from detect.report.plots import set_color, visible
from detect.wording import plural

SAME_SCORE = 5e-4  # scores of a fit are rounded and of a histogram, not of the boxes
TINY = 1e-9
MAX_WORST = 50
MAX_FINDINGS = 100
MAX_KINDS = 20
_VARYING = re.compile(r"\[[^\]]*\]|'[^']*'|-?\b\d[\d.]*(?:e[+-]?\d+)?(?:x\d+)?")

MAX_PROSE_CHARS = 3000  # of a caption, with the names in it


@dataclass(frozen=True)
class Html:
    """Safe markup; any other text in a table is escaped."""

    markup: str


def escape(text: str) -> str:
    """Return markup that shows text from a file literally and isolates its writing direction.

    >>> escape("<b>")
    '<bdi>&lt;b&gt;</bdi>'
    """
    return f"<bdi>{html.escape(visible(text))}</bdi>"


def prose(text: str) -> str:
    """Return markup of sentences, which are shown whole; names in them may come from files.

    >>> len(prose("a" * 900))
    911
    """
    return f"<bdi>{html.escape(visible(text, MAX_PROSE_CHARS))}</bdi>"


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str | Html]],
    *,
    align: str = "lr",
    groups: str = "",
    scroll: bool = False,
) -> str:
    """Return a table; a long one is shown in a window to ``scroll``.

    ``align`` is ``l`` or ``r`` for each column, the last letter also for all columns after it. ``groups`` is the markup of a
    row above the titles.

    >>> table(["name", "boxes"], [["a<b", "3"]]).splitlines()[3]
    '<tr><td><bdi>a&lt;b</bdi></td><td class="number"><bdi>3</bdi></td></tr>'
    """
    sides = [' class="number"' if side == "r" else "" for side in align.ljust(len(titles), align[-1])[: len(titles)]]
    heads = "".join(f"<th{side}>{html.escape(title)}</th>" for side, title in zip(sides, titles, strict=True))
    lines = []
    for row in rows:
        cells = (f"<td{side}>{_content(value)}</td>" for side, value in zip(sides, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    window = "table scroll" if scroll else "table"
    head, body = f"<thead>{groups}<tr>{heads}</tr></thead>", "\n".join(lines)
    return f'<div class="{window}"><table>\n{head}\n<tbody>\n{body}\n</tbody></table></div>'


def notes_list(lines: Iterable[str]) -> str:
    """Return sentences as a list; nothing without any.

    >>> notes_list(["a < b"]), notes_list([])
    ('<ul class="notes"><li><bdi>a &lt; b</bdi></li></ul>', '')
    """
    items = "".join(f"<li>{prose(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def swatch(color: str, text: str) -> Html:
    """Return a name behind a patch of its colour."""
    return Html(f'<span class="name"><i style="--color:{color}"></i>{escape(text)}</span>')


def shaded(text: str, share: float) -> Html:
    """Return text on a background that is darker the larger a share, from 0 to 1, is."""
    return Html(f'<span style="background:rgb(90 130 190/{share:.0%});padding:0 .4em">{escape(text)}</span>')


def decimal(value: float) -> str:
    """Format with three digits; NaN is a dash."""
    return "-" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"  # no minus before a zero


def percent(value: float) -> str:
    """Format a share in percent; NaN is a dash."""
    return "-" if math.isnan(value) else f"{value:.1%}"


def headline_table(scores: Sequence[AnchorMetrics]) -> str:
    """Return a table with a row for each anchor set."""
    recalls = [f"R@{threshold:g}" for threshold in THRESHOLDS]
    titles = ["anchor set", "made for", "anchors", "average IoU", *recalls, "average IoU", recalls[0]]
    titles.append(f"w, h within {YOLOV5_RATIO:g}x")
    groups = (("", 3), ("by shape", 1 + len(recalls)), ("on the grid", 2), ("ratio test (YOLOv5), not IoU", 1))
    above = "".join(f'<th colspan="{width}" class="group">{name}</th>' for name, width in groups)
    rows: list[list[str | Html]] = []
    for number, score in enumerate(scores):
        rule = Html(f'<span class="whole">{escape(score.anchors.resize or "not stated")}</span>')
        by_shape = decimal(score.average_iou), *(percent(score.recall(threshold)) for threshold in THRESHOLDS)
        on_grid = decimal(score.grid_average_iou), percent(score.grid_recall(THRESHOLDS[0]))
        name, count = swatch(set_color(number), score.anchors.name), f"{score.anchors.num_anchors}"
        rows.append([name, rule, count, *by_shape, *on_grid, percent(score.ratio_recall)])
    return table(titles, rows, align="llr", groups=f"<tr>{above}</tr>")


def bounds_in_words(score: AnchorMetrics) -> list[str]:
    """Return a line on the gap to the optimum for each score of the set with a proved bound on these boxes."""
    k = plural(score.anchors.num_anchors, "shape")
    here = {"average_iou": score.average_iou, "grid_average_iou": score.grid_average_iou}
    lines = []
    # a set from a file may store scores of other boxes
    then, just_fitted = score.anchors.scores, not score.anchors.version
    same = just_fitted or all(abs(then.get(name, math.nan) - value) < SAME_SCORE for name, value in here.items())
    for name, proof in score.anchors.proofs.items() if same else ():
        value, bound = here.get(name, proof.score), proof.upper_bound
        if value > 0:
            gap = math.ceil(max(bound / value - 1, 0) * 1000 - TINY) / 1000
            among = "with as many shapes on each level" if "grid_" in name else f"with {k}"
            words = name.replace("grid_", "").replace("_", " ").replace("iou", "IoU")
            words += " on the grid" if "grid_" in name else ""
            possible = f"at most {bound:.3f} is possible {among}"
            lines.append(f"{words} {value:.3f}; {possible}: within {gap:.1%} of the optimum")
    return lines


def anchors_table(scores: Sequence[AnchorMetrics], colors: Mapping[int, str]) -> str:
    """Return a table of the shapes of each level of each set, in the order of the head's channels."""
    rows: list[list[str | Html]] = []
    for number, score in enumerate(scores):
        for row, level in enumerate(score.anchors.levels):
            name = "" if row else swatch(set_color(number), score.anchors.name)
            sizes = "".join(f"<span>{width:.4g} x {height:.4g}</span>" for width, height in level.shapes)
            shapes = Html(f'<div class="shapes">{sizes}</div>')
            own = swatch(colors[level.stride], level.name)
            rows.append([name, own, f"{level.stride}", f"{len(level.shapes)}", shapes])
    return table(["anchor set", "level", "stride, px", "anchors", "width x height, px"], rows, align="llrrl")


def worst_table(score: AnchorMetrics) -> str:
    """Return a table of the instances with the lowest best IoU by shape."""
    titles = ("annotation", "file", "category", "width x height, px", "IoU by shape", "IoU on the grid")
    rows = []
    for row in score.worst(MAX_WORST).tolist():
        ious = decimal(float(score.best_iou[row])), decimal(float(score.grid_best_iou[row]))
        rows.append([*object_cells(score.instances, row), *ious])
    return table(titles, rows, align="rllr", scroll=True)


def object_cells(instances: ResizedInstances, row: int) -> list[str]:
    """Return the annotation of an instance, its file, its category, and its size after the resize rule."""
    dataset, (width, height) = instances.dataset, instances.shapes[row]
    own, image = dataset.instances, int(dataset.instances.image_rows[row])
    file = dataset.images.file_names[image] or f"image {dataset.images.ids[image]}"
    return [f"{own.ids[row]}", file, dataset.category_name(int(own.category_ids[row])), f"{width:.1f} x {height:.1f}"]


def findings(name: str, caption: str, found: Sequence[Finding]) -> str:
    """Return the count of findings of each kind, and a list of the first findings."""
    kinds = Counter(kind_of(finding.reason) for finding in found).most_common()
    more = f" {len(kinds) - MAX_KINDS:,} more kinds are not listed." if len(kinds) > MAX_KINDS else ""
    head = f'<h3 id="{name}">{name.capitalize()} <b>{len(found):,}</b></h3><p class="caption">{caption}{more}</p>'
    if not found:
        return head + '<p class="none">None.</p>'
    listed = []
    for each in found[:MAX_FINDINGS]:
        ids = ("-" if id_ is None else f"{id_}" for id_ in (each.annotation_id, each.image_id))
        listed.append([each.file, *ids, each.reason])
    first = f"all {len(found)}" if len(found) <= MAX_FINDINGS else f"the first {MAX_FINDINGS} of {len(found):,}"
    entries = table(("file", "annotation", "image", "reason"), listed, align="lrrl", scroll=True)
    counts = table(("count", "kind"), [[f"{count:,}", kind] for kind, count in kinds[:MAX_KINDS]], align="rl")
    return f"{head}{counts}<details><summary>Show {first}</summary>{entries}</details>"


def kind_of(reason: str) -> str:
    """Return a reason without its numbers, quoted words and boxes.

    >>> kind_of("bbox [1, 2, 3, 4] reaches outside its 640x480 image: clipped")
    'bbox … reaches outside its … image: clipped'
    """
    return _VARYING.sub("…", reason)


def _content(value: str | Html) -> str:
    return value.markup if isinstance(value, Html) else value and escape(value)
