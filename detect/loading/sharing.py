"""Work that the processes of ``torch.distributed`` share. Without it, or with one process, all work is one's own.

Every process of a run calls each of these functions, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from torch import distributed

from detect.errors import DetectError

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """The rank of this process, from 0, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def own_share(count: int) -> range:
    """The numbers below ``count`` that this process takes; each number belongs to exactly one process.

    >>> own_share(3)
    range(0, 3)
    """
    rank, num_processes = rank_and_count()
    return range(rank, count, num_processes)


def gather(own: Sequence[T]) -> list[T]:
    """Collect the items of all processes, ordered by rank, in the main process; the others get an empty list.

    >>> gather([1, 2])
    [1, 2]
    """
    rank, num_processes = rank_and_count()
    if num_processes == 1:
        return list(own)
    parts: list[Any] | None = [None] * num_processes if rank == 0 else None
    distributed.gather_object(list(own), parts)
    return [item for part in parts or () for item in part]


def from_main(make: Callable[[], T]) -> T:
    """Make something in the main process and give it to all; a DetectError that it raises there is raised in all.

    >>> from_main(lambda: 3)
    3
    """
    rank, num_processes = rank_and_count()
    if num_processes == 1:
        return make()
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            answer[0] = make()
        except DetectError as error:
            answer[1] = error
    distributed.broadcast_object_list(answer)
    made, failure = answer
    if failure is not None:
        raise failure
    return cast(T, made)
