"""Which method of attribution to believe: python tools/attribution_table.py measure RUN --name NAME

``measure`` explains true detections of a run on its validation images by every method, judges each map
(:mod:`detect.inspection.judging`) and adds its row to docs/attributions/NAME.csv; rows that are there are not repeated.
``report`` writes docs/attributions.md from all such files: medians over detections with bootstrap intervals, and which
methods are best by them.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from detect.cli.detectors import load_on, spread_evenly
from detect.cli.output import reading_bar
from detect.conventions import ORIGIN_SHIFTS
from detect.errors import ConfigError
from detect.evaluation.precision_recall import USUAL_SCORE
from detect.files import write_whole
from detect.inspection.attribution import METHODS, Settings, attribute
from detect.inspection.judging import SAME, Judgement, judge
from detect.inspection.patterns import Patterns, learn_patterns
from detect.inspection.random_weights import random_weights
from detect.inspection.removal import NUM_STEPS, PATCH_PX, RemovalCurves, removal_curves
from detect.inspection.targets import Found, Scalar, answer_of, find_answers
from detect.loading.dataset import DetectionData, Sample
from detect.ops.boxes import pairwise_iou
from detect.training.checkpoints import TrainedDetector
from detect.training.inputs import Inputs, read_inputs

NUM_DETECTIONS = 60
IMAGES_SEED, SEED = 0, 0
TRUE_IOU = 0.5  # with an annotated box: what is explained is a true detection
NUM_PATTERN_IMAGES = 64
NUM_PATH_STEPS = 64  # of integrated gradients, whose sum is then within some percent of complete
RESAMPLES, CONFIDENCE = 2000, 0.95
NUMBERS = tuple(field.name for field in fields(Judgement))
COLUMNS = ("name", "run", "image", "score", "method", *NUMBERS)
NO_METHOD = "random order"
MEASURES = {  # title, whether low is good, the number of chance
    "deletion": ("deletion", True, "random_deletion"),
    "insertion": ("insertion", False, "random_insertion"),
    "energy_inside": ("energy inside", False, "box_share"),
    "sanity_correlation": ("random weights", True, None),
    "seconds": ("seconds", True, None),
}
Table = dict[str, Float64[ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class Case:
    """One true detection: its image, the answer that is explained, and its place."""

    file_name: str
    image: Float[Tensor, "d h w"]
    found: Found
    scalar: Scalar


def measure(trained: TrainedDetector, inputs: Inputs, options: argparse.Namespace) -> None:
    """Judge every method on every detection, and write the rows after each detection."""
    path = options.output / "attributions" / f"{options.name}.csv"
    rows = read_rows(path)
    done = {(row["image"], row["method"]) for row in rows}
    patterns = _both_patterns(trained, inputs.train) if any(map(_needs_patterns, options.methods)) else None
    cases = list(_cases(trained, inputs.val or inputs.train, options.detections))
    print(f"{len(cases)} detections, one of an image, {len(options.methods)} methods")
    with reading_bar() as on_progress:
        for number, case in enumerate(cases):
            wanted = [method for method in options.methods if (case.file_name, method) not in done]
            for place, (method, judgement) in enumerate(_judged(trained, case, wanted, patterns), 1):
                own = {"name": options.name, "run": Path(options.run).name, "image": case.file_name}
                numbers = {name: f"{value:.6g}" for name, value in asdict(judgement).items()}
                rows.append({**own, "score": f"{case.found.score:.4f}", "method": method, **numbers})
                on_progress("explaining", number * len(options.methods) + place, len(cases) * len(options.methods))
            write_rows(path, rows)


def _cases(trained: TrainedDetector, data: DetectionData, count: int) -> Iterator[Case]:
    """The detection of the highest score that is true in each image, of images in a random order of a fixed seed."""
    least = trained.best_threshold or USUAL_SCORE
    for place in np.random.default_rng(IMAGES_SEED).permutation(len(data)).tolist():
        if count == 0:
            return
        sample = data[place]
        height, width = sample.image_hw.tolist()
        answers = find_answers(trained.model, sample.image, (height, width))
        shift = ORIGIN_SHIFTS[trained.config.data.pixel_origin]
        true = next((each for each in answers if each.score >= least and is_true(each, sample, shift)), None)
        if true is None:
            continue
        count -= 1
        answer = "class" if trained.task == "boxes" else "peak"
        input_hw = (sample.image.shape[1], sample.image.shape[2])
        scalar = answer_of(trained.model, true, answer, image_hw=input_hw)
        yield Case(data.dataset.images.file_names[sample.image_row], sample.image, true, scalar)


def is_true(found: Found, sample: Sample, shift: float) -> bool:
    """Whether a box of the same class overlaps enough, or a point of the same type lies in the peak's square.

    ``shift`` makes the sample's points continuous.
    """
    x0, y0, x1, y1 = found.box
    if len(sample.points):
        own = sample.points[(sample.types == found.label) & (sample.visibility > 0)] + shift
        inside = (own > torch.tensor([x0, y0])) & (own < torch.tensor([x1, y1]))
        return bool(inside.all(dim=1).any())
    boxes = sample.targets.boxes[sample.targets.classes == found.label]
    return bool((pairwise_iou(torch.tensor([found.box]), boxes) >= TRUE_IOU).any())


def _both_patterns(trained: TrainedDetector, data: DetectionData) -> tuple[Patterns, Patterns]:
    """The patterns of the network, and those with the random weights of :func:`judge`, learned from the same images."""
    data.augment = None
    batches = [data[place].image[None] for place in spread_evenly(range(len(data)), NUM_PATTERN_IMAGES)]
    own = learn_patterns(trained.model, batches)
    with random_weights(trained.model, seed=SEED):
        return own, learn_patterns(trained.model, batches)


def _needs_patterns(method: str) -> bool:
    return method.startswith("pattern")


def _judged(
    trained: TrainedDetector, case: Case, methods: Sequence[str], patterns: tuple[Patterns, Patterns] | None
) -> Iterator[tuple[str, Judgement]]:
    """The judgement of each method that can be applied."""
    chance: RemovalCurves | None = None
    own, of_random = patterns or (None, None)
    for method in methods:

        def explain(learned: Patterns | None = of_random, method: str = method) -> Tensor:
            return attribute(
                trained.model, case.scalar, case.image, method, Settings(patterns=learned, num_steps=NUM_PATH_STEPS)
            )

        started = time.process_time()
        try:
            heatmap = explain(own)
        except ValueError as error:
            print(f"{method} cannot explain {case.file_name}: {error}")
            continue
        seconds = time.process_time() - started
        if chance is None:
            noise = torch.rand(heatmap.shape, generator=torch.Generator().manual_seed(SEED))
            chance = removal_curves(case.scalar, case.image, noise, seed=SEED)
        judged = (trained.model, case.scalar, case.image, heatmap, case.found.box, explain)
        yield method, replace(judge(*judged, seed=SEED, by_chance=chance), seconds=seconds)


def report(rows: Sequence[Mapping[str, str]]) -> str:
    """The document: a table for each name, and what follows from it."""
    lines = [
        "# Which attribution to believe\n",
        "Each method explains the class logit, or the peak's logit, of the same true detections: in each image of a random "
        "order (seed 0) the one of the highest score that has an annotated box of the same class with an IoU of at least "
        f"{TRUE_IOU:g}, or a point. Medians over detections, since deletion and insertion are ratios of which some have a "
        f"small denominator; in brackets {CONFIDENCE:.0%} bootstrap intervals. Made by tools/attribution_table.py.\n",
        f"- deletion, insertion: areas under the curves of Petsiuk et al. 2018, over patches of {PATCH_PX} x {PATCH_PX} "
        f"pixels replaced by a blur with a sigma of an eighth of the image, in {NUM_STEPS} steps; a low deletion and a high "
        f"insertion are good. `{NO_METHOD}` is chance.",
        "- energy inside: the share of positive attribution inside the box; chance is the box's share of the image.",
        "- random weights: Spearman's correlation of the absolute map with that of random weights, in the box and around "
        f"it. Above {SAME:g} a map shows the image, not what was learned.",
        f"- seconds: of CPU, of one attribution on one thread; integrated gradients with {NUM_PATH_STEPS} steps.\n",
    ]
    sections = {name: [row for row in rows if row["name"] == name] for name in sorted({row["name"] for row in rows})}
    tables = {name: methods_table(own) for name, own in sections.items()}
    lines += [*_in_short(tables), ""]
    for name, own in sections.items():
        lines += [*_section(name, own, tables[name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _in_short(tables: Mapping[str, Mapping[str, Table]]) -> list[str]:
    """Which methods pass every test, for each run and for all, those with the largest insertion first."""
    sound = {name: sound_methods(own) for name, own in tables.items()}
    common = [method for method in next(iter(sound.values())) if all(method in each for each in sound.values())]
    lines = [
        "## In short\n",
        f"A method passes if its maps are better than chance by deletion, insertion and energy inside, below {SAME:g} with "
        "random weights, all with its interval, and defined for half of the detections. The largest insertion first:\n",
    ]
    lines += [f"- {name}: {', '.join(each) or 'none'}." for name, each in sound.items()]
    return [*lines, f"- all: {', '.join(common) or 'none'}."] if len(sound) > 1 else lines


def sound_methods(tables: Mapping[str, Table]) -> list[str]:
    """The methods that are better than chance by all measures, and different with random weights; best insertion first."""
    found = []
    for method, own in tables.items():
        margins = [(1 if low else -1) * (own[m] - own[chance]) for m, (_, low, chance) in MEASURES.items() if chance]
        margins.append(own["sanity_correlation"] - SAME)
        if all(is_defined(margin) and interval(margin)[2] < 0 for margin in margins):
            found.append(method)
    return sorted(found, key=lambda method: -float(np.nanmedian(tables[method]["insertion"])))


def is_defined(values: Float64[ndarray, " n"]) -> bool:
    """Whether at least half of the values are numbers."""
    return bool(np.isfinite(values).mean() >= 0.5)


def _section(name: str, rows: Sequence[Mapping[str, str]], tables: Mapping[str, Table]) -> list[str]:
    first = next(iter(tables.values()))
    count = len(first["deletion"])
    runs = ", ".join(f"`{run}`" for run in dict.fromkeys(row["run"] for row in rows))
    lines = [
        f"## {name}\n",
        f"{count} detections of {runs}, one of an image, scores from {min(float(row['score']) for row in rows):.2f}.\n",
        "| method | " + " | ".join(title for title, _, _ in MEASURES.values()) + " |",
        "|---|" + "---:|" * len(MEASURES),
    ]
    chance = [interval_text(first[other]) if other else "-" for _, _, other in MEASURES.values()]
    lines.append(f"| {NO_METHOD} | {' | '.join(chance)} |")
    order = sorted(tables, key=lambda method: -float(np.nanmedian(tables[method]["insertion"])))
    for method in order:
        cells = [interval_text(tables[method][each]) for each in MEASURES]
        lines += [f"| {method} | {' | '.join(cells)} |"]
    sentences = [*conclusions(tables), _slow(tables)]
    return [*lines, "", *(f"- {sentence}" for sentence in sentences)]


def _slow(tables: Mapping[str, Table]) -> str:
    slow = {method: float(np.median(own["seconds"])) for method, own in tables.items()}
    over = ", ".join(f"{method} ({seconds:.2g})" for method, seconds in slow.items() if seconds > 1)
    return f"seconds: under one for all{f' but {over}' if over else ''}."


def methods_table(rows: Sequence[Mapping[str, str]]) -> dict[str, Table]:
    """The numbers of each method, of the images that all methods explained, in the same order."""
    by_method: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["image"]] = row
    images = [
        image
        for image in dict.fromkeys(row["image"] for row in rows)
        if all(image in own for own in by_method.values())
    ]
    if not images:
        raise ConfigError("no image that all methods have explained")
    return {
        method: {number: np.array([float(own[image][number]) for image in images]) for number in NUMBERS}
        for method, own in by_method.items()
    }


def conclusions(tables: Mapping[str, Table]) -> list[str]:
    """What follows: for each measure the best method, those that are no worse, and those that are no better than chance."""
    found = []
    for measure, (title, low, chance) in MEASURES.items():
        if measure == "seconds":
            continue
        sign = 1 if low else -1
        columns = {method: sign * own[measure] for method, own in tables.items() if is_defined(own[measure])}
        best = min(columns, key=lambda method: float(np.nanmedian(columns[method])))
        equal = [m for m in columns if m != best and not interval(columns[m] - columns[best])[1] > 0]
        value = float(np.nanmedian(tables[best][measure]))
        text = f"{title}: {'lowest' if low else 'highest'} for {best}, {value:.3f}"
        text += f"; not separable from it: {', '.join(equal)}." if equal else "; it is separable from all others."
        if chance:
            useless = [m for m in columns if not interval(columns[m] - sign * tables[m][chance])[2] < 0]
            text += f" No better than chance: {', '.join(useless)}." if useless else " All are better than chance."
        else:
            same = [m for m in columns if float(np.nanmedian(tables[m][measure])) > SAME]
            text += f" Above {SAME:g}, so not to be trusted here: {', '.join(same)}." if same else ""
        rare = [method for method in tables if method not in columns]
        found.append(text + (f" Undefined for most detections: {', '.join(rare)}." if rare else ""))
    return found


def interval(values: Float64[ndarray, " n"]) -> tuple[float, float, float]:
    """The median of the values that are defined, and the ends of its percentile interval over resampled values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(values[draws], axis=1), [tail, 1 - tail])
    return float(np.median(values)), float(low), float(high)


def interval_text(values: Float64[ndarray, " n"]) -> str:
    """A median with its interval, and how many values are not defined.

    >>> interval_text(np.array([0.5, 0.5, np.nan]))
    '0.500 (0.500 to 0.500; 1 undefined)'
    """
    missing = int((~np.isfinite(values)).sum())
    if missing == len(values):
        return "-"
    value, low, high = interval(values)
    return f"{value:.3f} ({low:.3f} to {high:.3f}{f'; {missing} undefined' if missing else ''})"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, none if there is no table yet."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.exists() else []


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whole."""
    stream = io.StringIO()
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(path, stream.getvalue())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("measure", "report"))
    parser.add_argument("run", nargs="?", help="checkpoint or folder of a run")
    parser.add_argument("--name", help="of the rows and their section; default: the run's folder")
    parser.add_argument("--detections", type=int, default=NUM_DETECTIONS, help=f"default: {NUM_DETECTIONS}")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help="default: all")
    parser.add_argument("--output", "-o", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    if options.what == "report":
        rows = [row for path in sorted((options.output / "attributions").glob("*.csv")) for row in read_rows(path)]
        if not rows:
            parser.error(f"no rows in {options.output / 'attributions'}: run measure first")
        write_whole(options.output / "attributions.md", report(rows))
        return
    unknown = sorted(set(options.methods) - set(METHODS))
    if unknown or not options.run or options.detections < 1:
        parser.error(f"measure needs RUN and known methods; unknown: {', '.join(unknown) or 'none'}")
    options.name = options.name or Path(options.run).resolve().name
    trained = load_on(options.run, "cpu")
    with reading_bar() as on_progress:
        inputs = read_inputs(trained.config, on_progress=on_progress)
    measure(trained, inputs, options)


if __name__ == "__main__":
    main()
