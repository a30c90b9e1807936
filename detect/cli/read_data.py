"""A dataset that a command asks its questions of: held by this process, or in shards that a cluster reads for each.

Both give the same numbers, since both add up the same sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

import detect
from detect.anchors.anchor_set import AnchorSet, SourceFile
from detect.anchors.fit_boxes import BoxStatistics, FitBoxes
from detect.anchors.metric_sums import MetricSums, score_sets
from detect.anchors.metrics import AnchorMetrics, anchor_metrics
from detect.cli.engine import SHARDS_LEFT_OUT
from detect.cli.options import DatasetFiles, remember
from detect.cli.output import busy, findings_of, note
from detect.data import CocoDataset, Finding
from detect.data.dataset_counts import MAX_FINDINGS, DatasetCounts
from detect.data.read_dataset import shards_of
from detect.errors import ConfigError
from detect.ops.exact_sums import FirstItems
from detect.wording import plural

if TYPE_CHECKING:
    from detect.anchors.assignment_sums import AssignmentSums
    from detect.anchors.detector_score import DetectorScore, DetectorSums
    from detect.anchors.levels import LevelReport
    from detect.catalog.detectors import AnchorDetector
    from detect.cli.fit_options import FitOptions
    from detect.distributed import Shards
    from detect.fitting.for_detector import Score
    from detect.ops.matcher import Matcher

MAX_TOLD = 5  # shards left out, and warnings, that are printed


class AnyData:
    """What both kinds of dataset do alike."""

    reduce: Callable[[Callable[[CocoDataset], Any], str], Any]
    """What work returns for the dataset, or for its shards, added up; the text says what is done."""

    def assignments(
        self, sets: Sequence[AnchorSet], rules: Sequence[Any], convention: str, matcher: Matcher
    ) -> list[AssignmentSums]:
        """The anchors that a matcher gives to the instances, for each set under its rule."""
        from detect.anchors.assign import assign_sets  # loads torch

        how: dict[str, Any] = {"rules": tuple(map(str, rules)), "convention": convention, "matcher": matcher}
        return list(self.reduce(partial(assign_sets, sets=tuple(sets), **how), "matching"))


@dataclass
class PlainData(AnyData):
    """A dataset that this process holds; it keeps the metrics that pages are drawn from."""

    dataset: CocoDataset
    metrics: list[AnchorMetrics] = field(default_factory=list)
    matched: list[DetectorScore] = field(default_factory=list)
    _by_rule: dict[str, detect.ResizedInstances] = field(default_factory=dict)

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        return findings_of(self.dataset)

    def instances(self, rule: Any) -> detect.ResizedInstances:
        """The instances under a resize rule."""
        if str(rule) not in self._by_rule:
            self._by_rule[str(rule)] = detect.ResizedInstances.of(self.dataset, rule)
        return self._by_rule[str(rule)]

    def beside(self, files: DatasetFiles) -> PlainData:
        """Another dataset of the command, read in the same way."""
        return PlainData(files.read())

    def reduce(self, work: Callable[[CocoDataset], Any], what: str) -> Any:
        """What work returns for the dataset."""
        with busy(what):
            return work(self.dataset)

    def fit_boxes(self, rule: Any, fit: FitOptions) -> FitBoxes:
        """What a fit needs of the boxes."""
        instances = self.instances(rule)
        return FitBoxes.of(instances, fit.weights(instances))

    def metric_sums(
        self, sets: Sequence[AnchorSet], rules: Sequence[Any], convention: str, *, worst: int | None = None
    ) -> list[MetricSums]:
        """The metrics of each set under its rule."""
        pairs = zip(sets, rules, strict=True)
        self.metrics = [anchor_metrics(self.instances(rule), each, convention=convention) for each, rule in pairs]
        return [MetricSums.of(each, worst=worst) for each in self.metrics]

    def score(self, anchors: AnchorSet, detector: AnchorDetector) -> Score:
        """The score of a set under a detector's rule of matching."""
        from detect.anchors.detector_score import score_for

        return score_for(self.instances(detector.resize), anchors, detector)

    def with_assignments(self, scores: Sequence[Score]) -> list[DetectorSums]:
        """The scores with what each instance learns from."""
        self.matched = list(scores)  # type: ignore[arg-type]
        return [each.sums() for each in self.matched]

    def matching(self, sets: Sequence[AnchorSet], detector: AnchorDetector) -> list[DetectorSums]:
        """The scores of sets under a detector's rule of matching."""
        return self.with_assignments([self.score(each, detector) for each in sets])

    def level_report(self, rule: Any, anchors: AnchorSet, convention: str, matcher: Matcher) -> LevelReport:
        """The report on the levels of a set."""
        generator = detect.AnchorGenerator(anchors, convention=convention)
        return detect.level_report(self.instances(rule), generator, matcher=matcher)

    def start_hashing(self) -> Future[tuple[SourceFile, ...]]:
        """The digests of the files, computed in another thread."""
        thread = ThreadPoolExecutor(max_workers=1)
        sources = thread.submit(sources_of, self.dataset.files)
        thread.shutdown(wait=False)
        return sources

    def left_out(self) -> dict[str, Any]:
        """The shards left out, for a JSON object: none."""
        return {}

    def finish(self) -> None:
        """Nothing was left out."""


@dataclass
class ShardedData(AnyData):
    """A dataset whose shards a cluster reads, once for each question."""

    shards: Shards
    files: DatasetFiles
    counts: DatasetCounts | None = None
    others: list[ShardedData] = field(default_factory=list)

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        bad = [("left out", Finding(name, None, None, reason)) for name, reason in sorted(self.shards.bad.items())]
        return bad + (self.counts.findings if self.counts else [])

    def instances(self, rule: Any) -> None:
        """None: they stay in their shards."""

    def beside(self, files: DatasetFiles) -> ShardedData:
        """Another dataset of the command, read in the same way."""
        shards = replace(self.shards, names=shards_of(files.files), bad={}, categories=None, warnings=[])
        self.others.append(ShardedData(shards, files))
        return self.others[-1]

    def fit_boxes(self, rule: Any, fit: FitOptions) -> FitBoxes:
        """What a fit needs of the boxes, from one reading."""
        statistics = self.reduce(
            partial(BoxStatistics.read, rule=str(rule), by_group=fit.is_weighted), "counting boxes"
        )
        return fit.of_statistics(statistics)

    def metric_sums(
        self, sets: Sequence[AnchorSet], rules: Sequence[Any], convention: str, *, worst: int | None = None
    ) -> list[MetricSums]:
        """The metrics of each set under its rule, from one reading."""
        work = partial(score_sets, sets=tuple(sets), rules=tuple(map(str, rules)), convention=convention, worst=worst)
        found = self.reduce(work, "scoring anchors")
        return [replace(each, anchors=own) for each, own in zip(found, sets, strict=True)]

    def score(self, anchors: AnchorSet, detector: AnchorDetector) -> Score:
        """The score of a set under a detector's rule of matching, from one reading."""
        return self.matching([anchors], detector, assigned=False)[0]

    def with_assignments(self, scores: Sequence[Score]) -> list[DetectorSums]:
        """The scores with what each instance learns from, from one reading."""
        return self.matching([each.anchors for each in scores], scores[0].detector)

    def matching(
        self, sets: Sequence[AnchorSet], detector: AnchorDetector, *, assigned: bool = True
    ) -> list[DetectorSums]:
        """The scores of sets under a detector's rule of matching, from one reading."""
        from detect.anchors.detector_score import match_sets

        work = partial(match_sets, sets=tuple(sets), detector=detector, assigned=assigned)
        found = self.reduce(work, f"matching as {detector.name} does")
        return [replace(each, anchors=own) for each, own in zip(found, sets, strict=True)]

    def reduce(self, work: Callable[[CocoDataset], Any], what: str) -> Any:
        """What work returns for the shards, added up, from one reading."""
        first = self.counts is None
        counts, warnings, result = self.shards.reduce(partial(_with_counts, work=work), what)
        if self.counts is not None and counts != self.counts:
            raise ConfigError("the shards have changed while they were read")
        self.counts = counts
        if first:
            remember(counts)
            self._tell([*self.shards.warnings, *warnings])
        return result

    def _tell(self, warnings: Sequence[str]) -> None:
        for warning in warnings[:MAX_TOLD]:
            note(f"warning: {warning}")
        for name, reason in sorted(self.shards.bad.items())[:MAX_TOLD]:
            note(f"warning: left out: {name}: {reason}")
        if len(self.shards.bad) > MAX_TOLD:
            note(f"warning: left out: {len(self.shards.bad) - MAX_TOLD} more shards")
        for kind, finding in self.counts.findings if self.counts and self.files.findings else ():
            note(f"{kind}: {finding}")
        if self.counts and max(len(self.counts.invalid), len(self.counts.suspicious)) > MAX_FINDINGS:
            note(f"note: of invalid and suspicious entries, {MAX_FINDINGS:,} of each kind can be listed")

    def level_report(self, rule: Any, anchors: AnchorSet, convention: str, matcher: Matcher) -> LevelReport:
        """The report on the levels of a set, from one reading."""
        from detect.anchors.levels import LevelReport, count_levels, require_few_levels  # loads torch

        require_few_levels(anchors)
        how: dict[str, Any] = {"anchors": anchors, "convention": convention, "matcher": matcher}
        sums = self.reduce(partial(count_levels, rule=str(rule), **how), "matching")
        return LevelReport(sums, detect.HeadSize.of_dataset(sums.dataset))

    def start_hashing(self) -> Future[tuple[SourceFile, ...]]:
        """The digests of the shards, computed on the cluster."""
        names = [name for name in self.shards.names if name not in self.shards.bad]
        sources: Future[tuple[SourceFile, ...]] = self.shards.client.submit(sources_of, names)
        return sources

    def left_out(self) -> dict[str, Any]:
        """The shards left out, for a JSON object that is otherwise that of the others."""
        every = (item for each in (self, *self.others) for item in sorted(each.shards.bad.items()))
        bad = [{"shard": name, "reason": reason} for name, reason in every]
        return {"left_out_shards": bad} if bad else {}

    def finish(self) -> None:
        """End with another exit code if shards were left out."""
        bad, names = (
            sum(len(getattr(each.shards, what)) for each in (self, *self.others)) for what in ("bad", "names")
        )
        if bad:
            note(f"left out: {bad} of {plural(names, 'shard')}")
            raise typer.Exit(SHARDS_LEFT_OUT)


def _with_counts(dataset: CocoDataset, work: Any) -> tuple[DatasetCounts, FirstItems[str], Any]:
    return DatasetCounts.of(dataset), FirstItems.of(dataset.warnings, most=MAX_TOLD), work(dataset)


def sources_of(files: Sequence[str]) -> tuple[SourceFile, ...]:
    """The digests of files."""
    return tuple(map(SourceFile.of, files))
