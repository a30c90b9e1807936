from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import coco_content
from numpy.testing import assert_allclose
from pages import GROWING_BOXES, TWO_LEVELS, ParsedPage, boxes_in_files, many_boxes, parse_page
from PIL import Image

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import THRESHOLDS, AnchorMetrics, anchor_metrics
from detect.data import read_coco
from detect.fitting.fit import KCurve
from detect.report.anchor_page import anchor_page, worst_block, worst_pictures
from detect.report.dataset_figures import MAX_CATEGORIES
from detect.report.object_pictures import RIM_PX
from detect.report.tables import MAX_WORST

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '"><svg/onload=document.title=1>',
    "<b>R&D</b>",
    "</title></style><!--",
    "lone \ud800 surrogate",
]
CURVE = KCurve({1: 0.4, 2: 0.6, 3: 0.65}, 2)


@pytest.fixture(scope="module")
def scores() -> list[AnchorMetrics]:
    some = boxes_in_files(
        [*GROWING_BOXES, [5, 5, 0, 10], [600, 400, 90, 20]], names=["cell", "nucleus"], files=["a.jpg", "b.jpg"]
    )
    return [
        anchor_metrics(some, TWO_LEVELS),
        anchor_metrics(some, AnchorSet.of([[(64, 64)]], strides=[32], name="square")),
    ]


@pytest.fixture(scope="module")
def page(scores: list[AnchorMetrics]) -> ParsedPage:
    return parse_page(anchor_page(scores, CURVE, title="Anchors"))


def test_every_section_and_figure_is_there(page: ParsedPage) -> None:
    sections = {"summary", "shapes", "metrics", "levels", "worst", "dataset", "findings", "invalid", "suspicious"}
    of_anchors = {"boxes", "scale", "recall", "k-curve", "by-size", "by-ratio", "by-category"}
    of_anchors |= {"iou-map", "recall-by-size", "iou-by-level"}
    of_dataset = {"image-sizes", "boxes-per-image", "object-sizes", "centers", "classes"}
    assert page.ids() == sections | of_anchors | of_dataset | {"figures"}
    assert set(page.figures) == of_anchors | of_dataset


def test_links_at_the_top_are_the_sections_and_their_titles(page: ParsedPage) -> None:
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert page.text.count("IoU and recall") == 2


def test_headline_shows_the_numbers_of_the_metrics(page: ParsedPage, scores: list[AnchorMetrics]) -> None:
    first = scores[0]
    recalls = [f"{first.recall(threshold):.1%}" for threshold in THRESHOLDS]
    on_grid = [f"{first.grid_average_iou:.3f}", f"{first.grid_recall(0.5):.1%}"]
    row = ["anchors", "none", "3", f"{first.average_iou:.3f}", *recalls, *on_grid, f"{first.ratio_recall:.1%}"]
    assert row in page.rows
    assert len({*row}) > 8  # the numbers differ: columns that changed places would be seen
    assert any(cells[0] == "square" and cells[2] == "1" for cells in page.rows if cells)
    assert "ratio test (YOLOv5), not IoU" in page.text


def test_counts_are_those_of_the_dataset(page: ParsedPage) -> None:
    shown = " ".join(page.text)
    for count in ("2 images", "61 instances", "2 categories", "0 crowd regions", "1 invalid", "1 suspicious"):
        assert count in shown, count


def test_title_and_rule_are_shown(page: ParsedPage) -> None:
    assert {"Anchors", "none", "(in memory)"} <= set(page.text)


def test_instances_with_the_lowest_iou_come_first_with_their_file(
    page: ParsedPage, scores: list[AnchorMetrics]
) -> None:
    at = next(n for n, row in enumerate(page.rows) if row[:2] == ["annotation", "file"])
    row = int(scores[0].worst(1)[0])
    width, height = scores[0].instances.shapes[row]
    annotation = scores[0].instances.dataset.instances.ids[row]
    assert page.rows[at + 1] == [
        f"{annotation}",
        "ab"[annotation % 2] + ".jpg",
        ["cell", "nucleus"][annotation % 2],
        f"{width:.1f} x {height:.1f}",
        f"{scores[0].best_iou[row]:.3f}",
        f"{scores[0].grid_best_iou[row]:.3f}",
    ]
    assert len(page.rows[at + 1 : at + 1 + MAX_WORST]) == MAX_WORST
    assert len(page.rows[at + MAX_WORST]) == 6


def test_anchors_stand_by_level(page: ParsedPage) -> None:
    assert ["anchors", "P3", "8", "2", "20 x 2030 x 60"] in page.rows
    assert ["", "P4", "16", "1", "120 x 90"] in page.rows


def test_findings_are_counted_by_kind_and_listed(page: ParsedPage) -> None:
    assert ["1", "width … is not positive"] in page.rows
    assert ["(in memory)", "160", "0", "width 0 is not positive"] in page.rows


def named_page(names: list[str]) -> ParsedPage:
    some = boxes_in_files(GROWING_BOXES, names=names, files=names)
    sets = [anchor_metrics(some, replace(TWO_LEVELS, name=name)) for name in names]
    page = anchor_page(sets, None, title=names[0])
    page.encode("utf-8")  # no stray surrogate is left
    return parse_page(page)


def test_hostile_names_are_text_and_nothing_else() -> None:
    hostile, calm = named_page(HOSTILE), named_page(list("abcdef"))
    assert len(hostile.scripts) == 3
    assert "<" not in hostile.scripts[0]  # the figures' data cannot close their element
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in calm.tags]
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    for name in HOSTILE[:-1]:
        assert name in hostile.text  # shown as it is spelled


def test_hostile_names_are_escaped_for_plotly_too() -> None:
    figures = named_page(HOSTILE).figures
    markup = re.compile(r"<(?!/?b>|br>|/?extra>)")  # ours
    for text in strings(figures):
        assert not markup.search(text), text
    assert any("&lt;b&gt;R&amp;D&lt;/b&gt;" in text for text in strings(figures["by-category"]))


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in strings(item)]


def test_missing_file_name_is_the_id_of_the_image() -> None:
    score = anchor_metrics(boxes_in_files(GROWING_BOXES, files=[""]), TWO_LEVELS)
    parsed = parse_page(anchor_page([score], None, title="a"))
    assert any(row[1:2] == ["image 0"] for row in parsed.rows)


@pytest.mark.parametrize("boxes", [[], [[1.0, 1.0, 20.0, 20.0]]])
def test_none_or_one_box_makes_a_page(boxes: list[list[float]]) -> None:
    one = AnchorSet.of([[(20, 20)]], strides=[8])
    parsed = parse_page(anchor_page([anchor_metrics(boxes_in_files(boxes), one)], KCurve({1: 1.0}, 1), title="a"))
    assert "NaN" not in parsed.scripts[0]
    assert any(row[2:4] == ["1", "1.000" if boxes else "-"] for row in parsed.rows)


def test_large_data_make_a_page_of_bounded_size() -> None:
    score = anchor_metrics(many_boxes(100_000, num_categories=600, num_images=9000), TWO_LEVELS)
    text = anchor_page([score], None, title="a")
    assert len(text) < 6e6
    figures = parse_page(text).figures
    assert len(figures["by-category"]["layout"]["xaxis"]["ticktext"]) == MAX_CATEGORIES
    assert "k-curve" not in figures


def test_no_scores_raise_an_error() -> None:
    with pytest.raises(ValueError, match="at least one anchor set"):
        anchor_page([], None, title="a")


def score_of(box: list[float], rule: str = "none") -> AnchorMetrics:
    """One box in an image of 100 x 80; one anchor of 32 x 32 on stride 16."""
    content = coco_content([box], image_wh=(100, 80))
    content["images"][0]["file_name"] = "a.png"
    return anchor_metrics(ResizedInstances.of(read_coco(content), rule), AnchorSet.of([[(32, 32)]], strides=[16]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image that is black, but white in (10, 20) to (40, 30)."""
    image = Image.new("L", (100, 80))
    image.paste(255, (10, 20, 40, 30))
    image.save(tmp_path / "a.png")
    return tmp_path


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))


def test_box_and_anchor_lie_in_the_images_own_pixels(folder: Path) -> None:
    # letterbox:200 doubles the image and puts it 20 px down: the box (10, 20, 40, 30) lies at (20, 60, 80, 80), its centre
    # (50, 70) is nearest to the cell at (56, 72), whose anchor (40, 56, 72, 88) is (20, 18, 36, 34) of the image
    (picture,) = worst_pictures(score_of([10, 20, 30, 10], "letterbox:200"), folder).drawn
    assert_allclose(picture.box, [10, 20, 40, 30])
    assert_allclose(picture.anchor, [20, 18, 36, 34])
    # 2.5 * 30 is 75, around (25, 25), but moved to begin RIM_PX before the image
    assert picture.window == (-RIM_PX, -RIM_PX, 75 - RIM_PX, 75 - RIM_PX)
    assert picture.part == (0, 0, 73, 73)
    rows, columns = np.nonzero(decoded(picture.jpeg) > 128)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 20, 39, 29)


def test_markup_draws_both_over_the_part_of_the_image(folder: Path) -> None:
    block = worst_block(score_of([10, 20, 30, 10]), folder)
    assert 'viewBox="-2 -2 75 75"' in block
    assert '<image x="0" y="0" width="73" height="73"' in block
    # without a rule the box's centre (25, 25) is nearest to the cell at (24, 24): the anchor (8, 8, 40, 40)
    places = re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', block)
    assert [tuple(map(float, place)) for place in places] == [(10, 20, 30, 10)] * 2 + [(8, 8, 32, 32)] * 2
    assert [("stroke-dasharray" in rect) for rect in re.findall(r"<rect[^>]*>", block)] == [False, False, True, True]
    # 300 / (1024 + 300 - 300): inside the anchor
    assert f"<b>IoU {300 / 1024:.3f}</b>, on the grid {300 / 1024:.3f}" in block
    assert "annotation 1" in block


def test_tiles_are_not_drawn_and_the_page_says_so(folder: Path) -> None:
    assert "Not drawn" in worst_block(score_of([10, 20, 30, 10], "tiles:50:10"), folder)


def test_the_page_holds_its_pictures_and_equal_input_gives_equal_text(folder: Path) -> None:
    score = score_of([10, 20, 30, 10])
    text = anchor_page([score], None, title="a", images=folder)
    assert text == anchor_page([score], None, title="a", images=folder)
    content = re.search(r"data:image/jpeg;base64,([^\"]+)", text)
    assert content
    assert decoded(base64.b64decode(content[1])).shape == (73, 73)
    assert '<div class="pictures">' not in anchor_page([score], None, title="a")
