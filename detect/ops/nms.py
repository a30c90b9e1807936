"""Non-maximum suppression: among boxes that overlap too much, only the one with the highest score stays.

The greedy rule, computed exactly: in falling order of score, with the lower index first among equal scores, a box stays
unless a box that already stays overlaps it with IoU > threshold. IoU is computed in the precision of the boxes and compared
in double, as torchvision's CPU kernel does. Boxes are (x0, y0, x1, y1) in continuous pixels; one without extent overlaps
nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from detect.ops.boxes import pairwise_iou

BLOCK_ROWS = 128  # boxes settled together: larger blocks waste IoU on suppressed boxes, smaller ones make more steps


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], *, iou_threshold: float) -> Int64[Tensor, " k"]:
    """Indices of the boxes that stay, in falling order of score.

    Uses torchvision's compiled kernel if it is loaded for the device of the boxes, else :func:`class_nms`.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [5.0, 0.0, 15.0, 10.0]])
    >>> nms(boxes, torch.tensor([0.8, 0.9, 0.7]), iou_threshold=0.5)  # IoU 90 / 100 and 45 / 145
    tensor([1, 2])

    Raises:
        ValueError: the threshold is not between 0 and 1, or there is not one value for each box.
    """
    if _has_kernel(boxes, scores):
        _check(iou_threshold, boxes.shape[:1], scores=scores)
        return torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    return class_nms(boxes, scores, classes=torch.zeros_like(scores, dtype=torch.int64), iou_threshold=iou_threshold)


def class_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], *, classes: Int64[Tensor, " n"], iou_threshold: float
) -> Int64[Tensor, " k"]:
    """:func:`nms` within each class: boxes of different classes do not suppress each other.

    Boxes are sorted by class, so no coordinate is shifted and rounded. In the worst case IoU is computed for every pair of
    a class, in memory O(n); a suppressed box takes no further part.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 8.0]])
    >>> class_nms(boxes, torch.tensor([0.7, 0.8, 0.9]), classes=torch.tensor([5, 3, 5]), iou_threshold=0.5)
    tensor([2, 1])
    """
    _check(iou_threshold, boxes.shape[:1], scores=scores, classes=classes)
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[classes[by_score].argsort(stable=True)]
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[order[_settle(boxes[order], classes[order], iou_threshold)]] = True
    return by_score[stays[by_score]]


def nms_mask(
    boxes: Float[Tensor, "b n 4"], classes: Int64[Tensor, "b n"], *, valid: Bool[Tensor, "b n"], iou_threshold: float
) -> Bool[Tensor, "b n"]:
    """Which boxes stay, for boxes already in falling order of score; boxes that are not valid take no part.

    No shape depends on the data, as export and compilation need. The boxes that stay are the only solution of "a valid box
    stays unless an earlier one that stays overlaps it". The rule is repeated until nothing changes, which takes at most as
    many rounds as the longest chain of overlaps. Memory is O(b n^2).

    >>> boxes = torch.tensor([[[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]]])
    >>> classes, valid = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    >>> nms_mask(boxes, classes, valid=valid, iou_threshold=0.5)
    tensor([[ True, False,  True]])
    """
    _check(iou_threshold, boxes.shape[:2], classes=classes, valid=valid)
    iou = pairwise_iou(boxes, boxes)
    of_a_class = classes[:, :, None] == classes[:, None]
    suppresses = (
        ((iou > _compared(iou_threshold, iou.dtype)) & of_a_class).triu(diagonal=1).float()
    )  # the box of a row that of a column, if it stays

    def unsettled(stays: Tensor, before: Tensor) -> Tensor:
        return (stays != before).any()

    def apply_rule(stays: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        fallen = torch.matmul(stays.float()[:, None], suppresses)[:, 0] > 0
        return valid & ~fallen, stays.clone()  # the body of while_loop may not return its input

    state = (valid.clone(), torch.zeros_like(valid))
    if torch.compiler.is_compiling():
        return while_loop(unsettled, apply_rule, state)[0]  # type: ignore[no-untyped-call]
    while unsettled(*state):
        state = apply_rule(*state)
    return state[0]


def _settle(boxes: Float[Tensor, "n 4"], classes: Int64[Tensor, " n"], iou_threshold: float) -> Int64[Tensor, " k"]:
    """Places of the boxes that stay, for boxes sorted by class and by falling score within a class."""
    ends = torch.searchsorted(classes, classes, right=True).cpu().numpy()  # where the class of each box ends
    rest = np.arange(len(boxes))
    staying = [rest[:0]]
    while len(rest):
        rows = rest[:BLOCK_ROWS]
        reach = np.searchsorted(rest, ends[rows])  # boxes of the rest up to the end of a row's class
        columns = rest[: reach[-1]]
        candidates = boxes[torch.from_numpy(columns).to(boxes.device)]
        overlaps = pairwise_iou(candidates[: len(rows)], candidates)
        stays, fallen = _settle_rows(overlaps > _compared(iou_threshold, overlaps.dtype), reach)
        staying.append(rows[stays])
        rest = np.concatenate([columns[len(rows) :][~fallen[len(rows) :]], rest[len(columns) :]])
    return torch.from_numpy(np.concatenate(staying)).to(boxes.device)


def _settle_rows(
    overlap: Bool[Tensor, "r m"], reach: Int64[np.ndarray, " r"]
) -> tuple[Bool[np.ndarray, " r"], Bool[np.ndarray, " m"]]:
    """Which rows stay, and which columns (the rows and the boxes after them) a row that stays suppresses.

    Each row of the matrix is one long integer with a bit for each column up to its reach, so a row costs one "or".
    """
    rows = np.packbits(overlap.cpu().numpy(), axis=1, bitorder="little")
    stays = np.zeros(len(rows), bool)
    fallen = 0
    for index, (row, columns) in enumerate(zip(rows, reach.tolist(), strict=True)):
        if not fallen >> index & 1:
            stays[index] = True
            fallen |= int.from_bytes(row.tobytes(), "little") & ((1 << columns) - 1)
    packed = np.frombuffer(fallen.to_bytes(rows.shape[1], "little"), np.uint8)
    return stays, np.unpackbits(packed, count=overlap.shape[1], bitorder="little").astype(bool)


def _has_kernel(boxes: Tensor, scores: Tensor) -> bool:
    """Whether torchvision's compiled kernel is loaded for these tensors; a stand-in in Python does not count."""
    if not hasattr(torch.ops.torchvision, "nms") or boxes.dtype != scores.dtype or boxes.dtype.itemsize < 4:
        return False
    key = torch._C._dispatch_key_for_device(boxes.device.type)
    return torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", key)


def _compared(iou_threshold: float, dtype: torch.dtype) -> float:
    """The largest number of this precision up to the threshold: exactly the same values are above either."""
    bits = 24 if dtype == torch.float32 else 53
    mantissa, exponent = math.frexp(iou_threshold)
    return math.ldexp(math.floor(math.ldexp(mantissa, bits)), exponent - bits)


def _check(iou_threshold: float, shape: torch.Size, **columns: Tensor) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"need 0 <= iou_threshold <= 1, got {iou_threshold=}")
    for name, column in columns.items():
        if column.shape != shape:
            raise ValueError(f"need {name} of shape {tuple(shape)}, one for each box, got {tuple(column.shape)}")
