"""A trained detector's weights for torchvision's ``RetinaNet``.

:func:`detect.interop.weights.convert_weights` translates the tensors; here the detector's build is compared with what
torchvision can build, and its normalisation and anchors, which are no weights, become notes.
"""

from __future__ import annotations

import re
from dataclasses import replace

from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConvertError
from detect.interop.weights import ConvertedWeights, convert_weights

STRIDES = (8, 16, 32, 64, 128)


def torchvision_weights(detector: RetinaNetDetector) -> ConvertedWeights:
    """Name the weights as torchvision's ``RetinaNet`` does, and note the arguments with which it computes the same.

    Raises:
        ConvertError: torchvision has no such network: the backbone is not one of its ResNets, the strides are not 8 to
            128 with P6 and P7 on top, or levels differ in their number of anchors.
    """
    name, strides = detector.backbone.name, tuple(level.stride for level in detector.grid.anchors.levels)
    counts = detector.grid.num_anchors
    if not re.match(r"torchvision:(resnet|resnext|wide_resnet)", name):
        raise ConvertError(f"torchvision's RetinaNet stands on one of its ResNets, this one on {name!r}")
    if strides != STRIDES or detector.backbone.strides != STRIDES[:3]:
        raise ConvertError(
            f"torchvision's RetinaNet has levels of strides {STRIDES}, the first three from the backbone; this "
            f"one has {strides}, and {detector.backbone.strides} from the backbone"
        )
    if len(set(counts)) > 1:
        raise ConvertError(f"torchvision's head has as many anchors on every level, this one {counts}")
    state = {
        re.sub(r"^backbone\.model\.", "backbone.", key): value
        for key, value in detector.state_dict().items()
        if key.startswith(("backbone.", "pyramid.", "head."))
    }
    converted = convert_weights(
        state,
        "torchvision",
        source="ours",
        num_classes=detector.head.num_classes,
        num_sizes=counts[0],
        num_ratios=1,
    )
    return replace(converted, notes=(*converted.notes, *_notes(detector)))


def _notes(detector: RetinaNetDetector) -> tuple[str, str]:
    mean, std = (values.flatten().tolist() for values in (detector.normalise.mean, detector.normalise.std))
    return (
        f"build it with image_mean={mean}, image_std={std}",
        "its anchors: what `detect anchors convert --to torchvision` writes for the anchors of this detector",
    )
