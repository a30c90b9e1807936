"""Train detectors at settings for which `detect advise` differs, and write docs/advice.md: python tools/advice_evidence.py.

Each finished run is a row of docs/evidence/advice.csv, and is not repeated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2
from pathlib import Path
from statistics import mean

from evidence_parts.advice_runs import TABLE, TRAINED_AT, Row, Setting, read_rows, run_missing

from detect.advice.advise import SHARE
from detect.advice.curves import IOU_STEP, WORTH
from detect.files import write_whole

OTX_SIZES = {"nuclei": (256,), "bccd": (640,)}  # otx 2.6.0, otx/data/utils/utils.py, adapt_input_size_to_dataset
SHARES = {
    "no_cell": "no cell of its own",
    "no_anchor": "no anchor, by the trainer's matching",
    "small": "under 8 px or a cell",
}
TEXT = """# Does following the advice help?

Made by `python tools/advice_evidence.py` from [evidence/advice.csv](evidence/advice.csv): RetinaNet with the tiny backbone
from random weights, anchors fitted at each setting (three a cell), 16 epochs on nuclei and 14 on blood cells (BCCD). What is
lost is known before training. AP, and recall at IoU .5 at any score, are those on the validation images. 37 networks were
trained on a GPU, the others on a CPU.

## Changes

`loses` is the share of the training objects without a cell of their own on these levels, as `detect advise` counts it for
detectors that take cells inside a box and widen none (`yolo11-8.3`), or for NMS the share of the validation objects that
suppression removes though predicted perfectly. `advice` follows the command's rule for the two values alone: a change must
save .1% of the objects, .5% for each doubling of the compute, and .1% for each .05 of a higher NMS threshold. Compute is
that of the pixels, or of the cells of the head. Differences are means of per-seed differences (lowest to highest).

| data | change | loses | then | compute | advice | AP | recall | seeds |
|---|---|---:|---:|---:|---|---:|---:|---:|
{changes}

Every change marked worth it raised AP and recall. Some changes marked keep still raise AP: a larger input or a finer level
localises boxes better, also where every object has a cell already. The advice counts objects, not precision. A much higher
NMS threshold (.85) lowers AP. By the trained detector's own matching hardly any object is lost from 128 px on (nuclei) and
160 px (blood cells): objects without a cell of their own have anchors, but few.

## Which prediction ranks the settings

Spearman's rank correlation over the settings below; -1 if more predicted loss always means a lower score.

| data | predicted share | with AP | with recall | settings |
|---|---|---:|---:|---:|
{correlations}

## Settings

| data | levels | px | no cell of its own | no anchor | under 8 px or a cell | AP | AP50 | recall | seeds |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
{settings}

Not shown by these trainings: other datasets, large backbones, detectors without anchors, long schedules. OTX's rule (otx
2.6.0) enlarges images until the smallest objects have 32 px, but not beyond the size of the images, and to at least 256 px:
256 px for nuclei, whose images have 128, and 640 px for blood cells.
"""


@dataclass(frozen=True)
class Change:
    """One change of a setting, with its compute; thresholds of suppression change at the first's size and levels."""

    about: str
    before: Setting
    after: Setting
    cost: float = 1.0
    before_iou: float = TRAINED_AT
    after_iou: float = TRAINED_AT

    @property
    def is_of_suppression(self) -> bool:
        return self.before == self.after


def changes() -> Iterator[Change]:
    """The changes of the document: input size, levels, suppression."""
    for data, sizes in (("nuclei", (64, 96, 128, 192, 256)), ("bccd", (96, 160, 240, 320, 640))):
        for before, after in pairwise(sizes):
            about = f"{before} to {after} px" + (", OTX's rule" if after in OTX_SIZES[data] else "")
            small = Setting(data, before, "p3-p5")
            yield Change(about, small, replace(small, size=after), (after / before) ** 2)
    for data, size in (("nuclei", 64), ("nuclei", 128), ("bccd", 96), ("bccd", 160)):
        coarse = Setting(data, size, "p3-p5")
        yield Change(f"P2 added at {size} px", coarse, replace(coarse, levels="p2-p5"), 85 / 21)  # cells of the head
    for data, size in (("nuclei", 128), ("bccd", 96), ("bccd", 160)):
        coarse = Setting(data, size, "p4-p6")
        yield Change(f"P3 to P5 instead of P4 to P6 at {size} px", coarse, replace(coarse, levels="p3-p5"), 4.0)
    for data, size in (("nuclei", 128), ("bccd", 160)):
        own = Setting(data, size, "p3-p5")
        for low, high in ((0.3, 0.5), (0.5, 0.6), (0.5, 0.85)):
            yield Change(f"NMS threshold {low:g} to {high:g}", own, own, before_iou=low, after_iou=high)


def document(rows: Sequence[Row]) -> str:
    """The text of advice.md."""
    by_setting: dict[tuple[Setting, float], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        by_setting[Setting(row.data, row.size, row.levels), row.iou][row.seed] = row
    lines = []
    for change in changes():
        before = by_setting.get((change.before, change.before_iou), {})
        after = by_setting.get((change.after, change.after_iou), {})
        seeds = sorted(before.keys() & after.keys())
        if seeds:
            lines.append(_change_line(change, [(before[seed], after[seed]) for seed in seeds]))
    settings = [
        _setting_line(setting, list(found.values()))
        for (setting, iou), found in by_setting.items()
        if iou == TRAINED_AT
    ]
    correlations = [
        _correlation(rows, data, name)
        for data in {row.data: 0 for row in rows}
        for name in ("no_cell", "no_anchor", "small")
    ]
    return TEXT.format(changes="\n".join(lines), settings="\n".join(settings), correlations="\n".join(correlations))


def _change_line(change: Change, pairs: Sequence[tuple[Row, Row]]) -> str:
    name = "suppressed" if change.is_of_suppression else "no_cell"
    before, after = (mean(getattr(row, name) for row in each) for each in zip(*pairs, strict=True))
    price = WORTH * log2(change.cost)
    if change.is_of_suppression:
        price = SHARE * abs(change.after_iou - change.before_iou) / IOU_STEP
    cells = [change.before.data, change.about, f"{before:.1%}", f"{after:.1%}", f"{change.cost:.3g}"]
    cells.append("worth it" if before - after > max(SHARE, price) else "keep")
    cells += [
        _difference([getattr(new, score) - getattr(old, score) for old, new in pairs]) for score in ("ap", "recall")
    ]
    return f"| {' | '.join(cells)} | {len(pairs)} |"


def _difference(values: Sequence[float]) -> str:
    spread = f" ({min(values):+.3f} to {max(values):+.3f})" if len(values) > 1 else ""
    return f"{mean(values):+.3f}{spread}"


def _setting_line(setting: Setting, found: Sequence[Row]) -> str:
    cells = [setting.data, setting.levels, f"{setting.size}"]
    cells += [f"{mean(getattr(row, name) for row in found):.1%}" for name in ("no_cell", "no_anchor", "small")]
    cells += [f"{mean(getattr(row, name) for row in found):.3f}" for name in ("ap", "ap50", "recall")]
    return f"| {' | '.join(cells)} | {len(found)} |"


def _correlation(rows: Sequence[Row], data: str, name: str) -> str:
    """Spearman's rank correlation over settings of a predicted share with AP and recall."""
    from scipy.stats import spearmanr

    groups: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.data == data and row.iou == TRAINED_AT:
            groups[row.size, row.levels].append(row)
    shares = [mean(getattr(row, name) for row in found) for found in groups.values()]
    scores = [[mean(getattr(row, score) for row in found) for found in groups.values()] for score in ("ap", "recall")]
    found = [f"{spearmanr(shares, each).statistic:+.2f}" for each in scores]
    return f"| {data} | {SHARES[name]} | {' | '.join(found)} | {len(groups)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the missing runs and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"), help="folder of advice.md and evidence/")
    parser.add_argument("--bccd-images", help="folder of the BCCD images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--processes", type=int, default=2, help="networks trained at once")
    parser.add_argument("--report", action="store_true", help="write the document alone")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    if not options.report:
        run_missing(options.output, device=options.device, processes=options.processes, images=options.bccd_images)
    rows = read_rows(options.output / TABLE)
    write_whole(options.output / "advice.md", document(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
