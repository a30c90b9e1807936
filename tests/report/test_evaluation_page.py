"""The page of an evaluation: it shows the numbers it is given, escaped, and computes none."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np
from pages import packed_numbers, page_figures

from detect.evaluation.confusion import ConfusionMatrix
from detect.evaluation.precision_recall import PrecisionRecall
from detect.report.evaluation_page import MAX_LINES, MAX_POINTS, ScoreTable, evaluation_page

NAN = float("nan")
TABLE = ScoreTable("Boxes", "What is what.", ("", "AP", "found"), (("all", 0.51239, 1200), ("<b>", None, 3)))


TABLE_OF_SCORES = [np.array(column) for column in ([0.5, 1.0, 1.0], [1.0, 2 / 3, 0.6], [0.9, 0.6, 0.4])]


def curve(category: str = "", at: str = "IoU .50") -> PrecisionRecall:
    numbers = ([0.0, 0.5, 1.0], [1.0, 0.8, 0.0], [0.9, 0.4, NAN])
    return PrecisionRecall(category, at, *map(np.array, numbers))


def page_of(**changes: Any) -> str:
    options: dict[str, Any] = {
        "read_from": ["val.json"],
        "counts": {"images": 1234, "results": 5},
        "tables": [TABLE],
        "curves": [curve()],
        **changes,
    }
    return evaluation_page("Evaluation", "Of best.pt", **options)


def test_the_numbers_stand_as_they_were_given():
    page = page_of()
    rows = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert [re.sub(r"</?bdi>", "", cell) for cell in rows] == ["all", "0.512", "1,200", "&lt;b&gt;", "-", "3"]
    assert "<b>1,234</b><span>images</span>" in page
    assert "val.json" in page


def test_a_curve_is_drawn_as_it_is_with_scores_where_they_are_known():
    (line,) = page_figures(page_of())["curves-0"]["data"]
    assert line["customdata"] == ["<br>score at least 0.900", "<br>score at least 0.400", ""]
    assert packed_numbers(line["y"]).tolist() == [1.0, 0.8, 0.0]


def test_curves_beyond_the_first_twelve_are_counted():
    page = page_of(curves=[curve(), *(curve(f"kind {number}") for number in range(20))])
    lines = page_figures(page)["curves-1"]["data"]
    assert len(lines) == MAX_LINES
    assert len({(line["line"]["color"], line["line"]["dash"]) for line in lines}) == MAX_LINES
    assert f"The first {MAX_LINES} of 20 curves are drawn." in page


def test_f1_stands_beside_the_scores_and_the_best_one_is_named():
    overall, one, other = (PrecisionRecall(name, "IoU .50", *TABLE_OF_SCORES) for name in ("", "cell", "speck"))
    page = page_of(by_score=[overall, one, other])
    figures = page_figures(page)
    assert [len(figures[f"scores-{number}"]["data"]) for number in range(2)] == [3, 2]
    assert packed_numbers(figures["scores-0"]["data"][0]["y"]).round(3).tolist() == [0.667, 0.8, 0.75]
    assert figures["scores-0"]["layout"]["shapes"][0]["x0"] == 0.5  # midway between .6, which is kept, and .4
    assert "F1 is highest, 0.800, from a score of 0.5 on." in page
    assert "Score thresholds" not in page_of()


def test_long_curves_are_thinned_and_keep_their_ends():
    recall = np.linspace(0, 1, 5000)
    page = page_of(curves=[PrecisionRecall("", "IoU .50", recall, 1 - recall, 1 - recall)])
    drawn = packed_numbers(page_figures(page)["curves-0"]["data"][0]["x"])
    assert (len(drawn), drawn[0], drawn[-1]) == (MAX_POINTS, 0, 1)


def test_confusions_are_counted_and_shaded():
    matrix = ConfusionMatrix(("<i>", "background"), np.array([[3, 1], [2000, 0]]), 0.4, "IoU .50", 5)
    page = page_of(tables=[], confusion=matrix)
    cells = [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    assert cells == ["&lt;i&gt;", "3", "1", "background", "2,000", ""]
    assert re.findall(r"190/(\d+%)", page) == ["75%", "25%", "100%", "0%"]
    assert "a score of at least 0.4" in page


def test_pictures_are_inside_the_page():
    page = page_of(pictures=("Look.", b"not really a picture"))
    source = re.search(r'src="data:image/png;base64,([^"]*)"', page)
    assert source is not None
    assert base64.b64decode(source[1]) == b"not really a picture"
    assert 'id="pictures"' not in page_of()


def test_equal_input_gives_equal_text_and_no_curves_a_page():
    assert page_of() == page_of()
    assert "Precision-recall curves" in page_of(curves=[], tables=[], counts={})


def test_names_from_files_are_text_and_no_markup():
    hostile = "<img src=x onerror=alert(1)>"
    page = page_of(
        read_from=[hostile],
        tables=[ScoreTable(hostile, hostile, (hostile,), ((hostile,),))],
        curves=[curve(hostile, hostile), curve(at=hostile)],
        by_score=[curve(at=hostile), curve(hostile, hostile)],
        confusion=ConfusionMatrix((hostile, "background"), np.ones((2, 2), int), 0.5, hostile, 0),
        pictures=(hostile, b""),
        notes=[hostile],
    )
    assert hostile not in page
