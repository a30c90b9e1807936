"""``detect anchors fit --for NAME``: the detector, what its options change, and what is printed and written for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

import detect
from detect.cli.fit_options import FitOptions, Fitted
from detect.cli.output import note, show, show_table
from detect.errors import ConfigError, ConvertError

if TYPE_CHECKING:
    from detect.anchors.detector_score import DetectorSums
    from detect.anchors.fit_boxes import FitBoxes
    from detect.catalog.detectors import AnchorDetector
    from detect.cli.read_data import PlainData, ShardedData
    from detect.interop.anchor_text import Conversion

MAX_GROUPS = 20  # rows of a table by category
UNNAMED = (
    "note: fitted for no detector in particular: levels {}, IoU {}. Name yours with --for, and its levels, numbers, "
    "resize rule and matching follow: `detect anchors known`"
)


@dataclass(frozen=True)
class DetectorOptions:
    """The detector that anchors are for."""

    detector: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="The detector, by a name of `detect anchors known` or a YAML file: its levels, numbers, layout, resize "
            "rule and matching are taken, and its text is printed. --size, --resize, --levels, --per-level and --layout "
            "change what differs in yours.",
        ),
    ] = None
    size: Annotated[
        int | None, typer.Option(min=8, max=65_536, help="With --for: first size of the detector's resize rule.")
    ] = None

    def load(self, options: FitOptions, resize: str | None) -> AnchorDetector | None:
        """The named detector with what the options change; None if none is named."""
        if self.detector is None:
            if self.size is not None:
                raise ConfigError("--size changes a detector's resize rule: name it with --for, or give --resize")
            return None
        from detect.anchors.sweep import rules_of_sizes
        from detect.catalog.detectors import load_detector, with_anchors

        detector = with_anchors(load_detector(self.detector))
        if resize and self.size is not None:
            raise ConfigError("--resize and --size both set the resize rule: give one")
        rule = rules_of_sizes(detector.resize, [self.size])[0] if self.size is not None else resize
        changes = options.changes_to(detector) | ({"resize": str(detect.parse_resize(rule))} if rule else {})
        if detector.layout == "ssd" and changes.get("resize", detector.resize) != detector.resize:
            raise ConfigError(
                f"{detector.name} has the strides of an input after {detector.resize}: for another one, write a YAML file "
                f"with `base: {detector.name}` and its resize, strides, per_level and stock"
            )
        return replaced(detector, changes)


def replaced(detector: AnchorDetector, changes: dict[str, Any]) -> AnchorDetector:
    """The detector with other fields, checked; its stock anchors do not fit other levels or numbers."""
    from detect.catalog.detectors import OF_STOCK

    if not changes:
        return detector
    if changes.keys() & OF_STOCK:
        changes = changes | {"stock": None}
    try:
        return msgspec.structs.replace(detector, **changes)
    except ValueError as error:
        raise ConfigError(f"{detector.name}: {error}") from None


def fit_detector(
    data: PlainData | ShardedData, boxes: FitBoxes, detector: AnchorDetector, options: FitOptions
) -> Fitted:
    """Anchors for a detector; proved by default where that takes seconds, which is by shape."""
    from detect.fitting.for_detector import fit_for, objectives_of

    objective = objectives_of(detector)[0]
    unasked = options.certify is None and objective.on_grid
    proof = {} if unasked else options.proof(objective, boxes.num_boxes)
    start = detect.load_anchors(options.start) if options.start else None
    if unasked:
        note(
            "note: how close to the best possible the anchors are is not proved on the grid: --certify 0.02 takes longer"
        )
    with options.limited() as limit:
        fit = fit_for(boxes, detector, start=start, score=data.score, **proof)
    others = [data.score(start, detector)] if start else []
    others += [fit.stock] if fit.stock else []
    detectors = data.with_assignments([fit.score, *others])
    own = (tuple(detectors), options.start, limit.stopped_after_s)
    return Fitted(fit.anchors, fit.among, (), *own)


def print_for_detector(scores: Sequence[DetectorSums]) -> None:
    """Print the scores of anchors under a detector's own rule, what it learns from, and the text to paste."""
    print_matching(scores)
    detector, conversion = scores[0].detector, _text(scores[0])
    if conversion.text:
        show(f"\nFor {detector.text.file}, at {detector.text.key}", style="bold")
        show(conversion.text, soft_wrap=True)
    for line in conversion.notes:
        note(f"note: {line}")


def print_matching(scores: Sequence[DetectorSums]) -> None:
    """Print the scores of anchors under a detector's own rule, and what it learns from with the first."""
    first = scores[0]
    rows = []
    for each in scores:
        numbers = (each.score, each.average, each.recall)
        positives = f"{each.assignment.overall.positives:.2f}"
        rows.append([each.anchors.name, *(f"{value:.4f}" for value in numbers), positives])
    headers = (f"as {first.detector.name} matches", "score", f"mean {first.measure}", "reached", "positives per box")
    show_table(headers, rows)
    show(first.in_words(), style="dim")
    by_category = first.assignment.by_category
    groups = [group for group in (*first.assignment.by_size, *largest(by_category)) if group.count]
    kinds = [(group.name, f"{group.count:,}", f"{group.positives:.2f}", f"{group.unassigned:,}") for group in groups]
    show_table(("what it learns from", "boxes", "positives per box", "none"), kinds)
    say_if_cut(by_category)
    if first.assignment.neglected:
        show(first.assignment.neglect_in_words() or "", style="yellow")


def largest(groups: Sequence[Any]) -> Sequence[Any]:
    """All groups in their order; if there are more than ``MAX_GROUPS``, the largest ones by falling count."""
    return groups if len(groups) <= MAX_GROUPS else sorted(groups, key=lambda group: -group.count)[:MAX_GROUPS]


def say_if_cut(groups: Sequence[Any]) -> None:
    """Say that a table shows the largest groups alone, if it does."""
    if len(groups) > MAX_GROUPS:
        show(f"  the {MAX_GROUPS} largest of {len(groups)} categories; --json lists all", style="dim")


def detector_object(scores: Sequence[DetectorSums]) -> dict[str, Any]:
    """The scores under a detector's own rule and the text, for JSON."""
    detector, conversion = scores[0].detector, _text(scores[0])
    text = {"text": conversion.text, "notes": list(conversion.notes)}
    place = {"file": detector.text.file, "key": detector.text.key}
    return {"detector": detector.name, **text, **place, "matching": matching_objects(scores)}


def matching_objects(scores: Sequence[DetectorSums]) -> list[dict[str, Any]]:
    """The scores under a detector's own rule, for JSON."""
    return [
        {
            "name": each.anchors.name,
            "score": each.score,
            "average": each.average,
            "measure": each.measure,
            "reached": each.recall,
            "positives": each.assignment.overall.positives,
            "by_size": [asdict(group) for group in each.assignment.by_size],
            "by_category": [asdict(group) for group in each.assignment.by_category],
        }
        for each in scores
    ]


def text_file(score: DetectorSums) -> dict[str, str]:
    """The file of a detector's text, such as ``anchors.yolov5.yaml``, by its name."""
    detector, text = score.detector, _text(score).text
    ending = PurePath(detector.text.file).suffix or ".py"
    if detector.text.format == "anchors.yaml" or not text:
        return {}  # ours is written in any case
    return {f"anchors.{detector.name}{ending}": text + "\n"}


def _text(score: DetectorSums) -> Conversion:
    """The detector's text; without it, why it cannot hold the anchors, so that the fit is not lost."""
    from detect.interop.anchor_text import Conversion

    try:
        return detect.convert_anchors(score.anchors, score.detector)
    except ConvertError as error:
        return Conversion("", (f"no text: {error}",))


def note_unnamed(options: FitOptions, on_grid: bool) -> None:
    """Say what is assumed if no detector is named."""
    levels = options.levels or "p3-p7"
    note(UNNAMED.format(levels, "on the grid" if on_grid else "by shape"))
