"""Non-maximum suppression: of boxes that overlap too much, only the one with the highest score stays.

Greedy and exact: in falling order of score, the lower index first among equal scores, a box stays unless a box that stays
already overlaps it with IoU > threshold. IoU is computed in the precision of the boxes and compared in double, as
torchvision's kernel does on a CPU. Boxes are (x0, y0, x1, y1) in continuous pixels; one without extent overlaps nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from detect.ops.boxes import box_area, intersection_area, pairwise_iou

ROWS_AT_ONCE = 128  # boxes settled together: more waste overlaps on boxes that fall, fewer make many small steps


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], iou_threshold: float) -> Int64[Tensor, " k"]:
    """Indices of the boxes that stay, in falling order of score.

    By torchvision's compiled kernel where that is loaded for the device of the boxes, else as :func:`class_nms`.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [5.0, 0.0, 15.0, 10.0]])
    >>> nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)  # IoU of the first two: 90 / 100; of the last two: 45 / 145
    tensor([1, 2])

    Raises:
        ValueError: the threshold is not between 0 and 1, or there is not one number of each kind for each box.
    """
    if _has_kernel(boxes, scores):
        _check_threshold(iou_threshold)
        _check_lengths(boxes.shape[:1], scores=scores)
        return torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    return class_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def class_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], classes: Int64[Tensor, " n"], iou_threshold: float
) -> Int64[Tensor, " k"]:
    """As :func:`nms`, but boxes of different classes do not meet.

    Sorted by class, so that no coordinate is moved and nothing rounded. At worst as many overlaps are computed as there
    are pairs within classes, in memory O(n); a box that has fallen takes no further part.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 8.0]])
    >>> class_nms(boxes, torch.tensor([0.7, 0.8, 0.9]), torch.tensor([5, 3, 5]), 0.5)
    tensor([2, 1])

    Raises:
        ValueError: the threshold is not between 0 and 1, or there is not one number of each kind for each box.
    """
    _check_threshold(iou_threshold)
    _check_lengths(boxes.shape[:1], scores=scores, classes=classes)
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[classes[by_score].argsort(stable=True)]
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[order[_settle(boxes[order], classes[order], iou_threshold)]] = True
    return by_score[stays[by_score]]


def nms_mask(
    boxes: Float[Tensor, "b n 4"], classes: Int64[Tensor, "b n"], valid: Bool[Tensor, "b n"], iou_threshold: float
) -> Bool[Tensor, "b n"]:
    """Which boxes stay, of boxes that are in falling order of score already; those not valid take no part.

    The form for export and compilation: no shape depends on the data. What stays is the only solution of "a valid box
    stays unless an earlier one that stays overlaps it"; it is found by repeating that rule until nothing changes, after
    at most as many rounds as the longest chain of overlaps. Memory is O(b n^2).

    >>> boxes = torch.tensor([[[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]]])
    >>> nms_mask(boxes, torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool), 0.5)
    tensor([[ True, False,  True]])

    Raises:
        ValueError: the threshold is not between 0 and 1, or there is not one number of each kind for each box.
    """
    _check_threshold(iou_threshold)
    _check_lengths(boxes.shape[:2], classes=classes, valid=valid)
    suppresses = _suppresses(boxes, classes, iou_threshold).float()

    def unsettled(stays: Tensor, before: Tensor) -> Tensor:
        return (stays != before).any()

    def apply_rule(stays: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        fallen = torch.matmul(stays.float()[:, None], suppresses)[:, 0] > 0
        return valid & ~fallen, stays.clone()  # a loop's body may not return what it was given

    state = (valid.clone(), torch.zeros_like(valid))
    if torch.compiler.is_compiling():
        return while_loop(unsettled, apply_rule, state)[0]  # type: ignore[no-untyped-call]
    while unsettled(*state):
        state = apply_rule(*state)
    return state[0]


def _suppresses(
    boxes: Float[Tensor, "b n 4"], classes: Int64[Tensor, "b n"], iou_threshold: float
) -> Bool[Tensor, "b n n"]:
    """Whether the box of a row, if it stays, takes out the box of a column."""
    intersection = intersection_area(boxes[:, :, None], boxes[:, None])
    area = box_area(boxes)
    union = (area[:, :, None] + area[:, None] - intersection).clamp(min=torch.finfo(area.dtype).tiny)
    overlaps = intersection / union > _compared(iou_threshold, area.dtype)
    return (overlaps & (classes[:, :, None] == classes[:, None])).triu(diagonal=1)


def _settle(boxes: Float[Tensor, "n 4"], classes: Int64[Tensor, " n"], iou_threshold: float) -> Int64[Tensor, " k"]:
    """Places of the boxes that stay, of boxes sorted by class and, within a class, by falling score."""
    ends = torch.searchsorted(classes, classes, right=True).cpu().numpy()  # where the class of each box ends
    rest = np.arange(len(boxes))
    staying = [rest[:0]]
    while len(rest):
        rows = rest[:ROWS_AT_ONCE]
        reach = np.searchsorted(rest, ends[rows])  # how many of the rest are of the class of a row, or of one before
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
    """Which of the rows stay, and which of the columns (the rows and what comes after them) fall to one that stays.

    Each row of the matrix is one long integer, a bit for each column up to its reach: a row that stays is one "or".
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
    """Whether torchvision's own kernel is loaded for these tensors; a stand-in written in Python does not count."""
    if not hasattr(torch.ops.torchvision, "nms") or boxes.dtype != scores.dtype or boxes.dtype.itemsize < 4:
        return False
    key = torch._C._dispatch_key_for_device(boxes.device.type)
    return torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", key)


def _compared(iou_threshold: float, dtype: torch.dtype) -> float:
    """The largest number of this precision up to the threshold: to be above one is to be above the other."""
    bits = 24 if dtype == torch.float32 else 53
    mantissa, exponent = math.frexp(iou_threshold)
    return math.ldexp(math.floor(math.ldexp(mantissa, bits)), exponent - bits)


def _check_lengths(shape: torch.Size, **columns: Tensor) -> None:
    for name, column in columns.items():
        if column.shape != shape:
            raise ValueError(f"{name} are one for each box, {tuple(shape)}, got {tuple(column.shape)}")


def _check_threshold(iou_threshold: float) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"need 0 <= iou_threshold <= 1, got {iou_threshold=}")
