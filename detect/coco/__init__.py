"""COCO annotations, the only folder that opens annotation files: entries as they stand, columns, checks, one dataset."""

from detect.coco.columns import Annotations, Images
from detect.coco.dataset import CocoDataset, read_coco
from detect.coco.entries import Finding
from detect.coco.results import CocoResults, read_results

__all__ = ["Annotations", "CocoDataset", "CocoResults", "Finding", "Images", "read_coco", "read_results"]
