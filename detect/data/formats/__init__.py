"""Label formats other than COCO: readers into :class:`LabelRows`, and writers."""
