"""What a fit makes as high as it can: the mean over boxes of what they gain, by shape alone or placed on the grid."""

from __future__ import annotations

from dataclasses import dataclass

from detect.anchors.shape_gain import ShapeGain
from detect.errors import FitError

UPPER_BOUND = "_upper_bound"  # after the name of a score: what no anchors in these numbers exceed


@dataclass(frozen=True)
class Objective:
    """A gain (see :meth:`ShapeGain.parse`), and whether anchors lie where the grid puts them or share the box's centre."""

    gain: str = "iou"
    placed: bool = False

    @classmethod
    def parse(cls, text: str, *, placed: bool = False) -> Objective:
        """From ``shape`` or ``placed`` (mean IoU), ``shape:GAIN``, ``placed:GAIN`` or ``GAIN``, placed or not as is said.

        >>> Objective.parse("shape"), Objective.parse("recall@0.5", placed=True)
        (Objective(gain='iou', placed=False), Objective(gain='recall@0.5', placed=True))

        Raises:
            FitError: the text is none of these.
        """
        kind, colon, gain = text.partition(":")
        if not colon:
            kind, gain = (text, "iou") if text in {"shape", "placed"} else ("placed" if placed else "shape", text)
        try:
            if kind not in {"shape", "placed"}:
                raise ValueError(f"objective {text!r} begins with neither shape nor placed")
            ShapeGain.parse(gain)
        except ValueError as error:
            raise FitError(str(error)) from None
        return cls(gain, kind == "placed")

    def score_name(self, *, weighted: bool = False, priced: bool = False) -> str:
        """The name of the score, as it stands in ``anchors.yaml``.

        >>> Objective("recall@0.5", placed=True).score_name(priced=True)
        'placed_recall_at_0.5_less_cost'
        """
        gain = ShapeGain.parse(self.gain)
        name = {0.0: "average_iou", 1.0: f"recall_at_{gain.threshold:g}"}.get(gain.recall_share, "objective")
        parts = ["weighted"] * weighted + ["placed"] * self.placed + [name] + ["less_cost"] * priced
        return "_".join(parts)
