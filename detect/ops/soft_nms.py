"""Soft non-maximum suppression: boxes that overlap a better one lose score instead of being removed (Bodla et al. 2017).

In each round the box with the highest score is taken, the first of equals, and the scores of the boxes left in its class are
multiplied by a factor of their IoU with it:

``linear``
    1 - IoU where the IoU is at least the threshold, else 1 (equation 2).
``gaussian``
    exp(-IoU**2 / sigma), for every IoU (equation 3).

A box whose score is no longer above its lowest score is removed, and decays no other. Boxes are (x0, y0, x1, y1) in
continuous pixels; one without extent overlaps nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from detect.ops.boxes import box_area, intersection_area

DECAYS = ("linear", "gaussian")

Scores = Float[Tensor, "b n"]
State = tuple[Tensor, Tensor, Tensor, Tensor]


def soft_nms(
    boxes: Float[Tensor, "b n 4"],
    scores: Scores,
    classes: Int64[Tensor, "b n"],
    *,
    decay: str,
    lowest: Scores | float = 0.0,
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    num_rounds: int,
) -> tuple[Int64[Tensor, "b k"], Float[Tensor, "b k"]]:
    """The places of the boxes taken, and their decayed scores, in falling order; 0 where none was left to take.

    No shape depends on the data. Time is O(k n) for each image, memory O(n); an exported graph stops when no box is left.

    >>> boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 30.0, 10.0]]])  # IoU 1 / 2
    >>> scores, classes = torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3, dtype=torch.int64)
    >>> soft_nms(boxes, scores, classes, decay="linear", num_rounds=3)
    (tensor([[0, 2, 1]]), tensor([[0.9000, 0.7000, 0.4000]]))

    Args:
        scores: at least 0; a box with 0 takes no part.
        classes: boxes of different classes do not meet.
        decay: ``"linear"`` or ``"gaussian"``.
        lowest: of each box or of all: scores are above it.
        iou_threshold: of the linear decay.
        sigma: of the Gaussian decay, above 0.
        num_rounds: k, the number of boxes taken; at most n.

    Raises:
        ValueError: ``decay`` is not known.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay is one of {', '.join(DECAYS)}, got {decay!r}")
    area = box_area(boxes)
    tiny = torch.finfo(area.dtype).tiny
    place = torch.arange(scores.shape[1], device=scores.device)
    turn = torch.arange(num_rounds, device=scores.device)

    def any_left(step: Tensor, left: Tensor, places: Tensor, taken: Tensor) -> Tensor:  # noqa: ARG001
        return (step < places.shape[1]) & (left > 0).any()

    def take_best(step: Tensor, left: Tensor, places: Tensor, taken: Tensor) -> State:
        score, best = left.max(dim=1, keepdim=True)  # the first of equals
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))
        intersection = intersection_area(box, boxes)
        iou = intersection / (area.gather(1, best) + area - intersection).clamp(min=tiny)
        factor = (-iou.square() / sigma).exp() if decay == "gaussian" else (1 - iou).where(iou >= iou_threshold, 1)
        meets = classes == classes.gather(1, best)
        decayed = (left * factor).where(meets, left)
        decayed = decayed.where((decayed > lowest) & (place != best), 0)
        now = turn == step
        return step + 1, decayed, best.where(now, places), score.where(now, taken)

    nowhere = torch.zeros_like(turn).expand(scores.shape[0], -1)
    state = (
        torch.zeros((), dtype=torch.int64, device=scores.device),
        scores.where(scores > lowest, 0),
        nowhere.clone(),
        nowhere.to(scores.dtype),
    )
    if torch.compiler.is_compiling():
        return while_loop(any_left, take_best, state)[2:]  # type: ignore[no-untyped-call]
    for _ in range(num_rounds):  # asking whether a box is left would wait for the device
        state = take_best(*state)
    return state[2:]
