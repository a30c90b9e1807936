"""docs/advice.md: what changes of settings save and gain, made from the rows of the trainings."""

from __future__ import annotations

from pathlib import Path

import advice_evidence
import pytest
from evidence_parts import advice_runs
from evidence_parts.advice_runs import Row, read_rows, table_text

DOCS = Path(__file__).parents[2] / "docs"


def row(
    size: int, levels: str, seed: int, ap: float, *, no_cell: float, iou: float = 0.5, suppressed: float = 0.0
) -> Row:
    return Row("nuclei", size, levels, seed, iou, 1 / size, no_cell, 9 / size, suppressed, ap, round(ap + 0.2, 3), ap)


ROWS = [
    row(64, "p3-p5", 0, 0.30, no_cell=0.25),
    row(64, "p3-p5", 1, 0.34, no_cell=0.25),
    row(96, "p3-p5", 0, 0.40, no_cell=0.245),
    row(96, "p3-p5", 1, 0.42, no_cell=0.245),
    row(128, "p3-p5", 0, 0.45, no_cell=0.05),
    row(128, "p3-p5", 0, 0.40, no_cell=0.05, iou=0.3, suppressed=0.02),
    row(128, "p3-p5", 0, 0.46, no_cell=0.05, iou=0.6),
]


def line(text: str, start: str) -> list[str]:
    (found,) = [each for each in text.splitlines() if each.startswith(f"| nuclei | {start}")]
    return [cell.strip() for cell in found.strip("|").split("|")][2:]


def test_a_change_says_what_it_saves_what_it_costs_and_what_it_gained():
    text = advice_evidence.document(ROWS)
    # .25 - .245 is less than .5 % for each of log2(2.25) = 1.17 doublings; AP +.10 and +.08
    assert line(text, "64 to 96 px") == [
        "25.0%", "24.5%", "2.25", "keep", "+0.090 (+0.080 to +0.100)", "+0.090 (+0.080 to +0.100)", "2",
    ]  # fmt: skip
    assert line(text, "96 to 128 px")[3:] == ["worth it", "+0.050", "+0.050", "1"]
    # 2 % saved by .2 of the threshold, which must save .4 %
    assert line(text, "NMS threshold 0.3 to 0.5")[:4] == ["2.0%", "0.0%", "1", "worth it"]
    assert line(text, "NMS threshold 0.5 to 0.6")[3] == "keep"


def test_changes_without_runs_are_left_out():
    text = advice_evidence.document(ROWS)
    assert "bccd | 96 to 160 px" not in text
    assert "P2 added" not in text


def test_rows_are_written_and_read_as_they_are(tmp_path):
    file = tmp_path / "advice.csv"
    file.write_text(table_text(ROWS), "utf-8")
    assert table_text(read_rows(file)) == table_text(ROWS)
    assert read_rows(file)[0].ap == 0.3
    assert read_rows(tmp_path / "none.csv") == []


def test_the_document_is_that_of_the_committed_rows():
    rows = read_rows(DOCS / advice_runs.TABLE)
    assert (DOCS / "advice.md").read_text("utf-8") == advice_evidence.document(rows)
    seeds = {(each.data, each.size, each.levels): set() for each in rows}
    for each in rows:
        seeds[each.data, each.size, each.levels].add(each.seed)
    assert sum(len(each) == 3 for each in seeds.values()) >= 8


@pytest.mark.parametrize("name", ["nuclei", "bccd"])
def test_every_change_is_between_settings_that_are_trained(name):
    trained = set(advice_runs.SETTINGS)
    for change in advice_evidence.changes():
        if change.before.data == name:
            assert {change.before, change.after} <= trained
