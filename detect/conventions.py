"""The words and axes used everywhere in this package.

Axes in array annotations, one letter each::

    b  images of a batch          c  classes
    n  instances (boxes)          d  channels, or the extents of a shape (2: width, height)
    a  anchors                    j  keypoint types
    l  pyramid levels             h w  rows and columns of cells

Boxes
    Inside the package ``(x0, y0, x1, y1)`` in continuous pixels: pixel i covers [i, i + 1), its centre is i + 0.5.
    In COCO files, and in the columns read from them, ``(x, y, width, height)``.
Shapes
    ``(width, height)`` in pixels after the detector's resize rule. The aspect ratio is height / width, as in
    torchvision, detectron2 and mmdetection.
Sizes
    ``image_wh`` is (width, height), ``image_hw`` is (height, width): a name carries its order. A length carries its
    unit: ``stride_px``, ``sigma_cells``.
Area ranges
    small, medium, large: sqrt(width * height) below 32, from 32 to 96, from 96 pixels after the resize rule (COCO's limits).
Classes
    An index from 0; or ``BACKGROUND``; or ``IGNORE``, which takes no part in the loss.
Keypoints
    A file's coordinates have a ``pixel_origin``: pixel i has its centre at i (``center``) or at i + 0.5 (``corner``);
    ``ORIGIN_SHIFTS`` lead from either to continuous pixels.
Grid
    The anchors of a level lie over its feature map. Cell i of a level with stride s has its anchors' centre at
    (i + center_offset) * s: 0.5 is the middle of the cell; torchvision, detectron2 and mmdetection use 0, its corner.
"""

SMALL_MEDIUM_PX = 32.0  # COCO's area limits 32**2 and 96**2, pycocotools.cocoeval.Params
MEDIUM_LARGE_PX = 96.0

BACKGROUND = -1
IGNORE = -2

ORIGIN_SHIFTS = {"center": 0.5, "corner": 0.0}

TYPE_COLORS = ("#ffd43b", "#4dabf7", "#ff6b6b", "#69db7c", "#da77f2", "#ffa94d")  # visible on dark and on bright images
