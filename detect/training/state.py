"""Where a run is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What came of a run."""

    folder: Path
    epochs: int
    steps: int
    metrics: Mapping[str, float]
    """Of the last validation; empty without."""
    best: float | None
    """The best main metric: AP of boxes, F1 at 5 pixels of landmarks."""
    stopped_early: bool
    seconds: float
    is_main: bool
    """Whether this is the process that writes and speaks."""
    num_processes: int


@dataclass
class RunState:
    """Where a run is; plain values, as checkpoints keep them."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Steps of the epoch that are done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the losses of these."""
    epoch_losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    validations_since_best: int = 0
    told_flat: bool = False
    stopped: bool = False

    def is_out_of(self, patience: int | None) -> bool:
        """Whether so many validations have gone by without a better one; never where there is no limit."""
        return patience is not None and self.validations_since_best >= patience
