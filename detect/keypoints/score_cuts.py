"""The ways to cut predictions by their score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class ScoreCuts:
    """Cut 0 keeps no prediction, each further one also those of the next lower score, and the last keeps all.

    Predictions of one score stay together, so their order means nothing.

    >>> cuts = ScoreCuts.of(np.array([0.5, 0.9, 0.5]))
    >>> cuts.num_kept, cuts.totals(np.array([1.0, 1.0, 0.0])), cuts.threshold(1)
    (array([0, 1, 3]), array([0., 1., 2.]), 0.7)
    """

    scores: Float[ndarray, " n"]  # falling
    order: Int64[ndarray, " n"]
    num_kept: Int64[ndarray, " k"]

    @classmethod
    def of(cls, scores: Float[ndarray, " n"]) -> ScoreCuts:
        """The cuts of predictions in any order.

        Raises:
            ValueError: scores that are not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError("scores that are not finite")
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        last = np.flatnonzero(falling[1:] != falling[:-1]) + 1  # how many precede each fall
        ends = last if not len(scores) else np.append(last, len(scores))
        return cls(falling, order.astype(np.int64), np.concatenate([[0], ends]).astype(np.int64))

    def totals(self, values: Shaped[ndarray, " n"]) -> Float[ndarray, " k"]:
        """The sum of the values of the predictions that each cut keeps."""
        return np.concatenate([[0.0], np.cumsum(values[self.order], dtype=np.float64)])[self.num_kept]

    def threshold(self, cut: int) -> float:
        """A score that the kept predictions exceed and the others do not reach.

        Midway between them; of the first and the last cut a step of single precision beyond, and 0 where there are no
        predictions. Where there is no number between two scores, it is the higher one.
        """
        if not len(self.scores):
            return 0.0
        count = int(self.num_kept[cut])
        if count == 0:
            return float(np.nextafter(np.float32(self.scores[0]), np.float32(np.inf)))
        if count == len(self.scores):
            return float(np.nextafter(np.float32(self.scores[-1]), np.float32(-np.inf)))
        above, below = self.scores[count - 1], self.scores[count]
        middle = below + (above - below) / 2
        return float(middle if middle > below else above)
