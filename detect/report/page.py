"""Figures and tables as one HTML page that needs nothing but itself.

The page holds plotly's javascript, so it works offline, and a content security policy that names its two scripts by
their hashes: should markup of a hostile file ever reach the page, its scripts and addresses stay dead.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files

from plotly.offline import get_plotlyjs

from detect.anchors.coverage import YOLOV5_RATIO, Coverage
from detect.anchors.fitting import KCurve
from detect.report.anchor_plots import (
    average_iou_panels,
    boxes_and_shapes,
    k_curve_panel,
    recall_over_iou,
    shapes_to_scale,
)
from detect.report.dataset_plots import dataset_panels
from detect.report.plots import Key, Panel, level_colors
from detect.report.tables import MAX_WORST, anchors_table, escape, findings, headline_table, worst_table

MAX_FILES = 5
DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const buttons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]];
const config = {displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtons: buttons};
for (const [name, figure] of Object.entries(figures)) Plotly.newPlot(name, figure.data, figure.layout, config);
"""
REFUSED = "Entries that cannot be used: nothing on this page counts them."
ODD = "Entries that are used, though something about them is not as it should be."
ANCHORS = "Shapes after the resize rule, level by level, in the order of the head's channels."
HEADLINE = f"""R@t is the share of boxes whose best IoU reaches t: by shape where box and anchor share a centre, placed
where the grid puts the anchors. The last column is YOLOv5's “best possible recall”, a ratio test: the share of boxes for
which some anchor is within a factor of {YOLOV5_RATIO:g} in width and in height, whatever their IoU."""
OTHER_RULE = " A set made for another resize rule is scored as it stands."
WORST = "Where to look first: boxes that no shape comes near, with the best IoU by shape and as placed on the grid."


def anchor_page(scores: Sequence[Coverage], curve: KCurve | None, *, title: str, notes: Sequence[str] = ()) -> str:
    """The report of a fit, as the text of one HTML file; equal input gives equal text.

    Args:
        scores: the set that was fitted, then those it is compared with.
        curve: average IoU over the number of shapes, or None to leave that figure out.
        title: heading of the page.
        notes: lines of plain text under the heading.

    Raises:
        ValueError: no scores.
    """
    if not scores:
        raise ValueError("a page needs at least one Coverage, got none")
    panels = _panels(scores, curve)
    body = [
        _header(scores[0], title, notes),
        _section("summary", "Summary", _counts(scores[0]) + _headline(scores)),
        _section("shapes", "Shapes", _grid(panels["shapes"]) + _block("Anchors by level", ANCHORS, _anchors(scores))),
        _section("coverage", "Coverage", _grid(panels["coverage"]) + _worst(scores[0])),
        _section("dataset", "Dataset", _grid(panels["dataset"])),
        _section("findings", "Findings", _findings(scores[0])),
    ]
    return _document(title, "\n".join(body), [panel for group in panels.values() for panel in group])


def _panels(scores: Sequence[Coverage], curve: KCurve | None) -> Mapping[str, list[Panel]]:
    colors = level_colors(scores)
    k_curve = [k_curve_panel(curve)] if curve else []
    return {
        "shapes": [boxes_and_shapes(scores[0], colors), shapes_to_scale(scores[0], colors)],
        "coverage": [recall_over_iou(scores, 6 if k_curve else 12), *k_curve, *average_iou_panels(scores)],
        "dataset": dataset_panels(scores[0]),
    }


def _document(title: str, body: str, panels: Sequence[Panel]) -> str:
    figures = ",\n".join(f'"{panel.name}": {panel.figure.to_json()}' for panel in panels).replace("<", "\\u003c")
    scripts = (get_plotlyjs(), DRAW)
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{files("detect.report").joinpath("page.css").read_text("utf-8")}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="figures">{{{figures}}}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _header(score: Coverage, title: str, notes: Sequence[str]) -> str:
    names = score.instances.dataset.files
    more = f" and {len(names) - MAX_FILES:,} more" if len(names) > MAX_FILES else ""
    shown = ", ".join(f"<code>{escape(name)}</code>" for name in names[:MAX_FILES])
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    sections = ("summary", "shapes", "coverage", "dataset", "findings")
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in sections)
    return f"""<header>
<h1>{escape(title)}</h1>
<p>Resize rule <code>{escape(str(score.instances.rule))}</code> · read from {shown}{more}</p>
{f'<ul class="notes">{lines}</ul>' if lines else ""}
<nav>{links}</nav>
<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>
</header>"""


def _counts(score: Coverage) -> str:
    dataset = score.instances.dataset
    counts = {
        "images": len(dataset.images),
        "instances": len(score.instances),
        "categories": len(dataset.categories),
        "crowd regions": len(dataset.crowd),
        "refused": len(dataset.refused),
        "odd": len(dataset.odd),
    }
    tiles = "".join(f"<div><b>{count:,}</b><span>{name}</span></div>" for name, count in counts.items())
    return f'<div class="tiles">{tiles}</div>'


def _headline(scores: Sequence[Coverage]) -> str:
    rules = {score.anchors.resize for score in scores}
    caption = HEADLINE if rules == {str(scores[0].instances.rule)} else HEADLINE + OTHER_RULE
    return _block("Anchor sets", caption, headline_table(scores))


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}">\n<h2>{title}</h2>\n{content}\n</section>'


def _block(title: str, caption: str, content: str) -> str:
    return f'<div class="block"><h3>{title}</h3><p class="caption">{caption}</p>{content}</div>'


def _anchors(scores: Sequence[Coverage]) -> str:
    return anchors_table(scores, level_colors(scores))


def _worst(score: Coverage) -> str:
    count = min(MAX_WORST, len(score.instances))
    return _block(f"Worst covered instances <b>{count}</b>", WORST, worst_table(score))


def _findings(score: Coverage) -> str:
    dataset = score.instances.dataset
    tables = findings("refused", REFUSED, dataset.refused), findings("odd", ODD, dataset.odd)
    return "\n".join(f'<div class="block">{content}</div>' for content in tables)


def _grid(panels: Sequence[Panel]) -> str:
    return '<div class="grid">\n' + "\n".join(map(_figure, panels)) + "\n</div>"


def _figure(panel: Panel) -> str:
    keys = f'<div class="keys">{"".join(map(_key, panel.keys))}</div>' if panel.keys else ""
    return f"""<figure class="panel" style="grid-column:span {panel.columns}">
<h3>{html.escape(panel.title)}</h3>
<div class="plot" id="{panel.name}" style="height:{panel.figure.layout.height}px"></div>
<figcaption>{keys}<p class="caption">{escape(panel.caption)}</p></figcaption>
</figure>"""


def _key(key: Key) -> str:
    return f'<span class="name"><i class="{key.mark}" style="--color:{key.color}"></i>{escape(key.label)}</span>'
