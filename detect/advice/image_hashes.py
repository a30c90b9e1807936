"""Hashes of what images are known by, kept within bounds: which images of a dataset, or of two, are the same?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from jaxtyping import Int64, UInt64
from numpy import ndarray

MAX_KEPT = 2**17  # images: all of them up to here, then those of the lowest hashes


@dataclass(frozen=True, eq=False)
class ImageHashes:
    """The hashes of what images are known by, in rising order, and the ids of these images.

    >>> found = ImageHashes.of(["a.jpg", "b.jpg", None], [1, 2, 3]) + ImageHashes.of(["a.jpg"], [4])
    >>> found.ids[np.isin(found.hashes, found.repeated)]
    array([1, 4])
    """

    hashes: UInt64[ndarray, " n"]
    ids: Int64[ndarray, " n"]

    @classmethod
    def of(cls, keys: Sequence[object], ids: Sequence[int]) -> ImageHashes:
        """The hashes of keys; an image whose key is None has no hash."""
        known = [(hash_of(key), number) for key, number in zip(keys, ids, strict=True) if key is not None]
        hashes, numbers = ([each[column] for each in known] for column in (0, 1))
        return cls(np.array(hashes, np.uint64), np.array(numbers, np.int64)).lowest()

    def __add__(self, other: ImageHashes) -> ImageHashes:
        columns = [np.concatenate([getattr(each, name) for each in (self, other)]) for name in ("hashes", "ids")]
        return ImageHashes(*columns).lowest()

    def lowest(self) -> ImageHashes:
        """The images of the lowest hashes, at most ``MAX_KEPT``."""
        rows = np.lexsort((self.ids, self.hashes))[:MAX_KEPT]
        return ImageHashes(self.hashes[rows], self.ids[rows])

    def known_to(self, others: ImageHashes) -> ImageHashes:
        """The images that are among others."""
        rows = np.isin(self.hashes, others.hashes)
        return ImageHashes(self.hashes[rows], self.ids[rows])

    @property
    def repeated(self) -> tuple[int, ...]:
        """The hashes of several images."""
        return tuple(np.unique(self.hashes[1:][self.hashes[1:] == self.hashes[:-1]]).tolist())


def hash_of(key: object) -> int:
    """A hash of 64 bits, the same in every process."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little")
