"""The page of a model's fields: what each level sees, how fields grow over the layers, and the objects beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from detect.anchors import distributions
from detect.catalog.detectors import Detector
from detect.inspection.level_profile import (
    LEVEL_TITLES,
    ModelProfile,
    ObjectProfile,
    growth_in_words,
    level_cells,
    notes_on,
)
from detect.inspection.receptive_field import MapField
from detect.report.page import Sections, block, page, tiles
from detect.report.plots import INK, LEVEL_COLORS, PLAIN, Key, Panel, label, panel, pixels_axis
from detect.report.tables import escape, notes_list, table
from detect.wording import by_nouns

BARS_PER_OCTAVE = 4
LEVELS_CAPTION = """A unit's field is the part of the image that it can depend on, whatever the weights; where a unit also
sees the whole image, the field is that without these branches. The shortest path is the field through all shortcuts. The
effective field holds 95 % of the influence, measured by gradients with the present weights. Overlap is the share of a field
that the neighbouring unit sees too; units that far apart share no pixel."""
LAYERS_CAPTION = """Each dot is a convolution, pooling or upsampling in the order in which they run, in the colour of its
output's stride. Between changes of stride a field grows by a constant number of pixels for each layer, which is linear
growth; where the stride doubles, so does the step."""
OBJECTS_CAPTION = """Objects by their longer side after the resize rule {rule}. The bar of a level goes from the smallest
size that it suits, 8 px or a cell, to its effective field, and the thin line to its whole field."""


def field_page(profile: ModelProfile, objects: ObjectProfile | None) -> str:
    """Return the page of a model, and of the objects of a dataset if there is one."""
    about = escape(f"What the maps of {profile.name} can see, and what they do see with the present weights.")
    levels = table(LEVEL_TITLES, [level_cells(profile, field) for field in profile.levels])
    summary = [block("", LEVELS_CAPTION, levels)]
    growth = [[growth_panel(profile.layers)]] if profile.layers else []
    sections: Sections = {"levels": ("Levels", summary), "layers": ("Over the layers", growth)}
    lines, read_from = notes_on(profile), tuple[str, ...]()
    if objects is not None:
        none = int(objects.unsuited.sum())
        counts = by_nouns({"object": len(objects.instances)}) | {f"{'suits' if none == 1 else 'suit'} no level": none}
        sections = {
            "objects": ("Objects and levels", [tiles(counts), *objects_parts(objects, "objects-by-level")]),
            **sections,
        }
        read_from = objects.instances.dataset.files
    return page("Fields", about, sections, read_from=read_from, notes=lines)


def objects_parts(objects: ObjectProfile, name: str, detector: Detector | None = None) -> tuple[str | list[Panel], ...]:
    """Return the figure of objects beside levels, and what it shows in words; ``name`` is the figure's."""
    return [objects_panel(objects, name)], notes_list(objects.in_words(detector))


def growth_panel(layers: Sequence[MapField]) -> Panel:
    """Draw the field of each layer, in the colour of its stride."""
    strides = sorted({field.stride[0] for field in layers})
    traces, keys = [], []
    for stride in strides:
        places = [place for place, field in enumerate(layers) if field.stride[0] == stride and field.size[0]]
        color = _color(stride)
        dots = go.Scatter(
            x=[place + 1 for place in places], y=[layers[place].size[0] for place in places], mode="markers"
        )
        dots.update(marker={"color": color, "size": 6}, hoverinfo="text")
        dots.hovertext = [label(f"{layers[place].name}: {layers[place].size[0]} px", 60) for place in places]
        traces.append(dots)
        keys.append(Key(f"stride {stride:g}", color, "dot"))
    sizes = [field.size[0] for field in layers if field.size[0]] or [1]
    caption = f"{' '.join(LAYERS_CAPTION.split())} {growth_in_words(layers)}"
    axes: dict[str, Any] = {"xaxis": {"title": "layer"}, "yaxis": pixels_axis("field, px", min(sizes), max(sizes))}
    return panel("growth", "Fields over the layers", caption, traces, columns=12, keys=keys, height=420, **axes)


def objects_panel(objects: ObjectProfile, name: str) -> Panel:
    """Draw the histogram of longer sides, and below it what each level suits."""
    longer = objects.instances.shapes.max(axis=1)
    edges, counts = distributions.octave_histogram(longer, per_octave=BARS_PER_OCTAVE)
    bars = go.Bar(x=edges[:-1], y=counts, width=np.diff(edges), offset=0, marker={"color": PLAIN}, hoverinfo="y")
    bars.marker.line = {"color": "white", "width": 1}
    traces, keys = [bars], [Key("objects", PLAIN, "square")]
    for level in objects.levels:
        color, title = _color(level.field.stride[0]), level.field.name
        least, most = level.least_px, max(level.effective_px, 1.0)
        whole = go.Scatter(
            x=[least, max(level.field.size)], y=[title, title], mode="lines", yaxis="y2", hoverinfo="skip"
        )
        traces.append(whole.update(line={"color": color, "width": 1}))
        text = label(f"{title}: {least:.0f} to {most:.0f} px, {int(level.suits.sum()):,} objects", 80)
        own = go.Scatter(x=[least, most], y=[title, title], mode="lines", yaxis="y2", hovertext=text, hoverinfo="text")
        traces.append(own.update(line={"color": color, "width": 9}))
    low = min(float(edges[0]), *(level.least_px for level in objects.levels))
    high = max(float(edges[-1]), *(max(level.field.size) for level in objects.levels))
    layout: dict[str, Any] = {
        "xaxis": pixels_axis("longer side, px", low, high),
        "yaxis": {"title": "objects", "domain": [0.46, 1], "rangemode": "tozero"},
        "yaxis2": {"domain": [0, 0.32], "type": "category", "autorange": "reversed", "automargin": True},
        "bargap": 0,
        "height": 430 + 14 * len(objects.levels),
    }
    caption = " ".join(OBJECTS_CAPTION.format(rule=objects.instances.rule).split())
    drawn = panel(
        name, f"Objects beside the levels of {objects.profile.name}", caption, traces, columns=12, keys=keys, **layout
    )
    drawn.figure.add_vline(x=objects.levels[0].least_px, line={"color": INK, "width": 1.2, "dash": "dot"})
    return drawn


def _color(stride: float) -> str:
    """One colour for each stride, the same in all figures."""
    return LEVEL_COLORS[max(0, round(math.log2(max(stride, 1))) - 1) % len(LEVEL_COLORS)]
