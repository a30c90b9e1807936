"""The labelled points of a batch of images, as many as each image has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor

UNLABELLED, HIDDEN, VISIBLE = 0, 1, 2  # COCO's visibility of a keypoint


@dataclass(frozen=True, eq=False)
class Landmarks:
    """One row for each point, in NumPy or torch alike: where, in which image, of which type.

    ``points`` (n, 2) or (n, 3) are x, y(, z) in the coordinates of their image; ``image`` and ``joint`` (n,) are whole
    numbers from 0, ``joint`` the type of landmark; ``visibility`` (n,) is COCO's: 0 not labelled (the point means nothing),
    1 labelled but hidden, 2 visible.
    """

    points: Array
    image: Array
    joint: Array
    visibility: Array
    num_images: int
    num_joints: int = 1

    @classmethod
    def of(cls, images: Sequence[Array], *, dims: int = 2) -> Landmarks:
        """From one array for each image: (n, dims), all of one type, or (n, j, dims), n instances of j landmarks each.

        A last axis of dims + 1 ends with the visibility, else all are visible.

        >>> Landmarks.of([np.array([[3.0, 4.0], [5.0, 6.0]]), np.zeros((0, 2))]).image
        array([0, 0])

        Raises:
            ValueError: no image, or arrays of another shape.
        """
        if not len(images):
            raise ValueError("need the points of at least one image; of one without points they are of shape (0, 2)")
        tables = [_table(each, dims) for each in images]
        num_joints = tables[0].shape[1]
        if any(table.shape[1] != num_joints for table in tables):
            raise ValueError(f"images differ in landmark types: {[table.shape[1] for table in tables]}")
        counts = [len(table) * num_joints for table in tables]
        image = np.repeat(np.arange(len(tables)), counts)
        joint = np.arange(len(image)) % num_joints
        if isinstance(tables[0], Tensor):
            flat = torch.cat([torch.as_tensor(table) for table in tables]).reshape(-1, dims + 1)
            of_image, of_joint = (torch.from_numpy(each).to(flat.device) for each in (image, joint))
            return cls(flat[:, :dims], of_image, of_joint, flat[:, dims].long(), len(tables), num_joints)
        rows = np.concatenate([np.asarray(table) for table in tables]).reshape(-1, dims + 1)
        return cls(rows[:, :dims], image, joint, rows[:, dims].astype(np.int64), len(tables), num_joints)


def _table(points: Array, dims: int) -> Array:
    """Points (n, j, dims + 1) with their visibility."""
    table = points[:, None] if points.ndim == 2 else points
    if table.ndim != 3 or table.shape[2] not in {dims, dims + 1} or table.shape[1] < 1:
        raise ValueError(
            f"points are (n, {dims}) or (n, j, {dims}), with or without visibility, got {tuple(points.shape)}"
        )
    if table.shape[2] == dims + 1:
        return table
    if isinstance(table, Tensor):
        return torch.cat([table, torch.full_like(table[..., :1], VISIBLE)], dim=2)
    return np.concatenate([table, np.full_like(table[..., :1], VISIBLE)], axis=2)
