"""Draw what a network computes: grids of filters and of maps in one stated scale, and maps over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from detect.report.pictures import contact_sheet, heatmap_overlay, palette_colors, resized
from detect.report.plots import visible

TILE_PX = 112  # longer side of a channel's picture: enlarged by a whole factor if it fits
FIRST_FILTER_PX, FILTER_PX = 64, 40
OVERLAY_PX = 288
SCALE_PERCENT = 99.5  # of the absolute values lie inside a scale; the others are drawn in its last colour
NEGATIVE_SHARE = 0.05  # of the scale: a map that goes further below 0 has a scale around 0
FONT_PX, TEXT_PX = 12, 18
BAR_WH = (160, 12)
# from black to pale yellow, after matplotlib's inferno; and from blue over white to red, after ColorBrewer's RdBu
RISING = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], float)
AROUND_0 = np.array([[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]], float)

Scale = tuple[float, float]


def common_scale(maps: Sequence[Float[ndarray, ...]]) -> Scale:
    """The lowest and highest value that are drawn: from 0, or around 0 if a share of the values is negative.

    >>> common_scale([np.array([0.0, 2.0]), np.array([4.0])]), common_scale([np.array([-1.0, 4.0])])
    ((0.0, 4.0), (-4.0, 4.0))
    """
    values = np.concatenate([np.ravel(each) for each in maps])
    most = float(np.percentile(np.abs(values), SCALE_PERCENT, method="higher")) or 1.0
    lowest = float(np.percentile(values, 100 - SCALE_PERCENT, method="lower"))
    return (-most, most) if lowest < -NEGATIVE_SHARE * most else (0.0, most)


def colored(values: Float[ndarray, "h w"], scale: Scale) -> UInt8[ndarray, "h w 3"]:
    """Values as colours: black to yellow from 0, blue over white to red around 0.

    >>> colored(np.array([[-1.0, 0.0, 1.0]]), (-1.0, 1.0)).tolist()
    [[[5, 48, 97], [247, 247, 247], [103, 0, 31]]]
    """
    low, high = scale
    share = np.clip((values - low) / (high - low), 0, 1)
    return palette_colors(share, AROUND_0 if low < 0 else RISING).round().astype(np.uint8)


def map_grid(
    cells: Float[ndarray, "d h w"], channels: Sequence[int], scale: Scale, *, heading: str = "", columns: int = 6
) -> Image.Image:
    """Draw these channels side by side in one scale, each with its number, and the scale below them."""
    tiles = [titled(_enlarged(colored(cells[channel], scale), TILE_PX), f"channel {channel}") for channel in channels]
    return _framed(contact_sheet(tiles, columns=columns, gap=6), heading, scale)


def overlay_row(
    image: Image.Image, maps: Sequence[tuple[str, Float[ndarray, "h w"]]], *, stride: int, heading: str = ""
) -> Image.Image:
    """Draw maps from 0 to 1 over the image in grey, each with its title: 0 is transparent, 1 the hottest."""
    image, nothing = image.convert("L"), np.zeros((0, 2))
    pictures = []
    for title, heat in maps:
        drawn = heatmap_overlay(image, heat, nothing, stride=stride)
        drawn.thumbnail((OVERLAY_PX, OVERLAY_PX), Image.Resampling.BOX)
        pictures.append(titled(drawn, title))
    return _framed(contact_sheet(pictures, columns=2, gap=6), heading, None)


def color_filters(weights: Float[ndarray, "n d h w"], *, most: float, heading: str = "") -> Image.Image:
    """Draw the filters of colour or grey images: 0 is middle grey, ``-most`` black and ``most`` full."""
    values = np.clip(weights / most * 127.5 + 127.5, 0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = [_enlarged(each if each.shape[2] == 3 else each[..., 0], FIRST_FILTER_PX) for each in values]
    return _framed(contact_sheet(tiles, columns=8, gap=6), heading, None)


def filter_grid(
    weights: Float[ndarray, "n d h w"], scale: Scale, *, heading: str = "", columns: int | None = None
) -> Image.Image:
    """Draw filters in one scale: a row for each output, a column for each input; in ``columns`` if each has one input."""
    num_inputs = weights.shape[1]
    tiles = [_enlarged(colored(kernel, scale), FILTER_PX) for each in weights for kernel in each]
    return _framed(contact_sheet(tiles, columns=columns or num_inputs, gap=6), heading, scale)


def _enlarged(pixels: UInt8[ndarray, ...], longest_px: int) -> Image.Image:
    return resized(Image.fromarray(pixels), longest_px)[0].convert("RGB")


def titled(picture: Image.Image, title: str) -> Image.Image:
    """The picture below its title."""
    font = ImageFont.load_default(FONT_PX)
    width = max(picture.width, round(font.getlength(title)))
    whole = Image.new("RGB", (width, picture.height + TEXT_PX), "white")
    ImageDraw.Draw(whole).text((0, 2), title, fill="#64707d", font=font)
    whole.paste(picture, (0, TEXT_PX))
    return whole


def _framed(sheet: Image.Image, heading: str, scale: Scale | None) -> Image.Image:
    """The sheet with its heading above and its scale below."""
    font = ImageFont.load_default(FONT_PX)
    text = visible(heading, 80)
    above, below = TEXT_PX + 4 if text else 0, 2 * TEXT_PX if scale else 0
    width = max(sheet.width, round(font.getlength(text)) + 16, BAR_WH[0] + 140 if scale else 0)
    whole = Image.new("RGB", (width, sheet.height + above + below), "white")
    whole.paste(sheet, (0, above))
    draw = ImageDraw.Draw(whole)
    draw.text((8, 6), text, fill="black", font=font)
    if scale:
        low, high = (f"{value:.3g}" for value in scale)
        left, top = 14 + round(font.getlength(low)), above + sheet.height + 6
        bar = np.broadcast_to(np.linspace(*scale, BAR_WH[0]), BAR_WH[::-1])
        draw.text((8, top - 2), low, fill="black", font=font)
        whole.paste(Image.fromarray(colored(np.asarray(bar), scale)), (left, top))
        draw.text((left + BAR_WH[0] + 6, top - 2), high, fill="black", font=font)
    return whole
