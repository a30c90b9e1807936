"""The self-contained page: nothing from outside, no script but its own, escaped names."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from pages import GROWING_BOXES, TWO_LEVELS, ParsedPage, boxes_in_files, page_figures, parse_page

from detect.anchors.metrics import anchor_metrics
from detect.report import plots
from detect.report.anchor_page import anchor_page
from detect.report.page import MAX_FILES, page
from detect.report.plots import Key, Panel

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def parsed() -> ParsedPage:
    return parse_page(anchor_page([anchor_metrics(boxes_in_files(GROWING_BOXES), TWO_LEVELS)], None, title="a"))


def panel(name: str, title: str = "a") -> Panel:
    line = {"type": "scatter", "x": [1, 2], "y": [3, 4]}
    return plots.panel(name, title, title, [line], columns=4, keys=[Key(title, "red")], height=200)


def test_page_needs_nothing_from_outside(parsed: ParsedPage) -> None:
    sources = [attributes.get(name) for _, attributes in parsed.tags for name in ("src", "href", "data", "action")]
    assert all(source.startswith("#") for source in sources if source)
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}


def test_policy_allows_the_scripts_of_the_page_and_no_other(parsed: ParsedPage) -> None:
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    allowed = re.findall(r"'sha256-([^']+)'", policy or "")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in parsed.scripts[1:]]
    assert hashes == allowed
    sources = " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert (policy or "").startswith(f"default-src 'none'; script-src {sources}; style-src")


def test_each_figure_has_its_place_and_its_data():
    panels = [panel("left"), panel("right")]
    text = page("a", "about", {"both": ("Both", [panels, []]), "none": ("None", ["", []])}, read_from=[])
    assert parse_page(text).ids() == {"both", "left", "right", "figures"}  # a section of empty parts is left out
    assert text.count('class="grid"') == 1
    figures = page_figures(text)
    assert [figures[name]["data"][0]["y"] for name in ("left", "right")] == [[3, 4]] * 2
    assert text.count("grid-column:span 4") == 2
    assert 'id="left" style="height:200px"' in text


def test_titles_captions_keys_files_and_notes_are_text_and_no_markup():
    panels = [panel("left", HOSTILE)]
    sections = {"summary": ("Summary", [panels])}
    text = page(HOSTILE, "about", sections, read_from=[HOSTILE], notes=[HOSTILE])
    assert HOSTILE not in text
    parsed = parse_page(text)
    assert len(parsed.scripts) == 3  # the figures, plotly, and the call that draws them
    assert parsed.text.count(HOSTILE) == 7  # title, heading, file, note; and of the panel title, key and caption


def test_the_first_files_are_named_and_the_others_counted():
    names = [f"{number}.json" for number in range(MAX_FILES + 1200)]
    top = page("a", "about", {}, read_from=names)
    assert f"{MAX_FILES - 1}.json" in top
    assert f"<bdi>{MAX_FILES}.json" not in top
    assert "and 1,200 more" in top
