"""How evenly the categories of a run share its positive anchors: known before the first step."""

from __future__ import annotations

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import assign
from detect.anchors.grid import AnchorGrid
from detect.anchors.instances import ResizedInstances
from detect.coco import CocoDataset
from detect.resize import parse_resize
from detect.training.config import TrainConfig
from detect.training.inputs import hold_out
from detect.training.model import matching_rule

LOOKED_AT = 200  # images


def neglect_note(config: TrainConfig, anchors: AnchorSet, dataset: CocoDataset) -> str | None:
    """What to tell of categories that learn from few anchors, None where there are none; of ``LOOKED_AT`` images.

    >>> from detect.coco import read_coco
    >>> from detect.samples import sample_annotations
    >>> from detect.training.config import parse_config
    >>> given = {"train": ["unused"], "images": "unused", "resize": "stretch:320x240"}
    >>> config, anchors = parse_config({"task": "boxes", "data": given}), AnchorSet.of([[(20, 20), (50, 50)]], strides=[8])
    >>> note = neglect_note(config, anchors, read_coco(sample_annotations("bccd")))
    >>> note.split(";")[0]
    'unevenly shared: Platelets 1.6, but WBC 34.4 positive anchors a box'
    """
    share = min(LOOKED_AT / max(len(dataset.images), 1), 1.0)
    instances = ResizedInstances.of(hold_out(dataset, share)[1], parse_resize(config.data.resize))
    return assign(instances, AnchorGrid(anchors), matching_rule(config)).neglect_in_words()
