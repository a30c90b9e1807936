"""Maps side by side with their box and their share inside it, and the page of them."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from detect.inspection.judging import Judgement
from detect.report.attribution_page import BOX_COLOR, JudgedMap, attribution_page, attribution_sheet

BOX = (2.0, 1.0, 6.0, 5.0)


def judged(method: str, inside: float = 0.5) -> JudgedMap:
    heatmap = np.zeros((8, 8), np.float32)
    heatmap[1:5, 2:6] = 1
    return JudgedMap(method, heatmap, Judgement(inside, 0.25, 0.3, 0.7, 0.5, 0.5, 0.1, 0.02))


def test_the_sheet_has_the_image_and_a_tile_for_each_map_with_the_box_on_it():
    maps = [("lrp: 50% inside", judged("lrp").heatmap), ("odam: 40% inside", -judged("odam").heatmap)]
    sheet = attribution_sheet(Image.new("L", (8, 8)), BOX, maps)
    assert sheet.width > 3 * 256
    frame = tuple(int(BOX_COLOR[place : place + 2], 16) for place in (1, 3, 5))
    colors = {color for _, color in sheet.getcolors(2**20)}
    assert frame in colors
    assert (252, 255, 164) in colors  # the highest of a map from 0
    assert (5, 48, 97) in colors  # the lowest of a map below 0
    framed = (np.asarray(sheet) == frame).all(axis=2)
    assert int(framed.sum()) == 3 * (128**2 - 124**2)  # three frames, 2 wide, around 128 x 128


def test_a_title_says_the_share_inside_or_that_there_is_none():
    assert judged("lrp").title == "lrp: 50% inside"
    assert judged("lrp", math.nan).title == "lrp: nothing positive"
    assert judged("lrp", math.nan).row[1] == "-"


def test_the_page_names_methods_numbers_sources_and_doubts():
    maps = [judged("lrp"), judged("saliency", 0.1)]
    page, png = attribution_page(
        "A <b>", Image.new("L", (8, 8)), BOX, maps, image_name="a.png", notes=["explained: class"]
    )
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
    assert "A &lt;b&gt;" in page
    for text in ("Kohlbrenner et al. 2020", "Simonyan et al. 2014", "explained: class", "the frame covers 25.0%"):
        assert text in page
    assert "No more of it is inside the box than chance puts there." in page
