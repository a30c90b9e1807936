from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from builders import GROWING_BOXES, TWO_LEVELS, ParsedPage, boxes_in_files, many_boxes, parse_page

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.metrics import THRESHOLDS, AnchorMetrics, anchor_metrics
from detect.fitting.fit import KCurve
from detect.report.anchor_page import anchor_page
from detect.report.dataset_figures import MAX_CATEGORIES
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
    return parse_page(anchor_page(scores, CURVE, title="Anchors", notes=["k = 3", "a < b"]))


def test_every_section_and_figure_is_there(page: ParsedPage) -> None:
    sections = {
        "summary",
        "shapes",
        "metrics",
        "levels",
        "worst",
        "dataset",
        "findings",
        "invalid",
        "suspicious",
        "figures",
    }
    of_anchors = {"boxes", "scale", "recall", "k-curve", "by-size", "by-ratio", "by-category"}
    of_anchors |= {"iou-map", "recall-by-size", "iou-by-level"}
    of_dataset = {"image-sizes", "boxes-per-image", "object-sizes", "centers", "classes"}
    assert page.ids() == sections | of_anchors | of_dataset
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


def test_ratio_recall_is_named_as_a_ratio_test(page: ParsedPage) -> None:
    assert "ratio test (YOLOv5), not IoU" in page.text


def test_counts_are_those_of_the_dataset(page: ParsedPage) -> None:
    shown = " ".join(page.text)
    for count in ("2 images", "61 instances", "2 categories", "0 crowd regions", "1 invalid", "1 suspicious"):
        assert count in shown, count


def test_notes_title_and_rule_are_shown(page: ParsedPage) -> None:
    assert {"k = 3", "a < b", "Anchors", "none", "(in memory)"} <= set(page.text)


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


def test_same_input_gives_the_same_page(scores: list[AnchorMetrics]) -> None:
    assert anchor_page(scores, CURVE, title="Anchors") == anchor_page(scores, CURVE, title="Anchors")


def named_page(names: list[str]) -> ParsedPage:
    some = boxes_in_files(GROWING_BOXES, names=names, files=names)
    sets = [anchor_metrics(some, replace(TWO_LEVELS, name=name)) for name in names]
    page = anchor_page(sets, None, title=names[0], notes=names)
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
    parsed = parse_page(
        anchor_page([anchor_metrics(boxes_in_files(GROWING_BOXES, files=[""]), TWO_LEVELS)], None, title="a")
    )
    assert any(row[1:2] == ["image 0"] for row in parsed.rows)


@pytest.mark.parametrize("boxes", [[], [[1.0, 1.0, 20.0, 20.0]]])
def test_none_or_one_box_makes_a_page(boxes: list[list[float]]) -> None:
    one = AnchorSet.of([[(20, 20)]], strides=[8])
    parsed = parse_page(anchor_page([anchor_metrics(boxes_in_files(boxes), one)], KCurve({1: 1.0}, 1), title="a"))
    assert "NaN" not in parsed.scripts[0]
    assert any(row[2:4] == ["1", "1.000" if boxes else "-"] for row in parsed.rows)


def test_without_a_curve_there_is_no_such_figure(scores: list[AnchorMetrics]) -> None:
    assert "k-curve" not in parse_page(anchor_page(scores, None, title="a")).ids()


def test_large_data_make_a_page_of_bounded_size() -> None:
    text = anchor_page(
        [anchor_metrics(many_boxes(100_000, num_categories=90, num_images=9000), TWO_LEVELS)], None, title="a"
    )
    assert len(text) < 6e6


def test_no_scores_raise_an_error() -> None:
    with pytest.raises(ValueError, match="at least one anchor set"):
        anchor_page([], None, title="a")


def test_hundreds_of_categories_make_a_page() -> None:
    parsed = parse_page(
        anchor_page([anchor_metrics(many_boxes(2000, num_categories=600), TWO_LEVELS)], None, title="a")
    )
    assert len(parsed.figures["by-category"]["layout"]["xaxis"]["ticktext"]) == MAX_CATEGORIES
