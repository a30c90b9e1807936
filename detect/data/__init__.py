"""COCO annotations: entries of files, columns, checks, and the dataset. Only this folder opens annotation files."""

from detect.data.coco_columns import Annotations, Images
from detect.data.coco_dataset import CocoDataset, read_coco
from detect.data.coco_entries import Finding
from detect.data.coco_results import CocoResults, read_results

__all__ = ["Annotations", "CocoDataset", "CocoResults", "Finding", "Images", "read_coco", "read_results"]
