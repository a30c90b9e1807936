"""Tables of the pages: findings by kind, bounds in words, escaped cells."""

from __future__ import annotations

import html
import math

from pages import boxes_in_files, parse_page, table_rows

from detect.anchors.anchor_set import AnchorSet, Proof
from detect.anchors.metrics import AnchorMetrics, anchor_metrics
from detect.data import Finding
from detect.fitting.objective import Objective
from detect.report.anchor_page import anchor_page
from detect.report.tables import (
    MAX_FINDINGS,
    Html,
    bounds_in_words,
    decimal,
    escape,
    findings,
    kind_of,
    percent,
    prose,
    table,
)


def test_first_findings_only_are_listed() -> None:
    found = [Finding("a.json", n, None, f"width -{n}.5 is not positive") for n in range(MAX_FINDINGS + 50)]
    rows = parse_page(findings("invalid", "caption", found)).rows
    assert rows[1] == ["150", "width … is not positive"]
    assert len(rows) == 2 + 1 + MAX_FINDINGS
    assert rows[-1] == ["a.json", "99", "-", "width -99.5 is not positive"]


def test_kinds_leave_out_numbers_boxes_and_quoted_words() -> None:
    assert kind_of("no category has the id 17") == kind_of("no category has the id -2e9")
    assert kind_of("bbox [1, 2.5, nan, 4] is not finite") == "bbox … is not finite"
    assert kind_of("the same box as annotation 3: kept") != kind_of("its id stands 3 times: kept")


def with_scores(stored: dict[str, float], version: str = "", **bounds: float) -> AnchorMetrics:
    """One box of 20 x 20, its cell in its middle, under an anchor of 40 x 20: the average IoU is 1 / 2."""
    proofs = {name: Proof(stored[name], bound) for name, bound in bounds.items()}
    anchors = AnchorSet.of([[(40, 20)]], strides=[8], scores=stored, proofs=proofs, version=version)
    return anchor_metrics(boxes_in_files([[50, 50, 20, 20]]), anchors)


def test_a_bound_is_given_in_words() -> None:
    assert bounds_in_words(with_scores({"average_iou": 0.5}, average_iou=0.505)) == [
        "average IoU 0.500; at most 0.505 is possible with 1 shape: within 1.0% of the optimum"
    ]
    page = anchor_page([with_scores({"average_iou": 0.5}, average_iou=0.505)], None, title="a")
    assert "within 1.0% of the optimum" in page


def test_the_gap_is_rounded_up_and_never_negative() -> None:
    lines = [bounds_in_words(with_scores({"average_iou": 0.5}, average_iou=b)) for b in (0.50026, 0.4999999)]
    assert [line.rpartition("within ")[2] for (line,) in lines] == ["0.1% of the optimum", "0.0% of the optimum"]


def test_a_bound_on_a_grid_score_holds_for_as_many_shapes_on_each_level() -> None:
    name = Objective.parse("recall@0.5", on_grid=True).score_name(priced=True)
    bound = "at most 0.900 is possible with as many shapes on each level: within 12.5% of the optimum"
    assert bounds_in_words(with_scores({name: 0.8}, **{name: 0.9})) == [
        f"recall at 0.5 less cost on the grid 0.800; {bound}"
    ]


def test_a_bound_from_a_file_holds_for_the_boxes_of_that_file_only() -> None:
    on_grid = with_scores({}).grid_average_iou
    stored = {"average_iou": 0.5, "grid_average_iou": round(on_grid, 6)}
    assert len(bounds_in_words(with_scores(stored, version="1", average_iou=0.505))) == 1
    assert bounds_in_words(with_scores(stored | {"average_iou": 0.6}, version="1", average_iou=0.505)) == []


def test_cells_are_escaped_unless_they_are_markup() -> None:
    markup = table(["<i>", "count"], [["<b>", Html("<b>2</b>")], ["", "3"]])
    assert "&lt;i&gt;" in markup
    assert "<bdi>&lt;b&gt;</bdi>" in markup
    assert '<td class="number"><b>2</b></td>' in markup
    assert table_rows(markup) == [["&lt;i&gt;", "count"], ["&lt;b&gt;", "2"], ["", "3"]]


def test_numbers_that_do_not_exist_are_dashes_and_zero_has_no_sign() -> None:
    assert [decimal(value) for value in (0.12345, -0.0001, math.nan)] == ["0.123", "0.000", "-"]
    assert [percent(value) for value in (0.12345, math.nan)] == ["12.3%", "-"]


def test_sentences_are_shown_whole_and_text_of_files_with_its_middle_cut_out():
    sentence = "Low is better & so on. " * 30
    assert prose(sentence) == f"<bdi>{html.escape(sentence)}</bdi>"
    assert "…" in escape(sentence)
    assert len(prose("x" * 10**5)) < 4000
