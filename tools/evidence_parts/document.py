"""docs/evidence.md and its pictures, from the rows of finished runs."""

from __future__ import annotations

from collections.abc import Sequence

from evidence_parts.categories import assignments_of, category_section
from evidence_parts.correlations import correlation_section
from evidence_parts.costs import Costs
from evidence_parts.gathered import Gathered, Group
from evidence_parts.plan import (
    BALANCED,
    BOXES,
    EXPLORED,
    FREE,
    HEATMAP,
    POINTS,
    REFERENCE,
    SEEDS,
    SLOTS,
    VARIANTS,
    Dataset,
    Run,
    weighed,
)
from evidence_parts.resampling import CONFIDENCE, RESAMPLES, mean_and_deviation
from evidence_parts.summary import summary_section
from evidence_parts.wording import NOTHING, between, listed, number, signed, table, verdict, with_deviation

HEAD = f"""# Evidence: what priors are worth

Made by `make evidence` (tools/evidence.py) from `evidence/runs.csv`, a row for each finished run, and the detections beside
it. Networks start from random weights, with the tiny backbone of the configurations; that of bccd-lite0 starts from ImageNet
weights. Within a table the recipe and the epochs are the same: only the priors of the head, the matching, or the weights of
positives differ.

A number is the mean over seeds, ± its standard deviation. An interval holds {CONFIDENCE:.0%} of {RESAMPLES} resamples, each
of source images and of seeds, drawn with replacement (percentile bootstrap). Differences are paired: the same seeds, and the
same images in each resample. **Within noise** means that the interval of the difference holds zero, not that there is no
difference; with many comparisons some intervals exclude zero by chance. Deviations of a few seeds are rough.
"""
ABOUT = {
    "nuclei": "Validated on {images} images of 128 x 128, cut from {sources} source images, none of them trained on.",
    "bccd": "Blood cells of three kinds in 320 x 320, every fourth image held out ({images}). The files do not say which "
    "images show the same slide, so each image counts as a source and intervals may be too narrow.",
    "bccd-lite0": "The same images, with EfficientNet-Lite0 from ImageNet weights as the backbone ({images} held out).",
}


def build_document(
    of_datasets: Sequence[Gathered], planned: Sequence[Run], missing: Sequence[Run], costs: Costs
) -> dict[str, str]:
    """The texts of files by name, ``evidence.md`` first; the names of pictures begin with ``evidence/``."""
    files: dict[str, str] = {}
    parts = [HEAD, *filter(None, [summary_section(of_datasets)])]
    for gathered in of_datasets:
        if gathered.groups:
            parts += _of_dataset(gathered, files, costs)
        else:
            parts.append(f"## {gathered.dataset.name}\n\nNothing has been run yet.\n")
    parts.append(_missing([each.dataset for each in of_datasets], planned, missing))
    return {"evidence.md": "\n".join(parts), **files}


def _of_dataset(gathered: Gathered, files: dict[str, str], costs: Costs) -> list[str]:
    name = gathered.dataset.name
    about = ABOUT.get(name, "Validated on {images} images of {sources} sources.")
    parts = [
        f"## {name}\n\n" + about.format(images=len(gathered.truth.images), sources=gathered.num_sources) + "\n",
        *(
            box_section(gathered, epochs, is_weighed=is_weighed)
            for epochs in gathered.budgets
            for is_weighed in (False, True)
        ),
        _given_time(gathered),
    ]
    if gathered.budgets:
        epochs = gathered.budgets[0]
        assignments = assignments_of(gathered, epochs)
        parts.append(category_section(gathered, epochs, assignments))
        parts.append(_equal_time(gathered, epochs, costs))
        parts.append(correlation_section(gathered, epochs, files, assignments))
    parts += [_landmarks(gathered), _threads(gathered)]
    return [part for part in parts if part]


def box_section(gathered: Gathered, epochs: int, *, is_weighed: bool) -> str:
    """Write the tables of the box variants with these epochs, and their differences from the reference.

    Variants whose positives are weighed have a table of their own. A table without finished runs is left out.
    """
    suffix, words = (BALANCED, ", positives weighed by category") if is_weighed else ("", "")
    title = f"### Boxes, {epochs} epochs{words}\n"
    groups = [group for group in gathered.of_task(BOXES, epochs) if weighed(group.variant) == is_weighed]
    if not any(group.epochs for group in groups):
        return ""
    reference = REFERENCE + suffix
    others = [group for group in groups if group.variant != reference]
    against = {group.variant: gathered.against_reference(group, epochs) for group in others}
    rows = [
        [
            f"{group.variant}: {VARIANTS[group.variant].words}",
            str(len(group.rows)),
            with_deviation(group.spread("ap")),
            between(gathered.interval(group, "ap")),
            with_deviation(group.spread("ap50")),
            signed(against.get(group.variant)),
            verdict(against.get(group.variant)),
        ]
        for group in groups
    ]
    headers = ["", "seeds", "AP", "interval", "AP50", f"AP less that of {reference}", "which is"]
    parts = [title, table(headers, rows), ""]
    by_verdict = {words: [name for name, each in against.items() if verdict(each) == words] for words in VERDICTS}
    if any(by_verdict.values()):
        parts.append(
            f"Against {reference}: better by more than the noise: {listed(by_verdict['better'])}; worse by more than the "
            f"noise: {listed(by_verdict['worse'])}; within noise: {listed(by_verdict['within noise'])}.\n"
        )
    return "\n".join([*parts, _anchor_table(groups)])


VERDICTS = ("better", "worse", "within noise")


def _anchor_table(groups: Sequence[Group]) -> str:
    """Numbers of the anchors before training, and their cost."""
    columns = {
        "average IoU by shape": ("average_iou", 3),
        "average IoU on the grid": ("grid_average_iou", 3),
        "recall at .5 on the grid": ("grid_recall", 3),
        "positives per instance": ("positives", 1),
        "anchors per image": ("anchors", 0),
        "head GFLOPs": ("gflops", 3),
    }
    rows = [
        [group.variant, *(number(group.mean(name), digits) for name, digits in columns.values()), group.rows[0].detail]
        for group in groups
        if group.epochs
    ]
    return "The anchors on the validation boxes, and their cost:\n\n" + table(["", *columns, "shapes"], rows) + "\n"


def _given_time(gathered: Gathered) -> str:
    """Whether free predictors catch up with more epochs."""
    if len(gathered.budgets) < 2 or not any(name == FREE for name, _ in gathered.dataset.budgets):
        return ""
    gaps, answers = [], []
    for epochs in gathered.budgets:
        free, fitted = (gathered.group(name, epochs) for name in (FREE, REFERENCE))
        gap = None if free is None or fitted is None else gathered.difference(free, fitted, "ap")
        gaps.append(gap)
        answer = f"{signed(gap)} AP, {verdict(gap)}" if gap else "not known yet"
        answers.append(f"{answer} after {epochs} epochs")
    text = f"Can free predictors match priors, given time? {FREE} less {REFERENCE}: {'; '.join(answers)}."
    first, last = gaps[0], gaps[-1]
    if first and last:
        moved = "shrinks" if abs(last.value) < abs(first.value) else "does not shrink"
        text += f" The absolute difference {moved}, from {abs(first.value):.3f} to {abs(last.value):.3f}"
        text += (
            ", by less than the width of either interval."
            if abs(abs(last.value) - abs(first.value)) < min(last.high - last.low, first.high - first.low)
            else "."
        )
    return f"### Given time\n\n{text}\n"


def _equal_time(gathered: Gathered, epochs: int, costs: Costs) -> str:
    """Scores after the time that the cheapest variant takes."""
    name = gathered.dataset.name
    cost_of = {
        group.variant: costs.get((name, group.variant.removesuffix(BALANCED)))
        for group in gathered.of_task(BOXES, epochs)
        if group.epochs and group.arrays
    }
    known = {variant: cost for variant, cost in cost_of.items() if cost}
    if not known:
        return ""
    budget = epochs * min(known.values())
    groups = [group for group in gathered.of_task(BOXES, epochs) if group.variant in known]
    reached = {group.variant: group.after(budget / known[group.variant]) for group in groups}
    rows = [
        [
            group.variant,
            number(known[group.variant], 2),
            number(budget / known[group.variant], 1),
            with_deviation(mean_and_deviation(reached[group.variant])) if reached[group.variant] else NOTHING,
            with_deviation(group.spread("ap")),
        ]
        for group in groups
    ]
    about = (
        f"The cost is the time of a training step / that of {REFERENCE}, timed in turns on one core. AP after the time that "
        "the cheapest variant takes is interpolated between validations; a dash means that it does not lie between two. The "
        "learning rate falls to zero over a run's own epochs, so a slower variant is read before its end: a schedule made "
        "for that time would do better."
    )
    headers = ["", "cost", "epochs in that time", "AP then", "AP at its end"]
    return f"### Equal time, {name}\n\n{about}\n\n{table(headers, rows)}\n"


def _landmarks(gathered: Gathered) -> str:
    groups = gathered.of_task(POINTS)
    if not any(VARIANTS[name].task == POINTS for name, _ in gathered.dataset.budgets):
        return ""
    if not groups:
        return "### Keypoints\n\nNothing has been run yet.\n"
    metrics = {"f1_3px": "F1 at 3 px", "f1_5px": "F1 at 5 px", "count_mae": "count MAE"}
    rows = [
        [
            f"{group.variant}: {VARIANTS[group.variant].words}",
            str(group.epochs),
            str(len(group.rows)),
            *(f"{with_deviation(group.spread(name))} ({between(gathered.interval(group, name))})" for name in metrics),
        ]
        for group in groups
    ]
    by_name = {group.variant: group for group in groups}
    lines = []
    for other in (each for each in groups if each.variant != HEATMAP and HEATMAP in by_name):
        answers = []
        for metric, words in metrics.items():
            gap = gathered.difference(by_name[HEATMAP], other, metric)
            answers.append(f"{words} {signed(gap)}, {verdict(gap, more_is_better=metric != 'count_mae')}")
        lines.append(f"- {HEATMAP} less {other.variant}: {'; '.join(answers)}")
    about = (
        f"Fixed slots ({SLOTS}) use the same backbone: its last map pooled to 4 x 4 cells, two linear layers, ten slots of "
        "presence and (x, y). The i-th instance belongs to slot i, in the order of the annotation or sorted from left to "
        "right; losses are cross-entropy and smooth L1. A smaller count MAE is better. The threshold of heatmaps, .25, was "
        "chosen on the training images, between those of the best F1 and the best count; slots use .5."
    )
    headers = ["", "epochs", "seeds", *metrics.values()]
    return "\n".join([f"### Keypoints\n\n{about}\n", table(headers, rows), "", *lines, ""])


def _threads(gathered: Gathered) -> str:
    counts = sorted({str(row.threads) for group in gathered.groups.values() for row in group.rows if row.threads})
    tuned = [f"{group.variant}: {group.rows[0].detail}" for group in gathered.groups.values() if not group.epochs]
    parts = [f"Threads of PyTorch in these runs: {listed(counts)}."] if counts else []
    parts += [f"Tuned on the training images alone: {'; '.join(tuned)}."] if tuned else []
    return " ".join(parts) + "\n" if parts else ""


def _missing(datasets: Sequence[Dataset], planned: Sequence[Run], missing: Sequence[Run]) -> str:
    whole = [f"{each.name} with {epochs} epochs" for each in datasets for epochs in each.explored_epochs]
    about = f"One seed is planned, for a first look, of {listed([*EXPLORED, *whole])}; {len(SEEDS)} of the others.\n"
    if not missing:
        return f"## Missing\n\nNothing: all {len(planned)} planned runs are in the tables. {about}"
    seeds: dict[tuple[str, str, int], list[str]] = {}
    for run in missing:
        seeds.setdefault((run.dataset, run.variant, run.epochs), []).append(str(run.seed))
    lines = [
        f"- {dataset}/{variant}, {epochs} epochs: seed{'s' * (len(own) > 1)} {listed(own)}"
        if epochs
        else f"- {dataset}/{variant}"
        for (dataset, variant, epochs), own in seeds.items()
    ]
    counts = f"Of {len(planned)} planned runs, {len(missing)} are not in the tables."
    return f"## Missing\n\n{counts} {about}\n" + "\n".join(lines) + "\n"
