"""The pictures of what one network computes on an image, or two side by side, and the page of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from detect.inspection.activations import FilterBank, LevelDifference, LevelMaps
from detect.report.feature_pictures import color_filters, common_scale, filter_grid, map_grid, overlay_row
from detect.report.page import block, page, picture_block
from detect.report.pictures import contact_sheet, enlarged, png_bytes
from detect.report.tables import decimal, escape, table

FIRST_FILTERS = 64
OUTPUTS, INPUTS = 8, 8  # filters of a later convolution that are drawn
COLOR_CHANNELS = (1, 3)
OVERLAID = 3  # channels that are drawn over the image, beside all together
INPUT, FILTERS = "Input", "Filters"
INPUT_CAPTION = "The network's input after the resize rule, before normalisation, with stretched contrast."
COLOR_CAPTION = (
    "The first {count} filters of the first convolution, {name}, as colours: middle grey is 0, and the largest absolute "
    "weight ({most}) is full or black."
)
GRID_CAPTION = (
    "{name}: rows are the {rows} outputs of the largest weights, columns the {columns} inputs of their largest weights; red "
    "is positive, blue negative."
)
DEPTHWISE_CAPTION = "{name}: the {rows} largest of its filters, one for each channel; red is positive, blue negative."
MAP_CAPTION = (
    "The {count} channels of {channels} that vary most, in falling order, all in the scale below them, which covers 99.5% "
    "of the values drawn."
)
OVERLAY_CAPTION = (
    "Over the network's input in grey: the root mean square of all channels, then the {count} channels that vary most, each "
    "as its distance from its own mean. 0 is transparent; the hottest is the largest value of each picture{common}."
)
DIFFERENCE_CAPTION = (
    "similarity: linear CKA of the cells, unbiased: 1 if the channels of one are those of the other, rotated and scaled; "
    "about 0 if unrelated. correlation: of each channel with the same channel of the other, the median. Both networks see "
    "the same image, so even random weights give some similarity."
)


@dataclass(frozen=True, eq=False)
class NetworkView:
    """What one network computes on the image, and its filters."""

    name: str
    levels: Sequence[LevelMaps]
    filters: Sequence[FilterBank]


@dataclass(frozen=True, eq=False)
class FeaturePicture:
    """A PNG, its file name without the ending, and a caption on how to read it."""

    name: str
    section: str
    caption: str
    png: bytes


def feature_pictures(
    image: Image.Image, views: Sequence[NetworkView], *, num_channels: int, own_scales: bool = False
) -> list[FeaturePicture]:
    """Draw filters and maps of one network, or of two side by side: the same channels in the same scale.

    ``image`` is the network's input. The first network says which channels and levels are drawn. ``own_scales`` gives each
    network its own scale, for networks of which one has far larger values.
    """
    shown = Image.fromarray(enlarged(image)[0].astype(np.uint8))
    pictures = [FeaturePicture("input", INPUT, INPUT_CAPTION, png_bytes(shown))]
    pictures += [_filters(views, place, own_scales) for place in range(len(views[0].filters))]
    for level in views[0].levels:
        levels = [each for view in views for each in view.levels if each.name == level.name]
        names = [view.name for view in views if any(each.name == level.name for each in view.levels)]
        pictures += [_maps(names, levels, num_channels, own_scales), _overlays(image, names, levels, own_scales)]
    return pictures


def feature_rows(views: Sequence[NetworkView], differences: Sequence[LevelDifference]) -> list[list[str]]:
    """A row for each level of the first network: name, stride, cells, channels, constant ones, strongest; similarities."""
    found = {each.name: each for each in differences}
    rows = []
    for level in views[0].levels:
        channels, height, width = level.cells.shape
        strongest = ", ".join(map(str, level.order[:3].tolist()))
        row = [level.name, str(level.stride), f"{height} x {width}", str(channels), str(level.num_constant), strongest]
        if len(views) > 1:
            each = found.get(level.name)
            row += ["-", "-"] if each is None else [decimal(each.similarity), decimal(each.correlation)]
        rows.append(row)
    return rows


def feature_columns(views: Sequence[NetworkView]) -> tuple[str, ...]:
    """The titles of :func:`feature_rows`."""
    columns = ("map", "stride", "cells", "channels", "constant", "strongest")
    return (*columns, "similarity", "correlation") if len(views) > 1 else columns


def feature_page(
    views: Sequence[NetworkView],
    pictures: Sequence[FeaturePicture],
    differences: Sequence[LevelDifference],
    *,
    image_name: str,
) -> str:
    """Return the page: a table of the maps, then the pictures by level."""
    names = " and ".join(escape(view.name) for view in views)
    caption = DIFFERENCE_CAPTION if len(views) > 1 else "constant: channels with one value in all cells of this image."
    content = table(feature_columns(views), feature_rows(views, differences), align="lr")
    sections: dict[str, tuple[str, Sequence[str]]] = {"maps": ("Maps", [block("", caption, content)])}
    for number, name in enumerate(dict.fromkeys(each.section for each in pictures)):
        own = [picture_block(each.caption, each.png) for each in pictures if each.section == name]
        sections[f"section-{number}"] = (escape(name), own)
    title = "What the networks compute" if len(views) > 1 else "What the network computes"
    return page(title, names, sections, read_from=[image_name])


def _filters(views: Sequence[NetworkView], place: int, own_scales: bool) -> FeaturePicture:
    shown = [(view.name, view.filters[place]) for view in views if place < len(view.filters)]
    weights = [_array(bank.weights) for _, bank in shown]
    most = _tops([float(np.abs(each).max()) for each in weights], own_scales)
    headings = [f"{name}: {bank.name}" for name, bank in shown]
    first, name = weights[0], shown[0][1].name
    drawn = []
    if place == 0 and first.shape[1] in COLOR_CHANNELS:
        for each, top, heading in zip(weights, most, headings, strict=True):
            drawn.append(color_filters(each[:FIRST_FILTERS], most=top, heading=heading))
        tops = " and ".join(f"{top:.3g}" for top in dict.fromkeys(most))
        caption = COLOR_CAPTION.format(count=min(len(first), FIRST_FILTERS), name=name, most=tops)
        return FeaturePicture("filters_first", FILTERS, caption, _beside(drawn))
    same = all(each.shape == first.shape for each in weights)
    columns = 16 if first.shape[1] == 1 else None
    for each, top, heading in zip(weights, most, headings, strict=True):
        part = _largest(each, first if same else each)
        drawn.append(filter_grid(part, (-top, top), heading=heading, columns=columns))
    rows, inputs = _largest(first, first).shape[:2]
    caption = (DEPTHWISE_CAPTION if columns else GRID_CAPTION).format(name=name, rows=rows, columns=inputs)
    return FeaturePicture(f"filters_{name}", FILTERS, caption, _beside(drawn))


def _largest(weights: Float[ndarray, "n d h w"], by: Float[ndarray, "n d h w"]) -> Float[ndarray, "m e h w"]:
    """The filters whose weights in ``by`` are the largest: outputs first, then the inputs of these."""
    size = np.abs(by).sum(axis=(2, 3))
    most = OUTPUTS * INPUTS if by.shape[1] == 1 else OUTPUTS
    outputs = np.argsort(-size.sum(axis=1), kind="stable")[:most]
    inputs = np.argsort(-size[outputs].sum(axis=0), kind="stable")[:INPUTS]
    return weights[np.ix_(outputs, inputs)]


def _maps(names: Sequence[str], levels: Sequence[LevelMaps], num_channels: int, own_scales: bool) -> FeaturePicture:
    name, cells = levels[0].name, [_array(level.cells) for level in levels]
    chosen = [order[:num_channels] for order in _orders(levels)]
    drawn_cells = [each[channels] for each, channels in zip(cells, chosen, strict=True)]
    scales = [common_scale([each]) if own_scales else common_scale(drawn_cells) for each in drawn_cells]
    columns = 6 if len(levels) == 1 else 4
    drawn = [
        map_grid(each, channels, scale, heading=f"{network}: {name}", columns=columns)
        for each, channels, scale, network in zip(cells, chosen, scales, names, strict=True)
    ]
    caption = MAP_CAPTION.format(count=len(chosen[0]), channels=len(cells[0]))
    if len(levels) > 1:
        caption += " The channels are the same" if chosen[0] == chosen[1] else " Each network has its own channels"
        caption += ", each network in its own scale." if own_scales else ", both networks in the same scale."
        caption += f" Their largest values are {' and '.join(f'{np.abs(each).max():.3g}' for each in drawn_cells)}."
    return FeaturePicture(name, name, caption, _beside(drawn))


def _overlays(
    image: Image.Image, names: Sequence[str], levels: Sequence[LevelMaps], own_scales: bool
) -> FeaturePicture:
    name = levels[0].name
    heats, titles = [], []
    for level, order in zip(levels, _orders(levels), strict=True):
        around = (level.cells - level.cells.mean(dim=(1, 2), keepdim=True)).abs()
        heats.append([_array(level.energy), *(_array(around[channel]) for channel in order[:OVERLAID])])
        titles.append(["all channels", *(f"channel {channel}" for channel in order[:OVERLAID])])
    tops = [_tops([float(heat.max()) for heat in place], own_scales) for place in zip(*heats, strict=True)]
    drawn = []
    for number, (level, network) in enumerate(zip(levels, names, strict=True)):
        parts = [heat / top[number] for heat, top in zip(heats[number], tops, strict=True)]
        shown = list(zip(titles[number], parts, strict=True))
        drawn.append(overlay_row(image, shown, stride=level.stride, heading=f"{network}: {name}"))
    common = ", of both networks together" if len(levels) > 1 and not own_scales else ""
    caption = OVERLAY_CAPTION.format(count=len(heats[0]) - 1, common=common)
    return FeaturePicture(f"{name}_overlay", name, caption, _beside(drawn))


def _orders(levels: Sequence[LevelMaps]) -> list[list[int]]:
    """The channels of each network by falling strength: those of the first for all, if they have as many."""
    same = all(len(level.cells) == len(levels[0].cells) for level in levels)
    return [(levels[0] if same else level).order.tolist() for level in levels]


def _tops(largest: Sequence[float], own_scales: bool) -> list[float]:
    """What each network's largest value is divided by; never 0."""
    tops = largest if own_scales else [max(largest)] * len(largest)
    return [top or 1.0 for top in tops]


def _beside(drawn: Sequence[Image.Image]) -> bytes:
    return png_bytes(contact_sheet(drawn, columns=2, gap=12))


def _array(tensor: object) -> Float[ndarray, ...]:
    return np.asarray(tensor, float)
