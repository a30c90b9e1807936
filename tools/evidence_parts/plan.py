"""The plan of trainings: datasets, variants, epochs, seeds; and estimates of their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

BOXES, POINTS = "boxes", "points"
SEEDS = (0, 1, 2)
UNTRAINED_SECONDS = 30.0
AROUND_SECONDS = 20.0  # reading, fitting anchors, validations
REFERENCE = "fitted"  # what box variants are compared with
HEATMAP, SLOTS, SORTED_SLOTS = "heatmap", "slots", "slots-sorted"
UNBALANCED, BALANCED, BANDED = "model.positive_weights=none", "-balanced", "-banded"
ALIGNED = ("model.assigner=task_aligned", "model.class_loss=quality_focal")
SIMOTA = ("model.assigner=simota", "model.class_loss=quality_focal")
HARD = "model.nms=hard"
AS_POINTS = "model.anchors=points"
OTSU_BOXES, OTSU_POINTS, BLOBS, FREE = "otsu", "otsu-points", "blobs", "free-predictors"


@dataclass(frozen=True)
class Variant:
    """One variant; ``epoch_seconds`` is a first guess, on one core, until runs have finished."""

    name: str
    words: str
    task: str = BOXES
    trained: bool = True
    epoch_seconds: float = 8.5
    anchors: str = ""
    """The variant with the same anchors; by default its own."""
    overrides: tuple[str, ...] = (UNBALANCED,)
    """Fields of the configuration."""


def weighed(variant: str) -> bool:
    """Whether the positives of a variant are weighed, by category or also by size."""
    return variant.endswith((BALANCED, BANDED))


def balanced(variant: Variant) -> Variant:
    """The same, with positive anchors weighed by category."""
    words = f"{variant.words}; positives weighed by category"
    overrides = tuple(each for each in variant.overrides if each != UNBALANCED)
    anchors = variant.anchors or variant.name
    return replace(variant, name=f"{variant.name}{BALANCED}", words=words, anchors=anchors, overrides=overrides)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("default", "RetinaNet's anchors, 32 to 512 px, nine a cell, P3 to P7"),
        Variant(REFERENCE, "fitted, free shapes, three a cell"),
        Variant("by-size", "fitted, three a cell, each level for instances of at most four of its strides"),
        Variant("single", "fitted, one a cell"),
        Variant(FREE, "three free predictors a cell; the one with the highest predicted IoU is responsible"),
        Variant("stride-rule", "sizes of 2, 2.5 and 3.2 strides by three ratios, nine a cell"),
        Variant("kmeans", "nine k-means shapes by IoU, each on the level of its size"),
        Variant(
            "atss", "fitted, three a cell, by ATSS", anchors=REFERENCE, overrides=(UNBALANCED, "model.assigner=atss")
        ),
        Variant(
            "aligned",
            "fitted, three a cell, by task-aligned assignment",
            anchors=REFERENCE,
            overrides=(UNBALANCED, *ALIGNED),
        ),
        Variant(
            "points-aligned",
            "a point in each cell, by task-aligned assignment",
            overrides=(AS_POINTS, UNBALANCED, *ALIGNED),
        ),
        Variant("points-simota", "a point in each cell, by SimOTA", overrides=(AS_POINTS, UNBALANCED, *SIMOTA)),
        Variant(
            f"{REFERENCE}{BANDED}",
            "fitted, three a cell; positives weighed by thirds of each category's areas",
            anchors=REFERENCE,
        ),
        Variant(OTSU_BOXES, "no learning: blur, Otsu, connected components", trained=False),
        Variant(HEATMAP, "Gaussians at stride 2, local maxima above a threshold", POINTS, epoch_seconds=5.0),
        Variant(SLOTS, "ten fixed slots of presence and coordinates", POINTS, epoch_seconds=5.0),
        Variant(SORTED_SLOTS, "the same, with instances sorted from left to right", POINTS, epoch_seconds=5.0),
        Variant(OTSU_POINTS, "no learning: blur, Otsu, connected components", POINTS, trained=False),
        Variant(BLOBS, "no learning: Laplacian of Gaussian of one scale, above a threshold", POINTS, trained=False),
    )
}
TRAINED_BOXES = tuple(name for name, each in VARIANTS.items() if each.task == BOXES and each.trained)
WEIGHED = tuple(name for name in TRAINED_BOXES if name not in {FREE, f"{REFERENCE}{BANDED}"})
CHOSEN = tuple(f"{name}{BALANCED}" for name in ("default", REFERENCE, "stride-rule", "points-aligned"))
"""Variants that are also trained for longer, and from a pretrained backbone."""
VARIANTS |= {each.name: each for each in (balanced(VARIANTS[name]) for name in WEIGHED)}
EXPLORED = ("aligned", f"aligned{BALANCED}", f"by-size{BALANCED}", f"{REFERENCE}{BANDED}")
"""Variants that are trained with one seed only: a first look, without a deviation."""


@dataclass(frozen=True)
class Dataset:
    """A dataset and the trainings on it; paths of configurations are relative to the checkout."""

    name: str
    config: Path
    overrides: tuple[str, ...]
    strides: tuple[int, ...]
    """Strides of the levels of fitted anchors."""
    rule_strides: tuple[int, ...]
    """Strides of the levels of the stride rule."""
    budgets: tuple[tuple[str, int], ...]
    """(variant, epochs)."""
    landmarks: Path | None = None
    """The configuration of landmark runs."""
    epoch_factor: float = 1.0
    """Seconds of an epoch, relative to the guesses of the variants."""
    explored_epochs: tuple[int, ...] = ()
    """Budgets of epochs that are trained with one seed only, whatever the variant."""

    def explores(self, variant: str, epochs: int) -> bool:
        """Whether a trained variant has one seed only."""
        return variant in EXPLORED or epochs in self.explored_epochs


NUCLEI = Dataset(
    "nuclei",
    Path("configs/nuclei_retinanet.yaml"),
    (HARD,),
    strides=(4, 8, 16),
    rule_strides=(4, 8, 16, 32),
    budgets=(
        *((name, 20) for name in TRAINED_BOXES),
        *((name, 45) for name in ("default", REFERENCE, FREE)),
        (OTSU_BOXES, 0),
        (HEATMAP, 40),
        (SLOTS, 40),
        (SORTED_SLOTS, 40),
        (OTSU_POINTS, 0),
        (BLOBS, 0),
    ),
    landmarks=Path("configs/nuclei_landmarks.yaml"),
)
BCCD = Dataset(
    "bccd",
    Path("configs/bccd_retinanet.yaml"),
    (
        *(
            "data.resize=letterbox:320",
            "data.val_share=0.25",
            "data.repeat_threshold=null",
        ),  # every 4th image is held out
        *("optimisation.batch_size=16", HARD),
    ),
    strides=(8, 16, 32, 64),
    rule_strides=(8, 16, 32, 64),
    budgets=(
        *((name, 12) for name in (*TRAINED_BOXES, *(f"{name}{BALANCED}" for name in WEIGHED))),
        *((name, 36) for name in CHOSEN),
    ),
    epoch_factor=2.2,
    explored_epochs=(36,),
)
PRETRAINED = replace(
    BCCD,
    name="bccd-lite0",
    overrides=(
        *BCCD.overrides,
        *(
            "model.backbone=lite0",
            "model.pretrained=true",
            "model.freeze_stride=4",
            "optimisation.learning_rate=1.0e-3",
        ),
    ),
    budgets=tuple((name, 12) for name in CHOSEN),
    epoch_factor=4.0,
    explored_epochs=(12,),
)
DATASETS = (NUCLEI, BCCD, PRETRAINED)


@dataclass(frozen=True, order=True)
class Run:
    """One training, or one tuning of an untrained variant."""

    dataset: str
    variant: str
    epochs: int
    seed: int

    @property
    def key(self) -> str:
        """The name of its files."""
        return f"{self.dataset}-{self.variant}-{self.epochs}-{self.seed}"


def planned_runs(datasets: Sequence[Dataset], *, seeds: Sequence[int] = SEEDS, only: Sequence[str] = ()) -> list[Run]:
    """All runs, ordered by seed, so that every variant has one run before any has two.

    Args:
        datasets: to run on.
        seeds: of the runs; explored and untrained variants use seed 0 only.
        only: ``dataset/variant`` or ``dataset``; by default all.
    """
    runs = []
    for number, seed in enumerate(seeds):
        for dataset in datasets:
            for name, epochs in dataset.budgets:
                if only and dataset.name not in only and f"{dataset.name}/{name}" not in only:
                    continue
                if not VARIANTS[name].trained:
                    runs += [Run(dataset.name, name, epochs, 0)] if number == 0 else []
                elif seed == 0 or not dataset.explores(name, epochs):
                    runs.append(Run(dataset.name, name, epochs, seed))
    return runs


def with_images(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with its images in a folder."""
    return replace(dataset, overrides=(*dataset.overrides, f"data.images={folder}"))


def with_epochs(dataset: Dataset, epochs: int) -> Dataset:
    """Replace the epochs of all trained variants."""
    budgets = ((name, epochs if VARIANTS[name].trained else 0) for name, _ in dataset.budgets)
    return replace(dataset, budgets=tuple(dict.fromkeys(budgets)))


def estimated_seconds(run: Run, dataset: Dataset, known: Mapping[tuple[str, str], float]) -> float:
    """Estimate the seconds of a run, with its validations.

    Args:
        run: the run to estimate.
        dataset: its dataset.
        known: seconds per epoch by dataset and variant, from finished runs.
    """
    variant = VARIANTS[run.variant]
    if not variant.trained:
        return UNTRAINED_SECONDS
    seconds = known.get((run.dataset, run.variant), variant.epoch_seconds * dataset.epoch_factor)
    return AROUND_SECONDS + run.epochs * seconds
