"""What frameworks do to decoded boxes before and after suppression: clip, rescale to the original image, drop empty ones.

``torchvision``
    clip to the input, suppress; then rescale to the original. At most 300 detections.
``detectron2``
    suppress the decoded boxes; then rescale to the original, clip, drop boxes without extent. At most 100.
``mmdet``
    clip to the input, rescale to the original, drop boxes without extent; then suppress. At most 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detect.ops.boxes import to_device

Step = Literal["clip_to_input", "rescale", "clip_to_original", "drop_empty"]
Sizes = Sequence[tuple[int, int]] | Int64[Tensor, "b 2"]

BOX_STEPS: dict[str, tuple[tuple[Step, ...], tuple[Step, ...]]] = {  # before and after suppression
    "torchvision": (("clip_to_input",), ("rescale",)),
    "detectron2": ((), ("rescale", "clip_to_original", "drop_empty")),
    "mmdet": (("clip_to_input", "rescale", "drop_empty"), ()),
}
DETECTIONS_PER_IMAGE: dict[str, int] = {"torchvision": 300, "detectron2": 100, "mmdet": 100}


def take_steps(
    steps: Sequence[Step], boxes: Float[Tensor, "*n 4"], extents: Float[Tensor, "2 *#n 4"]
) -> tuple[Float[Tensor, "*n 4"], Bool[Tensor, "*n"]]:
    """The boxes after these steps, and which of them are kept; ``extents`` are those of :func:`image_extents`.

    >>> extents = image_extents([(10, 20)], [(20, 40)], num_images=1, like=torch.zeros(()))
    >>> boxes = torch.tensor([[[-4.0, 2.0, 6.0, 12.0], [20.0, 0.0, 30.0, 5.0]]])
    >>> take_steps(("clip_to_input", "rescale", "drop_empty"), boxes, extents[:, :, None])
    (tensor([[[ 0.,  4., 12., 20.], [40.,  0., 40., 10.]]]), tensor([[ True, False]]))
    """
    image, original = extents
    valid = torch.ones_like(boxes[..., 0], dtype=torch.bool)
    for step in steps:
        if step == "clip_to_input":
            boxes = boxes.clamp(min=0).minimum(image)
        elif step == "rescale":
            boxes = boxes * (original / image)
        elif step == "clip_to_original":
            boxes = boxes.clamp(min=0).minimum(original)
        else:
            valid = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    return boxes, valid


def image_extents(
    image_hw: Sizes, original_hw: Sizes | None, *, num_images: int, like: Tensor
) -> Float[Tensor, "2 b 4"]:
    """(width, height, width, height) of each image: in the network's input, and originally."""
    both = []
    for name, sizes in (("image_hw", image_hw), ("original_hw", image_hw if original_hw is None else original_hw)):
        hw = to_device(torch.as_tensor(sizes), like.device)
        if hw.shape != (num_images, 2) and (num_images or hw.numel()):  # an empty list is the sizes of no images
            raise ValueError(f"{name} is one height and width for each of {num_images} images, got {tuple(hw.shape)}")
        both.append(hw)
    return torch.stack(both).reshape(2, -1, 2).flip(-1).repeat(1, 1, 2).to(like.dtype)
