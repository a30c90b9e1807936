"""COCO annotations, the only folder that opens annotation files: entries as they stand, columns, checks, one dataset."""

from detect.data.coco_dataset import CocoDataset, read_coco
from detect.data.coco_entries import Annotations, Finding, Images
from detect.data.coco_results import CocoResults, read_results

__all__ = ["Annotations", "CocoDataset", "CocoResults", "Finding", "Images", "read_coco", "read_results"]
