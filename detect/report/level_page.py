"""The report of which levels a dataset prefers, as the text of one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from detect.anchors.levels import KeptLevels, LevelPreference
from detect.report.level_tables import (
    advice_list,
    kept_table,
    level_caption,
    level_table,
    placed_iou_by_level,
    savings_panel,
    undominated,
)
from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import level_colors
from detect.report.tables import Column, decimal, escape, percent, table

SECTIONS = ("summary", "levels", "dropping")
WITHOUT = """What remains without each level in turn, on the grid. Lost are boxes that all levels together cover, and the
others do not; below the threshold are boxes that no anchor learns but by the rule that gives each box its best one."""
IN_WORDS = "Nothing was trained: anchors were matched with the boxes as a detector would match them."
SUBSETS = "Subsets that save the most among all that lose as few boxes, from all levels down; bold are those suggested."


def level_page(preference: LevelPreference, *, title: str, notes: Sequence[str] = ()) -> str:
    """What each level takes and costs, what dropping some saves and loses, and whether a finer one would pay.

    Equal input gives equal text.

    Args:
        preference: what :func:`detect.anchors.levels.level_preference` found.
        title: heading of the page.
        notes: lines of plain text under the heading.
    """
    score = preference.score
    colors, dataset = level_colors([score]), score.instances.dataset
    subsets = list(preference.subsets())
    panels = [
        placed_iou_by_level(score, colors, 6),
        savings_panel(subsets, preference.suggested, len(score.instances)),
    ]
    about = f"Anchors “{escape(score.anchors.name)}” · resize rule <code>{escape(str(score.instances.rule))}</code>"
    levels = block("Levels", level_caption(preference.threshold), level_table(score, colors, preference))
    body = [
        header(title, about, read_from=dataset.files, sections=SECTIONS, notes=notes),
        section("summary", "Summary", _counts(preference) + block("In words", IN_WORDS, advice_list(preference))),
        section("levels", "Levels", levels + _finer(preference)),
        section("dropping", "Dropping levels", grid(panels) + _dropping(preference, subsets)),
    ]
    return document(title, "\n".join(body), panels)


def _counts(preference: LevelPreference) -> str:
    score, kept = preference.score, preference.suggested
    return tiles(
        {
            "images": len(score.instances.dataset.images),
            "instances": len(score.instances),
            "levels": len(preference.levels),
            "shapes": score.anchors.num_anchors,
            "levels to keep": len(kept.levels),
            "instances lost with these": len(kept.lost),
        }
    )


def _finer(preference: LevelPreference) -> str:
    finer = preference.finer
    if finer is None:
        return block("A finer level", "The finest stride is odd: there is no level of half of it.", "")
    count = len(preference.score.instances)
    columns = [Column(title, numeric=True) for title in ("stride, px", "covered in addition", "recall", "average IoU")]
    cells = [f"{finer.stride}", f"{finer.gained:,}", percent(finer.recall), decimal(finer.average_iou)]
    words = escape(finer.words) if count else "No boxes to tell it by."
    shapes = ", ".join(f"{width:.4g} x {height:.4g}" for width, height in finer.shapes)
    row = [finer.name, *cells, "yes" if finer.pays else "no", shapes]
    content = table([Column("level"), *columns, Column("pays"), Column("width x height, px")], [row])
    return block("A finer level", f"{words}.", content)


def _dropping(preference: LevelPreference, subsets: Sequence[KeptLevels]) -> str:
    each = [preference.keep(range(len(preference.levels))), *preference.without_each]
    best = undominated(subsets)
    return block("Without one level", WITHOUT, kept_table(each, preference.suggested)) + block(
        f"Subsets worth a look <b>{len(best)} of {len(subsets):,}</b>", SUBSETS, kept_table(best, preference.suggested)
    )
