"""The page of advice: verdicts, what is lost, curves of the settings, lost objects over their images, and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from detect.advice.advise import Advice
from detect.advice.curves import Curve, Option
from detect.advice.lost_sums import MAX_OBJECTS, LossSums, LostObject
from detect.advice.verdict import change_in_words, reason_in_words, share_text, verdict
from detect.anchors.instances import ResizedInstances
from detect.inspection.level_profile import ObjectProfile
from detect.report.field_page import objects_parts
from detect.report.object_pictures import object_pictures, pictures_block
from detect.report.page import Sections, block, page, tiles
from detect.report.plots import INK, MISSED, MUTED, Key, Panel, label, panel, set_color
from detect.report.tables import escape, notes_list, prose, table
from detect.wording import by_nouns, plural

MAX_LISTED, MAX_SHOWN = 100, 12
SHARE_AXIS = {"title": "lost, % of objects", "rangemode": "tozero"}


@dataclass(frozen=True)
class DetectorPart:
    """What the page shows of one detector; made by :func:`detector_part`."""

    name: str
    verdict: str
    parts: tuple[str | Sequence[Panel], ...]


def detector_part(
    advice: Advice,
    number: int,
    *,
    notes: Sequence[str] = (),
    images: str | Path | None = None,
    instances: ResizedInstances | None = None,
    seen: ObjectProfile | None = None,
) -> DetectorPart:
    """Return the part of one detector. ``number`` tells the figures of several apart.

    With ``instances``, lost objects are drawn over their images in the folder ``images``. ``seen`` are the objects beside
    the levels of a model.
    """
    telling = [curve for curve in advice.curves if any(each.num_lost or each.num_small for each in curve.options)]
    curves = [_curve_panel(f"curve-{number}-{place}", curve, advice.image_ms) for place, curve in enumerate(telling)]
    parts: tuple[str | Sequence[Panel], ...] = (
        _losses(advice),
        curves,
        _settings(advice),
        *(objects_parts(seen, f"levels-{number}", advice.detector) if seen else ()),
        *_lost_objects(advice, images, instances),
    )
    return DetectorPart(advice.detector.name, _verdict(advice, notes), parts)


@dataclass(frozen=True)
class DatasetPart:
    """What the page shows of the dataset; made by :func:`dataset_part`."""

    files: tuple[str, ...]
    counts: str
    labels: str


def dataset_part(advice: Advice) -> DatasetPart:
    """Return the counts of the dataset, and what its labels show."""
    labels = _labels(advice) if advice.signs or advice.drift else ""
    return DatasetPart(tuple(advice.counts.files), _counts(advice), labels)


def advice_page(dataset: DatasetPart, parts: Sequence[DetectorPart]) -> str:
    """Return the page of one or several detectors for one dataset."""
    sections: Sections = {"summary": ("Summary", [dataset.counts, *(part.verdict for part in parts)])}
    each = {f"detector-{number}": (escape(part.name), part.parts) for number, part in enumerate(parts)}
    sections = {**sections, **each, "labels": ("Labels", [dataset.labels])}
    names = ", ".join(part.name for part in parts)
    about = escape(f"Objects that {names} cannot learn or return, whatever the network predicts, and what changes it.")
    return page("Advice", about, sections, read_from=dataset.files)


def _counts(advice: Advice) -> str:
    counts, categories = advice.counts, len(advice.counts.category_ids)
    return tiles(by_nouns({"object": counts.num_boxes, "image": counts.num_images, "category": categories}))


def _verdict(advice: Advice, notes: Sequence[str]) -> str:
    lines = "".join(f"<p>{prose(line)}</p>" for line in verdict(advice))
    source = f"Settings as in {advice.detector.source}." if advice.detector.source else ""
    return block(escape(advice.detector.name), escape(source), lines + notes_list(notes))


def _losses(advice: Advice) -> str:
    rows = []
    for loss in advice.losses:
        sizes = [f"{count:,} of {whole:,}" for _, count, whole in loss.by_size]
        share = share_text(loss.num_lost, advice.num_objects)
        rows.append([loss.reason, f"{loss.num_lost:,}", share, *sizes, reason_in_words(advice.detector, loss)])
    caption = (
        "'At least' is the number of objects lost in any case. By size after the resize: objects that are lost or compete "
        "for the same cells, of all objects of that size."
    )
    titles = ("reason", "at least", "share", *(name for name, *_ in advice.losses[0].by_size), "these objects")
    return block("What is lost", prose(caption), table(titles, rows, align="lrrrrrl"))


def _settings(advice: Advice) -> str:
    rows = []
    for curve in advice.curves:
        lost = f"{curve.now.num_lost:,} of {curve.num_objects:,}"
        rows.append([curve.setting, curve.now.text, lost, change_in_words(curve, advice.image_ms)])
    caption = "What the detector's framework calls each setting, what it loses now, and what is worth changing."
    return block("Settings", prose(caption), table(("setting", "now", "loses", "advice"), rows, align="llrl"))


def _curve_panel(name: str, curve: Curve, image_ms: float | None) -> Panel:
    """The share lost at each value: one line without and one with a finer level, the present and the chosen value marked."""
    lines, keys = [], [Key("now", INK, "diamond")]
    for number, finer in enumerate(sorted({option.finer for option in curve.options})):
        own = [option for option in curve.options if option.finer == finer and option.value]
        lines.append(_line(own, curve, set_color(number)))
        keys.append(Key("with a finer level" if finer else "lost", set_color(number), "line"))
        if any(option.num_small for option in own) and not finer:
            lines.append(_line(own, curve, set_color(number), small=True))
            keys.append(Key("under 8 px or a cell: hard to see", set_color(number), "dot"))
    for option in curve.options:
        if not option.value:  # ranges of equal shares
            ends = [each.value for each in curve.options if each.value]
            level = go.Scatter(x=[min(ends), max(ends)], y=[_share(curve, option.num_lost)] * 2, mode="lines")
            level.update(line={"color": MUTED, "dash": "dash"}, hovertext=label(option.text, 90), hoverinfo="text")
            lines.append(level)
            keys.append(Key("equal shares on all levels", MUTED, "dash"))
    marks = [(curve.now, INK)]
    if curve.is_worth_it:
        marks.append((curve.best, MISSED))
        keys.append(Key("worth it", MISSED, "diamond"))
    for option, color in marks:
        mark = go.Scatter(x=[option.value], y=[_share(curve, option.num_lost)], mode="markers")
        lines.append(mark.update(hoverinfo="skip", marker={"color": color, "symbol": "diamond", "size": 10}))
    caption = f"Of {plural(curve.num_objects, 'object')}. {change_in_words(curve, image_ms)}."
    xaxis = {"title": f"{curve.setting}, {curve.unit}"}
    return panel(name, f"By {curve.setting}", caption, lines, keys=keys, columns=6, xaxis=xaxis, yaxis=SHARE_AXIS)


def _share(curve: Curve, count: int) -> float:
    return 100 * count / max(curve.num_objects, 1)


def _line(options: Sequence[Option], curve: Curve, color: str, *, small: bool = False) -> go.Scatter:
    ordered = sorted(options, key=lambda option: option.value)
    counts = [option.num_small if small else option.num_lost for option in ordered]
    texts = [f"{label(option.text, 60)}<br>{count:,} objects" for option, count in zip(ordered, counts, strict=True)]
    line = go.Scatter(x=[option.value for option in ordered], y=[_share(curve, count) for count in counts])
    line.update(mode="lines+markers", line={"color": color, "dash": "dot" if small else "solid"}, marker={"size": 5})
    line.update(hovertext=texts, hoverinfo="text")
    return line


def _lost_objects(advice: Advice, images: str | Path | None, instances: ResizedInstances | None) -> list[str]:
    """The objects of each reason, and pictures of some of them."""
    parts = []
    for loss in advice.losses:
        number = len(loss.lost) + len(loss.contested)
        if not number:
            continue
        if images is not None and instances is not None and advice.rule.name != "tiles":
            parts.append(_pictures(advice, loss, instances, images))
        title = f"Lost or contested: {loss.reason} <b>{number:,}</b>"
        all_of_them = "all" if max(len(loss.lost), len(loss.contested)) <= MAX_OBJECTS else "more"
        cut = f"The first {MAX_LISTED} of them; lost.csv has {all_of_them}." if number > MAX_LISTED else ""
        parts.append(block(title, cut, _object_table(advice, loss)))
    return parts


def _pictures(advice: Advice, loss: LossSums, instances: ResizedInstances, images: str | Path) -> str:
    own, certain = instances.dataset.instances, {each.annotation_id for each in loss.lost}
    every = [each.annotation_id for each in (*loss.lost, *loss.contested)]
    spread = [every[place] for place in np.unique(np.linspace(0, len(every) - 1, 4 * MAX_SHOWN).round().astype(int))]
    row_of = {int(own.ids[row]): row for row in np.flatnonzero(np.isin(own.ids, spread)).tolist()}
    sizes = np.sqrt(instances.shapes.prod(axis=1))
    found = object_pictures(instances.dataset, [row_of[each] for each in spread], images, count=MAX_SHOWN)

    def heading(row: int) -> str:
        return f"<b>{'lost' if own.ids[row] in certain else 'contested'}</b>, {sizes[row]:.1f} px after the resize"

    what = reason_in_words(advice.detector, loss)
    caption = escape(f"Some of the objects that {what}, and of those they compete with. Contrast is stretched.")
    return pictures_block(f"Over their images: {loss.reason}", caption, found, instances.dataset, heading)


def _object_table(advice: Advice, loss: LossSums) -> str:
    def line(each: LostObject, outcome: str) -> list[str]:
        file, (width, height) = each.file_name or f"image {each.image_id}", each.resized_wh
        category = advice.counts.category_name(each.category_id)
        return [f"{each.annotation_id}", file, category, f"{width:.1f} x {height:.1f}", outcome]

    lines = [line(each, "lost") for each in loss.lost] + [line(each, "contested") for each in loss.contested]
    titles = ("annotation", "file", "category", "after the resize, px", "lost or contested")
    return f"<details><summary>Show</summary>{table(titles, lines[:MAX_LISTED], align='rllrl', scroll=True)}</details>"


def _labels(advice: Advice) -> str:
    rows = []
    for sign in advice.signs:
        named = sign.categories or [f"{each}" for each in (*sign.image_ids, *sign.ids)]
        rows.append([sign.words, ", ".join(named[:MAX_SHOWN]) + (" ..." if len(named) > MAX_SHOWN else "")])
    rows += [[words, ""] for words in (advice.drift.summary() if advice.drift else ())]
    caption = "Signs of faults, and of differences between training and validation. advice.json has the ids."
    return block(
        "What the labels show", caption, table(("sign", "annotations, images or categories"), rows, align="ll")
    )
