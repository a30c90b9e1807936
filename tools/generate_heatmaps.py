"""``detect heatmaps render`` from a checkout: python tools/generate_heatmaps.py instances.json --images images -o out."""

from __future__ import annotations

import sys

from detect.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["heatmaps", "render"]
    main()
