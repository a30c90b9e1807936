"""Draw attributions of one detection side by side, and build the page of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

from detect.inspection.attribution import METHODS
from detect.inspection.judging import Judgement
from detect.report.feature_pictures import colored, common_scale, titled
from detect.report.page import block, page, picture_block
from detect.report.pictures import contact_sheet, png_bytes, resized, stretch_contrast
from detect.report.tables import Html, decimal, escape, prose, table
from detect.wording import significant

TILE_PX = 256  # longer side of a map, enlarged by a whole factor if it is smaller
COLUMNS = 4
BOX_COLOR = "#12b886"  # on black, yellow, white, red and blue alike
CAPTION = (
    "Each map has its own scale, up to the value that 99.5% of its absolute values do not exceed: red is for the answer, "
    "blue against it, or from black to yellow where a map has next to no negative values. The frame is the detection, the "
    "percentage the share of the positive attribution inside it; the frame covers {share:.1%} of the image."
)
COLUMN_TITLES = (
    *("method", "inside", "deletion", "by chance", "insertion", "by chance", "same with random weights", "seconds"),
    "doubts",
)


@dataclass(frozen=True, eq=False)
class JudgedMap:
    """The map of one method, (h, w) in pixels of the network's input, and its judgement.

    ``layer`` is the module whose feature maps Grad-CAM or ODAM took, if it was named.
    """

    method: str
    heatmap: Float[ndarray, "h w"]
    judgement: Judgement
    layer: str | None = None

    @property
    def name(self) -> str:
        """The method, and the layer if it was named."""
        return self.method if self.layer is None else f"{self.method} of {self.layer}"

    @property
    def title(self) -> str:
        """The method and the share of its positive attribution inside the box."""
        inside = self.judgement.energy_inside
        return f"{self.name}: {'nothing positive' if math.isnan(inside) else f'{inside:.0%} inside'}"

    @property
    def row(self) -> list[str]:
        """The cells of the table, as ``COLUMN_TITLES`` names them."""
        own = self.judgement
        inside = "-" if math.isnan(own.energy_inside) else f"{own.energy_inside:.0%}"
        numbers = (own.deletion, own.random_deletion, own.insertion, own.random_insertion, own.sanity_correlation)
        return [self.name, inside, *map(decimal, numbers), significant(own.seconds, 2), " ".join(own.doubts) or "none"]


def attribution_sheet(
    image: Image.Image, box: Sequence[float], maps: Sequence[tuple[str, Float[ndarray, "h w"]]]
) -> Image.Image:
    """Draw the image and the maps side by side, each with its title and the box, all in pixels of the network's input."""
    tiles = [_tile("image", stretch_contrast(image), box)]
    for title, heatmap in maps:
        tiles.append(_tile(title, Image.fromarray(colored(heatmap, common_scale([heatmap]))), box))
    return contact_sheet(tiles, columns=min(COLUMNS, len(tiles)))


def attribution_page(
    title: str,
    image: Image.Image,
    box: Sequence[float],
    maps: Sequence[JudgedMap],
    *,
    image_name: str,
    notes: Sequence[str],
) -> tuple[str, bytes]:
    """Return the page and the PNG in it."""
    png = png_bytes(attribution_sheet(image, box, [(each.title, each.heatmap) for each in maps]))
    share = maps[0].judgement.box_share if maps else 0.0
    numbers = table(COLUMN_TITLES, [[_unbroken(each.name), *each.row[1:]] for each in maps], align="lrrrrrrrl")
    known = {name: METHODS[name] for name in dict.fromkeys(each.method for each in maps)}
    about = table(
        ("method", "what it shows", "what is known of it", "source"),
        [[_unbroken(name), own.description, "; ".join(own.properties), own.source] for name, own in known.items()],
        align="l",
    )
    judged = (
        "Deletion and insertion: the area under the answer's curve while patches are blurred, the strongest first, or put "
        "back; low deletion and high insertion are better, by chance is a random order. Same with random weights: the rank "
        "correlation of the map around the detection with that of the network with random weights, which should be near 0."
    )
    sections = {
        "maps": ("Maps", [picture_block(CAPTION.format(share=share), png)]),
        "judgement": ("Judgement", [block("Are the maps to be trusted?", prose(judged), numbers)]),
        "methods": ("Methods", [block("", "", about)]),
    }
    return page(title, "", sections, read_from=[image_name], notes=notes), png


def _unbroken(name: str) -> Html:
    return Html(f'<span class="whole">{escape(name)}</span>')


def _tile(title: str, picture: Image.Image, box: Sequence[float]) -> Image.Image:
    """A picture in the size of the tiles with the box on it, below its title."""
    tile, factor = resized(picture, TILE_PX)
    x0, y0, x1, y1 = (side * factor for side in box)
    ImageDraw.Draw(tile).rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=BOX_COLOR, width=2)
    return titled(tile, title)
