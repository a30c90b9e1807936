"""How good predictions are: boxes by pycocotools, points by matching and by OKS."""
