from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from detect.anchors.anchor_set import AnchorSet, Proof
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import THRESHOLDS, AnchorMetrics, anchor_metrics
from detect.data import Annotations, CocoDataset, Finding, Images, read_coco
from detect.data.resize import parse_resize
from detect.fitting.fit import KCurve
from detect.report.anchor_figures import MAX_POINTS, boxes_and_shapes, k_curve_panel, shapes_to_scale
from detect.report.anchor_page import anchor_page
from detect.report.dataset_figures import (
    MAX_BARS,
    MAX_SIZES,
    average_iou_panels,
    box_centers,
    boxes_per_image,
    image_sizes,
    object_sizes,
)
from detect.report.plots import MAX_CATEGORIES, label, level_colors, visible
from detect.report.tables import MAX_FINDINGS, MAX_WORST, bounds_in_words, findings, kind_of

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '"><svg/onload=document.title=1>',
    "<b>R&D</b>",
    "</title></style><!--",
    "lone \ud800 surrogate",
]
ANCHORS = AnchorSet.of([[(20, 20), (30, 60)], [(120, 90)]], strides=(8, 16))
CURVE = KCurve({1: 0.4, 2: 0.6, 3: 0.65}, 2)


@dataclass
class Parsed(HTMLParser):
    """Tags, scripts and table cells of a page, by Python's own parser."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    in_cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts.append(data)
        else:
            self.text.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def parse(page: str) -> Parsed:
    parsed = Parsed()
    parsed.feed(page)
    parsed.scripts = [script for script in parsed.scripts if script.strip()]
    return parsed


def instances(boxes: list[list[float]], *, names: list[str] | None = None, files: list[str] | None = None) -> Any:
    names, files = names or ["cell"], files or ["a.jpg"]
    images = [{"id": n, "width": 640, "height": 480, "file_name": name} for n, name in enumerate(files)]
    annotations = [
        {"id": 100 + n, "image_id": n % len(files), "category_id": n % len(names), "bbox": box}
        for n, box in enumerate(boxes)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    dataset = read_coco({"images": images, "categories": categories, "annotations": annotations})
    return ResizedInstances.of(dataset, parse_resize("none"))


def many(count: int, num_categories: int = 3, num_images: int = 50) -> ResizedInstances:
    """A large dataset, made as columns."""
    rng = np.random.default_rng(0)
    wh = rng.integers(300, 640, (num_images, 2))
    rows = np.sort(rng.integers(0, num_images, count))
    size = np.minimum(np.exp(rng.normal(3.5, 1, (count, 2))), wh[rows])
    boxes = np.concatenate([rng.random((count, 2)) * (wh[rows] - size), size], axis=1)
    ids, crowd = np.arange(count), np.zeros(count, bool)
    annotations = Annotations(ids, rows, rng.integers(0, num_categories, count), boxes, crowd, size.prod(axis=1))
    images = Images(np.arange(num_images), wh, ("",) * num_images)
    names = {n: f"category {n}" for n in range(num_categories)}
    dataset = CocoDataset(images, annotations, names, (), (), ("a.json",))
    return ResizedInstances.of(dataset, parse_resize("letterbox:640"))


BOXES = [[10.0 + n, 20.0, 8.0 + 3 * n, 5.0 + 2 * n] for n in range(60)]


@pytest.fixture(scope="module")
def scores() -> list[AnchorMetrics]:
    some = instances([*BOXES, [5, 5, 0, 10], [600, 400, 90, 20]], names=["cell", "nucleus"], files=["a.jpg", "b.jpg"])
    return [
        anchor_metrics(some, ANCHORS),
        anchor_metrics(some, AnchorSet.of([[(64, 64)]], strides=[32], name="square")),
    ]


@pytest.fixture(scope="module")
def page(scores: list[AnchorMetrics]) -> Parsed:
    return parse(anchor_page(scores, CURVE, title="Anchors", notes=["k = 3", "a < b"]))


def test_every_section_and_figure_is_there(page: Parsed) -> None:
    sections = {"summary", "shapes", "coverage", "levels", "worst", "dataset", "findings", "refused", "odd", "figures"}
    of_anchors = {"boxes", "scale", "recall", "k-curve", "by-size", "by-ratio", "by-category"}
    of_anchors |= {"iou-map", "recall-by-size", "iou-by-level"}
    of_dataset = {"image-sizes", "boxes-per-image", "object-sizes", "centers", "classes"}
    assert page.ids() == sections | of_anchors | of_dataset
    assert set(page.figures) == of_anchors | of_dataset


def test_headline_shows_the_numbers_of_the_coverage(page: Parsed, scores: list[AnchorMetrics]) -> None:
    first = scores[0]
    recalls = [f"{first.recall(threshold):.1%}" for threshold in THRESHOLDS]
    placed = [f"{first.grid_average_iou:.3f}", f"{first.grid_recall(0.5):.1%}"]
    row = ["anchors", "none", "3", f"{first.average_iou:.3f}", *recalls, *placed, f"{first.ratio_recall:.1%}"]
    assert row in page.rows
    assert len({*row}) > 8  # the numbers differ: columns that changed places would be seen
    assert any(cells[0] == "square" and cells[2] == "1" for cells in page.rows if cells)


def test_ratio_recall_is_named_as_a_ratio_test(page: Parsed) -> None:
    assert "ratio test (YOLOv5), not IoU" in page.text


def test_counts_are_those_of_the_dataset(page: Parsed) -> None:
    shown = " ".join(page.text)
    for count in ("2 images", "61 instances", "2 categories", "0 crowd regions", "1 refused", "1 odd"):
        assert count in shown, count


def test_notes_title_and_rule_are_shown(page: Parsed) -> None:
    assert {"k = 3", "a < b", "Anchors", "none", "(in memory)"} <= set(page.text)


def test_worst_covered_come_first_and_say_where_they_are(page: Parsed, scores: list[AnchorMetrics]) -> None:
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


def test_anchors_stand_by_level(page: Parsed) -> None:
    assert ["anchors", "P3", "8", "2", "20 x 2030 x 60"] in page.rows
    assert ["", "P4", "16", "1", "120 x 90"] in page.rows


def test_findings_are_counted_by_kind_and_listed(page: Parsed) -> None:
    assert ["1", "width … is not positive"] in page.rows
    assert ["(in memory)", "160", "0", "width 0 is not positive"] in page.rows


def test_first_findings_only_are_listed() -> None:
    found = [Finding("a.json", n, None, f"width -{n}.5 is not positive") for n in range(MAX_FINDINGS + 50)]
    rows = parse(findings("refused", "what", found)).rows
    assert rows[1] == ["150", "width … is not positive"]
    assert len(rows) == 2 + 1 + MAX_FINDINGS
    assert rows[-1] == ["a.json", "99", "-", "width -99.5 is not positive"]


def test_kinds_leave_out_numbers_boxes_and_quoted_words() -> None:
    assert kind_of("no category has the id 17") == kind_of("no category has the id -2e9")
    assert kind_of("bbox [1, 2.5, nan, 4] is not finite") == "bbox … is not finite"
    assert kind_of("the same box as annotation 3: kept") != kind_of("its id stands 3 times: kept")


def test_same_input_gives_the_same_page(scores: list[AnchorMetrics]) -> None:
    assert anchor_page(scores, CURVE, title="Anchors") == anchor_page(scores, CURVE, title="Anchors")


def test_page_needs_nothing_from_outside(page: Parsed) -> None:
    sources = [attributes.get(name) for _, attributes in page.tags for name in ("src", "href", "data", "action")]
    assert all(source.startswith("#") for source in sources if source)
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags}


def test_policy_allows_the_scripts_of_the_page_and_no_other(page: Parsed) -> None:
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    allowed = re.findall(r"'sha256-([^']+)'", policy or "")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]]
    assert hashes == allowed
    sources = " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert (policy or "").startswith(f"default-src 'none'; script-src {sources}; style-src")


def named_page(names: list[str]) -> Parsed:
    some = instances(BOXES, names=names, files=names)
    sets = [anchor_metrics(some, replace(ANCHORS, name=name)) for name in names]
    page = anchor_page(sets, None, title=names[0], notes=names)
    page.encode("utf-8")  # no stray surrogate is left
    return parse(page)


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


def test_labels_are_short_and_literal() -> None:
    assert label("<i>") == "&lt;i&gt;"
    assert "$" not in label("$x$")  # plotly would ask for MathJax
    assert visible("a" * 50 + "b" * 50, 11) == "aaaaa…bbbbb"
    assert visible("\x00\u202e\n") == "\ufffd" * 3


def test_missing_file_name_is_the_id_of_the_image() -> None:
    parsed = parse(anchor_page([anchor_metrics(instances(BOXES, files=[""]), ANCHORS)], None, title="a"))
    assert any(row[1:2] == ["image 0"] for row in parsed.rows)


def test_few_boxes_are_points_and_each_is_drawn() -> None:
    score = anchor_metrics(many(MAX_POINTS), ANCHORS)
    chart = boxes_and_shapes(score, level_colors([score])).figure
    well, missed = chart.data[1:3]
    assert len(well.x) + len(missed.x) == MAX_POINTS
    assert len(missed.x) == (score.best_iou < 0.5).sum() > 0


def test_many_boxes_are_counted_in_cells_and_none_is_lost() -> None:
    score = anchor_metrics(many(MAX_POINTS + 1), ANCHORS)
    panel = boxes_and_shapes(score, level_colors([score]))
    density = panel.figure.data[1]
    assert np.nansum(density.customdata) == MAX_POINTS + 1
    assert f"{MAX_POINTS + 1:,} boxes" in panel.caption
    row, column = np.unravel_index(np.nanargmax(density.customdata), density.customdata.shape)
    (x0, x1), (y0, y1) = density.x[column : column + 2], density.y[row : row + 2]
    width, height = score.instances.shapes.T
    inside = (x0 <= width) & (width < x1) & (y0 <= height) & (height < y1)
    assert inside.sum() == np.nanmax(density.customdata)


def test_shapes_stand_at_their_size_in_the_colour_of_their_level() -> None:
    score = anchor_metrics(instances(BOXES), ANCHORS)
    colors = level_colors([score])
    markers = boxes_and_shapes(score, colors).figure.data[-2:]
    assert [list(trace.x) for trace in markers] == [[20, 30], [120]]
    assert [list(trace.y) for trace in markers] == [[20, 60], [90]]
    outlines = shapes_to_scale(score, colors).figure.data
    assert max(x for x in outlines[1].x if x is not None) == 60  # half of 120
    assert [trace.marker.color for trace in markers] == [trace.line.color for trace in outlines]
    assert len({trace.marker.color for trace in markers}) == 2


def test_a_level_keeps_its_colour_when_another_set_has_more() -> None:
    some = instances(BOXES)
    both = [anchor_metrics(some, ANCHORS), anchor_metrics(some, AnchorSet.of([[(9, 9)], [(60, 60)]], strides=(4, 16)))]
    assert list(level_colors(both)) == [4, 8, 16]


def test_at_most_forty_categories_the_largest_first() -> None:
    score = anchor_metrics(many(3000, num_categories=90), ANCHORS)
    panel = average_iou_panels([score])[2]
    shown = panel.figure.data[0].y
    counts = sorted((group.count for group in score.by_category), reverse=True)
    largest = max(score.by_category, key=lambda group: group.count)
    assert len(shown) == MAX_CATEGORIES == 40
    assert shown[0] == largest.grid_average_iou
    assert panel.figure.layout.xaxis.ticktext[0].endswith(f"  {counts[0]}")
    assert "the 40 of 90 categories with the most boxes" in panel.caption


def test_categories_of_one_name_stay_apart() -> None:
    panel = average_iou_panels([anchor_metrics(instances(BOXES, names=["7", "7", "2020-01-01"]), ANCHORS)])[2]
    assert list(panel.figure.data[0].x) == [0, 1, 2]
    assert len(panel.figure.layout.xaxis.ticktext) == 3


def test_knee_is_marked_at_its_height() -> None:
    chart = k_curve_panel(CURVE).figure
    assert (*chart.data[1].x, *chart.data[1].y) == (2, 0.6)
    assert "k = 2" in chart.layout.annotations[0].text


def test_image_sizes_are_thinned_to_the_most_common() -> None:
    sizes = np.stack([np.arange(2500) + 100, np.full(2500, 80)], axis=1)
    wh = np.concatenate([sizes, sizes[-1:]])  # the last size twice
    images = Images(np.arange(len(wh)), wh, ("",) * len(wh))
    none = Annotations(*[np.zeros(0, np.int64)] * 3, np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0))
    panel = image_sizes(CocoDataset(images, none, {}, (), (), ()))
    assert len(panel.figure.data[0].x) == MAX_SIZES
    assert panel.figure.data[0].x[0] == 2599
    assert "2,000 most common" in panel.caption


def test_histograms_count_every_box_and_image() -> None:
    some = many(9000, num_images=70)
    per_image = boxes_per_image(some.dataset).figure.data[0]
    assert sum(per_image.y) == 70
    assert len(per_image.x) <= MAX_BARS
    assert sum(object_sizes(some).figure.data[0].y) == 9000
    assert np.sum(box_centers(some.dataset).figure.data[0].z) == 9000


def test_boxes_per_image_by_hand() -> None:
    """Three boxes in the first image, two in the second, none in a third that is only listed."""
    some = instances(BOXES[:5], files=["a", "b"])
    lonely = replace(some.dataset, images=Images(np.arange(3), np.full((3, 2), 640), ("a", "b", "c")))
    bars = boxes_per_image(lonely).figure.data[0]
    assert dict(zip(bars.x.tolist(), bars.y.tolist(), strict=True)) == {0: 1, 1: 0, 2: 1, 3: 1}


def test_a_box_in_the_upper_right_lies_there() -> None:
    cloud = box_centers(instances([[600, 10, 20, 20]]).dataset).figure
    row, column = np.argwhere(cloud.data[0].z)[0]
    assert (cloud.data[0].x[column], cloud.data[0].y[row]) == (0.9375, 0)  # 610 / 640 is .953, 20 / 480 is .042
    assert tuple(cloud.layout.yaxis.range) == (1, 0)  # down the page as down the image


@pytest.mark.parametrize("boxes", [[], [[1.0, 1.0, 20.0, 20.0]]])
def test_none_or_one_box_makes_a_page(boxes: list[list[float]]) -> None:
    one = AnchorSet.of([[(20, 20)]], strides=[8])
    parsed = parse(anchor_page([anchor_metrics(instances(boxes), one)], KCurve({1: 1.0}, 1), title="a"))
    assert "NaN" not in parsed.scripts[0]
    assert any(row[2:4] == ["1", "1.000" if boxes else "-"] for row in parsed.rows)


def test_without_a_curve_there_is_no_such_figure(scores: list[AnchorMetrics]) -> None:
    assert "k-curve" not in parse(anchor_page(scores, None, title="a")).ids()


def test_large_data_make_a_page_of_bounded_size() -> None:
    text = anchor_page([anchor_metrics(many(100_000, num_categories=90, num_images=9000), ANCHORS)], None, title="a")
    assert len(text) < 6e6


def test_no_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one Coverage"):
        anchor_page([], None, title="a")


def with_scores(told: dict[str, float], version: str = "", **bounds: float) -> AnchorMetrics:
    """One box of 20 x 20, its cell in its middle, under an anchor of 40 x 20: the average IoU is 1 / 2."""
    proofs = {name: Proof(told[name], bound) for name, bound in bounds.items()}
    anchors = AnchorSet.of([[(40, 20)]], strides=[8], scores=told, proofs=proofs, version=version)
    return anchor_metrics(instances([[50, 50, 20, 20]]), anchors)


def test_the_bound_is_told_in_words() -> None:
    assert bounds_in_words(with_scores({"average_iou": 0.5}, average_iou=0.505)) == [
        "average IoU 0.500, at most 0.505 possible for 1 shape: within 1.0% of the best"
    ]
    page = anchor_page([with_scores({"average_iou": 0.5}, average_iou=0.505)], None, title="a")
    assert "within 1.0% of the best" in page


def test_the_gap_is_rounded_up_and_never_negative() -> None:
    lines = [bounds_in_words(with_scores({"average_iou": 0.5}, average_iou=b)) for b in (0.50026, 0.4999999)]
    assert [line.rpartition("within ")[2] for (line,) in lines] == ["0.1% of the best", "0.0% of the best"]


def test_bounds_of_placed_scores_are_told_beside_what_was_reached() -> None:
    name = "grid_recall_at_0.5_less_cost"
    bound = "at most 0.900 possible with as many shapes on each level: within 12.5% of the best"
    assert bounds_in_words(with_scores({name: 0.8}, **{name: 0.9})) == [
        f"placed recall at 0.5 less cost 0.800, {bound}"
    ]


def test_a_bound_from_a_file_holds_for_the_boxes_of_that_file_only() -> None:
    placed = with_scores({}).grid_average_iou
    told = {"average_iou": 0.5, "grid_average_iou": round(placed, 6)}
    assert len(bounds_in_words(with_scores(told, version="1", average_iou=0.505))) == 1
    assert bounds_in_words(with_scores(told | {"average_iou": 0.6}, version="1", average_iou=0.505)) == []


def test_hundreds_of_categories_make_a_page() -> None:
    parsed = parse(anchor_page([anchor_metrics(many(2000, num_categories=600), ANCHORS)], None, title="a"))
    assert len(parsed.figures["by-category"]["layout"]["xaxis"]["ticktext"]) == MAX_CATEGORIES
