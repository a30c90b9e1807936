"""The learning rate of every step, as a function of the step alone: a resumed run has nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Sequence

DROP = 0.1  # of the step rule, at each milestone


def rate_factor(
    step: int,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    milestones: Sequence[float] = (2 / 3, 8 / 9),
) -> float:
    """What the highest learning rate is multiplied by at a step, counted from 0.

    It rises linearly over the warm-up (Goyal et al. 2017, section 2.2), to 1 at its last step. Then it falls to 0 along half
    a cosine (Loshchilov and Hutter 2017, equation 5), or to a tenth at each milestone, a share of all steps.

    >>> [round(rate_factor(step, 10, warmup_steps=2), 3) for step in range(10)]
    [0.5, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038, 0.0]
    >>> [round(rate_factor(step, 4, schedule="step", milestones=(0.5, 0.75)), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in {"cosine", "step"}:
        raise ValueError(f"schedule is 'cosine' or 'step', got {schedule!r}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "step":
        return float(DROP ** sum(step >= share * num_steps for share in milestones))
    done = (step + 1 - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
